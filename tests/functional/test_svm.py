"""The SVM of Crammer and Singer against scikit-learn, by its optimality, and its derivatives."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from sklearn.svm import LinearSVC
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from graphfsl.functional.svm import crammer_singer
from tests.support.linear_classifiers import SHAPES, check_gradient, random, support


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(
    ("way", "shot", "dim", "unit", "c"),
    [(5, 1, 64, True, 0.1), (5, 5, 64, True, 0.1), (5, 5, 64, False, 0.1), (5, 5, 64, True, 10.0),
     (5, 10, 16, True, 0.1), (20, 5, 160, True, 0.1)],
)  # fmt: skip
@pytest.mark.parametrize("grad", [False, True], ids=["no_grad", "grad"])
def test_crammer_singer_is_that_of_scikit_learn(
    way: int, shot: int, dim: int, unit: bool, c: float, dtype: torch.dtype, grad: bool
) -> None:
    z, w, query = support(2, way, shot, dim, unit, dtype)
    with torch.set_grad_enabled(grad):
        coef = crammer_singer(z, w, c)
    for i in range(2):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reference = LinearSVC(
                multi_class="crammer_singer",
                fit_intercept=False,
                C=c,
                tol=1e-7,
                max_iter=20_000,
                random_state=0,
            ).fit(z[i].double().numpy(), w[i].argmax(-1).numpy())
        want = query[i].double() @ torch.tensor(reference.coef_).T
        torch.testing.assert_close((query[i] @ coef[i].T).double(), want, atol=1e-3, rtol=0)


def primal(z: Tensor, w: Tensor, coef: Tensor, c: float) -> Tensor:
    """(B,) the objective of Crammer and Singer."""
    z, w, coef = z.double(), w.double(), coef.double()
    weight, absent = w.sum(-1), (w.sum(1) == 0)[:, None]
    y = w / weight.where(weight > 0, 1).unsqueeze(-1)
    f = z @ coef.mT
    loss = (1 - y + f).masked_fill(absent, float("-inf")).amax(-1) - (y * f).sum(-1)
    return 0.5 * coef.square().sum((1, 2)) + c * (weight * loss).sum(1)


def of_size(batch: int, way: int, shot: int, dim: int, square: float) -> Any:
    """Nodes of this squared norm, as an encoder gives them in training, one-hot weights, other
    nodes.
    """
    z, w, query = support(batch, way, shot, dim)
    return z * square**0.5, w, query * square**0.5


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(
    ("way", "shot", "dim", "square", "c"),
    [(20, 5, 640, 1862.0, 0.1), (60, 1, 64, 100.0, 0.1), (5, 5, 64, 1e5, 0.1), (5, 5, 64, 1e5, 1.0)],  # noqa: E501
)  # fmt: skip
def test_crammer_singer_at_the_sizes_of_training(
    way: int, shot: int, dim: int, square: float, c: float, dtype: torch.dtype
) -> None:
    z, w, query = of_size(1, way, shot, dim, square)
    with torch.no_grad():
        coef = crammer_singer(z.to(dtype), w.to(dtype), c)
    assert torch.equal(
        coef, crammer_singer(z.to(dtype), w.to(dtype).clone().requires_grad_(), c)
    ), "in training"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reference = LinearSVC(
            multi_class="crammer_singer",
            fit_intercept=False,
            C=c,
            tol=1e-7,
            max_iter=5000,
            random_state=0,
        ).fit(z[0].numpy(), w[0].argmax(-1).numpy())
    theirs = torch.tensor(reference.coef_)[None]
    least = primal(z, w, theirs, c)
    assert primal(z, w, coef, c) <= least * (1 + 1e-6) + (
        1e-6 * c * z.shape[1] if dtype == torch.float32 else 0
    )
    ours, want = query.double() @ coef.double().mT, query @ theirs.mT
    torch.testing.assert_close(ours, want, atol=3e-4, rtol=0)
    assert torch.equal(ours.argmax(-1), want.argmax(-1))


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e2, 1e4], ids=str)
@pytest.mark.parametrize("c", [0.1, 10.0])
@SHAPES
def test_crammer_singer_takes_features_of_any_size(
    n: int, dim: int, c: float, scale: float
) -> None:
    """Soft weights, an absent class and padding; float32 is rounded after the solution, not in
    it.
    """
    z, w = (t.float() for t in random(2, n, dim, 3))
    z = (scale * z).requires_grad_()
    coef = crammer_singer(z, w, c)
    exact = crammer_singer(z.double(), w.double(), c)
    torch.testing.assert_close(coef.double(), exact, rtol=0, atol=1e-6 * float(exact.abs().max()))
    (gradient,) = torch.autograd.grad(coef.square().sum(), z)
    assert torch.isfinite(gradient).all()
    least = primal(z, w, exact, c)
    for factor in (1 - 1e-3, 1 + 1e-3):
        assert (primal(z, w, factor * exact, c) > least).all()


@SHAPES
def test_crammer_singer_is_the_minimum_for_soft_labels(n: int, dim: int) -> None:
    """SLSQP on the primal with slacks, for every task."""
    z, w = random(2, n, dim, 3)
    found = primal(z, w, crammer_singer(z, w, 0.5), 0.5)
    for i in range(2):
        here = (w[i].sum(0) > 0).numpy()
        weight, x = w[i].sum(-1).numpy(), z[i].numpy()
        y = (w[i] / w[i].sum(-1, keepdim=True).clamp_min(1e-12)).numpy()[:, here]
        way = int(here.sum())

        def slacks(v: Any, way: int = way, x: Any = x, y: Any = y) -> Any:
            coef, xi = v[: way * dim].reshape(way, dim), v[way * dim :]
            f = x @ coef.T
            return (xi[:, None] - (1 - y + f - (y * f).sum(-1, keepdims=True))).ravel()

        def objective(v: Any, way: int = way, weight: Any = weight) -> float:
            return float(0.5 * (v[: way * dim] ** 2).sum() + 0.5 * weight @ v[way * dim :])

        start = np.concatenate([np.zeros(way * dim), np.ones(len(x))])
        best = minimize(
            objective,
            start,
            method="SLSQP",
            constraints={"type": "ineq", "fun": slacks},
            options={"maxiter": 500, "ftol": 1e-12},
        )
        assert abs(float(found[i]) - best.fun) < 1e-5 * best.fun


@pytest.mark.parametrize("scale", [1.0, 30.0], ids=str)
def test_the_gradient_at_identical_nodes_is_that_of_one_node_of_twice_the_weight(
    scale: float,
) -> None:
    z, w, _ = support(1, 5, 2, 16)
    z, direction = (
        scale * z,
        torch.randn(1, 5, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1)),
    )

    def gradient(z: Tensor, w: Tensor) -> Tensor:
        z = z.requires_grad_()
        return torch.autograd.grad((crammer_singer(z, w, 10.0) * direction.to(z)).sum(), z)[0]

    once = gradient(z.clone(), 2 * w)
    for dtype, rtol in ((torch.float64, 1e-6), (torch.float32, 1e-3)):
        twice = gradient(torch.cat([z, z], 1).to(dtype), torch.cat([w, w], 1).to(dtype)).double()
        first, second = twice.chunk(2, 1)
        torch.testing.assert_close(
            first + second, once, rtol=0, atol=rtol * float(once.abs().max())
        )
        torch.testing.assert_close(first, second, rtol=0, atol=0.05 * float(once.abs().max()))


@pytest.mark.parametrize(("way", "shot", "square"), [(20, 5, 1862.0), (5, 5, 1.0), (5, 5, 1e4)])
def test_the_gradient_at_the_sizes_of_training_is_that_of_finite_differences(
    way: int, shot: int, square: float
) -> None:
    z, w, _ = of_size(1, way, shot, 64, square)
    g = torch.Generator().manual_seed(2)
    goal = torch.randn(1, way, 64, generator=g, dtype=torch.float64)
    moves = [torch.randn(z.shape, generator=g, dtype=torch.float64) for _ in range(3)]
    at = z.clone().requires_grad_()
    (gradient,) = torch.autograd.grad((crammer_singer(at, w) * goal).sum(), at)
    for move in moves:
        ahead, behind = ((crammer_singer(z + h * move, w) * goal).sum() for h in (1e-6, -1e-6))
        slope = float((gradient * move).sum())
        assert abs(float(ahead - behind) / 2e-6 - slope) < 1e-4 * float(gradient.norm())


def test_crammer_singer_under_vmap_on_meta_and_on_fake_tensors() -> None:
    z, w, _ = support(2, 3, 2, 8)
    stacked = torch.stack([z, 2 * z])
    got = torch.func.vmap(crammer_singer, in_dims=(0, None))(stacked, w)
    want = torch.stack([crammer_singer(z, w), crammer_singer(2 * z, w)])
    torch.testing.assert_close(got, want)

    def size(z: Tensor) -> Tensor:
        return crammer_singer(z, w).square().sum()

    each = torch.func.vmap(torch.func.grad(size))(stacked)
    torch.testing.assert_close(
        each, torch.stack([torch.func.grad(size)(z), torch.func.grad(size)(2 * z)])
    )
    assert crammer_singer(z.to("meta"), w.to("meta")).shape == want.shape[1:]
    with FakeTensorMode(), torch.device("cuda"):
        assert crammer_singer(torch.empty(z.shape), torch.empty(w.shape)).device.type == "cuda"


@SHAPES
def test_crammer_singer_has_derivatives(n: int, dim: int) -> None:
    check_gradient(lambda z, w: crammer_singer(z, w, 0.2), *random(2, n, dim, 3), second=True)
