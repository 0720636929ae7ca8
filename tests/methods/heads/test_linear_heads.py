"""Heads that fit a linear classifier to each support, against scikit-learn, closed forms, loops and
KKT conditions.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.svm import LinearSVC
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from graphfsl.core.episode import Episode
from graphfsl.functional.logistic_regression import logistic_regression
from graphfsl.functional.ridge import ridge
from graphfsl.functional.svm import crammer_singer
from graphfsl.io.errors import InputError
from graphfsl.methods.heads.baseline import Baseline, BaselinePlusPlus
from graphfsl.methods.heads.metaoptnet import MetaOptNet
from graphfsl.methods.heads.r2d2 import R2D2
from graphfsl.methods.heads.rfs import RFS
from tests.support.cases import episodes, learner


def support(
    batch: int, way: int, shot: int, dim: int, unit: bool = True, dtype: Any = torch.float64
) -> Any:
    """Nodes (B, n, d) around class means, one-hot weights (B, n, C), other nodes (B, m, d)."""
    g = torch.Generator().manual_seed(way * 1000 + shot * 100 + dim)
    mean = 0.3 * torch.randn(batch, way, 1, dim, generator=g, dtype=torch.float64)
    x = (mean + torch.randn(batch, way, shot + 3, dim, generator=g, dtype=torch.float64)).to(dtype)
    x = F.normalize(x, dim=-1) if unit else x
    w = torch.eye(way, dtype=dtype).repeat_interleave(shot, 0).expand(batch, -1, -1).contiguous()
    return x[:, :, :shot].flatten(1, 2), w, x[:, :, shot:].flatten(1, 2)


def random(batch: int, n: int, dim: int, way: int) -> tuple[Tensor, Tensor]:
    """Small nodes and soft label weights; class way - 1 is absent from task 1, whose last node is
    padding.
    """
    g = torch.Generator().manual_seed(n * 10 + dim)
    z = torch.randn(batch, n, dim, generator=g, dtype=torch.float64)
    w = torch.rand(batch, n, way, generator=g, dtype=torch.float64)
    z[0, 1] = z[0, 0]
    w[1, :, way - 1] = w[1, n - 1] = 0
    return z, w


SHAPES = pytest.mark.parametrize(("n", "dim"), [(5, 7), (7, 2)], ids=["n<=d", "n>d"])

# ------------------------------------------------------------------------------------------------
# logistic regression


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(
    ("way", "shot", "dim", "unit", "c"),
    [(5, 1, 64, True, 1.0), (5, 5, 64, True, 1.0), (20, 5, 160, True, 1.0), (5, 5, 64, True, 10.0),
     (5, 5, 64, False, 1.0), (5, 20, 8, False, 1.0), (2, 5, 64, True, 1.0)],
)  # fmt: skip
def test_logistic_regression_is_that_of_scikit_learn(
    way: int, shot: int, dim: int, unit: bool, c: float, dtype: torch.dtype
) -> None:
    z, w, query = support(2, way, shot, dim, unit, dtype)
    with torch.no_grad():
        coef, bias = logistic_regression(z, w, c)
    for i in range(2):
        # Of two classes scikit-learn fits the difference v = W_1 - W_0, and 1/2 ||W||^2 is 1/4
        # ||v||^2.
        reference = LogisticRegression(C=2 * c if way == 2 else c, max_iter=10_000, tol=1e-9)
        reference.fit(z[i].double().numpy(), w[i].argmax(-1).numpy())
        sides = (
            torch.tensor([[-0.5], [0.5]], dtype=torch.float64)
            if way == 2
            else torch.ones(1, 1).double()
        )
        want, offset = (
            sides * torch.tensor(reference.coef_),
            sides[:, 0] * torch.tensor(reference.intercept_),
        )
        torch.testing.assert_close(coef[i].double(), want, atol=1e-4, rtol=0)
        torch.testing.assert_close(bias[i].double(), offset, atol=1e-4, rtol=0)
        scores = query[i].double() @ want.T + offset
        torch.testing.assert_close(
            (query[i] @ coef[i].T + bias[i]).double(), scores, atol=2e-4, rtol=0
        )
        assert abs(bias[i].sum()) < 1e-5


def test_logistic_regression_honours_weights() -> None:
    z, w, _ = support(1, 3, 4, 16)
    sample = torch.linspace(0.1, 3, 12, dtype=torch.float64)
    coef, _ = logistic_regression(z, w * sample[:, None])
    reference = LogisticRegression(C=1.0, max_iter=10_000, tol=1e-10)
    reference.fit(z[0].numpy(), w[0].argmax(-1).numpy(), sample.numpy())
    torch.testing.assert_close(coef[0], torch.tensor(reference.coef_), atol=1e-6, rtol=0)


@SHAPES
@pytest.mark.parametrize("c", [1.0, 1e3])
def test_logistic_regression_has_no_gradient_left(n: int, dim: int, c: float) -> None:
    z, w = random(2, n, dim, 3)
    coef, bias = logistic_regression(3 * z, w, c, steps=40)
    f = (3 * z @ coef.mT + bias[:, None]).masked_fill((w.sum(1) == 0)[:, None], float("-inf"))
    error = w.sum(-1, keepdim=True) * f.softmax(-1) - w
    assert (coef / c + error.mT @ (3 * z)).abs().max() < 1e-9
    assert error.sum(1).abs().max() < 1e-9
    assert (coef[1, 2] == 0).all() and bias[1, 2] == 0


@SHAPES
def test_logistic_regression_has_first_and_second_derivatives(n: int, dim: int) -> None:
    check(
        lambda z, w: logistic_regression(z, w, steps=8, inner=10),
        *random(2, n, dim, 3),
        second=True,
    )


def check(function: Callable[..., Any], z: Tensor, w: Tensor, second: bool = False) -> None:
    seen = w > 0  # a label that is not there stays so
    z, w = z.requires_grad_(), w.requires_grad_()
    assert torch.autograd.gradcheck(lambda z, w: function(z, w * seen), (z, w), fast_mode=True)
    if second:
        assert torch.autograd.gradgradcheck(
            lambda z, w: function(z, w * seen), (z, w), fast_mode=True
        )


SOLVERS = pytest.mark.parametrize(
    "solve",
    [
        lambda z, w: logistic_regression(z, w)[0],
        lambda z, w: ridge(z, w, torch.tensor(0.5).to(z)),
        crammer_singer,
    ],
    ids=["logistic_regression", "ridge", "crammer_singer"],
)


@SOLVERS
@SHAPES
def test_padding_and_empty_tasks_change_nothing(
    solve: Callable[..., Tensor], n: int, dim: int
) -> None:
    z, w = random(2, n, dim, 3)
    alone = solve(z, w)
    more_z, more_w = F.pad(z, (0, 0, 0, 3), value=100.0), F.pad(w, (0, 0, 0, 3))
    torch.testing.assert_close(solve(more_z, more_w), alone, atol=1e-8, rtol=1e-8)
    z = torch.cat([z, z[:1]]).requires_grad_()
    found = solve(z, torch.cat([w, 0 * w[:1]]))
    torch.testing.assert_close(found[:2], alone, atol=1e-8, rtol=1e-8)
    assert (found[2] == 0).all()
    found.square().sum().backward()
    assert torch.isfinite(z.grad).all() and (z.grad[2] == 0).all()


@SOLVERS
def test_a_node_twice_is_a_node_of_weight_two(solve: Callable[..., Tensor]) -> None:
    z, w, _ = support(2, 3, 2, 8)
    twice = solve(torch.cat([z, z], 1), torch.cat([w, w], 1))
    torch.testing.assert_close(twice, solve(z, 2 * w), atol=1e-7, rtol=1e-6)


# -------------------------------------------------------------------------------------------- ridge


@pytest.mark.parametrize("dim", [3, 30])
def test_ridge_is_that_of_scikit_learn(dim: int) -> None:
    z, w, _ = support(2, 3, 4, dim, unit=False)
    sample = torch.linspace(0.1, 3, 12, dtype=torch.float64)
    found = ridge(z, w * sample[:, None], torch.tensor(0.7, dtype=torch.float64))
    for i in range(2):
        reference = Ridge(0.7, fit_intercept=False).fit(z[i].numpy(), w[i].numpy(), sample.numpy())
        torch.testing.assert_close(found[i], torch.tensor(reference.coef_), atol=1e-9, rtol=1e-9)


@SHAPES
def test_ridge_has_derivatives(n: int, dim: int) -> None:
    penalty = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    check(lambda z, w: ridge(z, w, penalty), *random(2, n, dim, 3), second=True)
    z, w = random(2, n, dim, 3)
    assert torch.autograd.gradcheck(lambda p: ridge(z, w, p), (penalty,))


# ---------------------------------------------------------------------------------------------- SVM


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
    check(lambda z, w: crammer_singer(z, w, 0.2), *random(2, n, dim, 3), second=True)


# -------------------------------------------------------------------------------------------- heads


def features(way: int = 3, shot: int = 2, dim: int = 8) -> Episode:
    z, w, query = support(2, way, shot, dim)
    return Episode(
        torch.cat([z, query], 1), F.pad(w, (0, 0, 0, query.shape[1])), z.shape[1], query.shape[1]
    )


HEADS = (RFS(), R2D2(), MetaOptNet(), Baseline(epochs=10), BaselinePlusPlus(epochs=10))


def test_metaoptnet_is_the_svm_of_the_authors_price() -> None:
    """C 0.1 and gamma 1 where none is given."""
    episode = features(5, 5, 16)
    support, weight = episode.x[:, episode.support], episode.w[:, episode.support]
    want = episode.x @ crammer_singer(support, weight, 0.1).mT
    torch.testing.assert_close(MetaOptNet().double().score(episode), want)
    assert (want - episode.x @ crammer_singer(support, weight, 1.0).mT).abs().max() > 0.1


def test_r2d2_is_ridge_regression_with_a_constant_feature() -> None:
    """Equations 6 and 7: the constant is regularised with the rest, so that it is no free
    intercept.
    """
    episode = features()
    episode = episode.replace(x=episode.x + 2, w=episode.w, relabeled=False)
    found = R2D2(lamda=0.5, alpha=3.0).double().score(episode)
    for b in range(2):
        z = torch.cat([episode.x[b], torch.ones(episode.x.shape[1], 1).double()], 1)
        ours = Ridge(alpha=0.5, fit_intercept=False, tol=1e-12)
        ours.fit(z[episode.support], episode.w[b, episode.support])
        torch.testing.assert_close(
            found[b], 3 * torch.from_numpy(ours.predict(z)), atol=1e-5, rtol=1e-5
        )


def test_r2d2_begins_with_the_constants_of_the_authors() -> None:
    """lambda 50 and alpha 10, in the answer and not only by name."""
    episode = features()
    torch.testing.assert_close(
        R2D2().double().score(episode), R2D2(lamda=50, alpha=10).double().score(episode)
    )
    assert (
        R2D2().double().score(episode) - R2D2(lamda=1.0).double().score(episode)
    ).abs().max() > 0.1


def test_rfs_is_the_regression_of_the_authors() -> None:
    """By default scikit-learn's LogisticRegression(C=1) on features of length 1, whatever length
    they had.
    """
    episode = features()
    episode = episode.replace(
        x=episode.x * torch.linspace(0.1, 20, episode.x.shape[1])[:, None], w=episode.w
    )
    found = RFS().double().score(episode)
    for b in range(2):
        z = F.normalize(episode.x[b], dim=-1).numpy()
        theirs = LogisticRegression(C=1.0, tol=1e-10, max_iter=10000)
        theirs.fit(z[episode.support], episode.w[b, episode.support].argmax(-1).numpy())
        log_p = torch.from_numpy(theirs.predict_log_proba(z))
        torch.testing.assert_close(found[b].log_softmax(-1), log_p, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "shot", "length"),
    [({}, 100, 1.0), ({"normalize": False}, 20, 20.0)],
    ids=["many shots", "long features"],
)
def test_rfs_is_solved_where_logits_are_large(
    options: dict[str, Any], shot: int, length: float
) -> None:
    """At the minimum no gradient is left, whether many shots or long features let the logits
    grow.
    """
    both, head = features(5, shot, 64), RFS(**options).double()
    episode = Episode(
        length * both.x[:1], both.w[:1], both.n_support, both.n_query, relabeled=False
    )
    z = F.normalize(episode.x, dim=-1) if head.normalize else episode.x
    support, w = z[:, episode.support], episode.w[:, episode.support]
    with torch.no_grad():
        found = head.score(episode)
        weight, bias = logistic_regression(support, w, steps=30, inner=30)
    error = (support @ weight.mT + bias.unsqueeze(1)).softmax(-1) - w
    assert (weight + error.mT @ support).abs().max() < 1e-9 and error.sum(1).abs().max() < 1e-9
    torch.testing.assert_close(found, z @ weight.mT + bias.unsqueeze(1), atol=1e-4, rtol=0)


@pytest.mark.parametrize("head", HEADS, ids=lambda h: type(h).__name__)
def test_reading_the_support_alone_changes_nothing(head: Any) -> None:
    episode, head = features(), head.double()
    torch.testing.assert_close(
        head.score(episode), head.score(episode.replace(relabeled=False)), atol=1e-9, rtol=0
    )


def test_baseline_descends_as_torch_does() -> None:
    """Full batches, zero weights: torch.optim.SGD on a linear layer, bias decayed too."""
    episode = features()
    for i in range(2):
        z, y = episode.x[i, : episode.n_support], episode.w[i, : episode.n_support]
        layer = torch.nn.Linear(8, 3).double()
        torch.nn.init.zeros_(layer.weight), torch.nn.init.zeros_(layer.bias)
        optimizer = torch.optim.SGD(
            layer.parameters(), 0.01, momentum=0.9, dampening=0.9, weight_decay=0.001
        )
        for _ in range(2 * 30):  # six nodes in batches of four
            optimizer.zero_grad()
            F.cross_entropy(layer(z), y).backward()
            optimizer.step()
        found = Baseline(epochs=30).double().score(episode)[i]
        torch.testing.assert_close(found, layer(episode.x[i]), atol=1e-12, rtol=1e-12)


def test_the_baselines_weigh_nodes_and_classes_by_their_labels() -> None:
    """Half a label counts half, a soft one for several classes: the weighted mean of torch's
    cross-entropies.
    """
    episode = features()
    w = (
        episode.w[:, : episode.n_support]
        * torch.linspace(0.2, 2, episode.n_support, dtype=torch.float64)[:, None]
    )
    w[:, 0, 1] = 0.7
    soft = episode.replace(w=F.pad(w, (0, 0, 0, episode.n_query)), relabeled=False)
    for i in range(2):
        z, y = episode.x[i, : episode.n_support], w[i]
        v = torch.zeros(3, 8, dtype=torch.float64, requires_grad=True)
        bias = torch.zeros(3, dtype=torch.float64, requires_grad=True)
        unit = F.normalize(z, dim=-1)
        direction = (y.T @ unit / y.sum(0)[:, None]).requires_grad_()
        g = torch.full((3, 1), 3**-0.5, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.SGD(
            [v, bias, direction, g], 0.01, momentum=0.9, dampening=0.9, weight_decay=0.001
        )
        for _ in range(2 * 10):
            optimizer.zero_grad()
            logits = z @ v.T + bias, 2 * unit @ (g * F.normalize(direction, dim=-1)).T
            sum(-(y * f.log_softmax(-1)).sum() / y.sum() for f in logits).backward()
            optimizer.step()
        found = Baseline(epochs=10).double().score(soft)[i]
        torch.testing.assert_close(found, episode.x[i] @ v.T + bias, atol=1e-10, rtol=1e-10)
        found = BaselinePlusPlus(epochs=10).score(soft)[i]
        want = 2 * F.normalize(episode.x[i], dim=-1) @ (g * F.normalize(direction, dim=-1)).T
        torch.testing.assert_close(found, want, atol=1e-10, rtol=1e-10)


def test_baseline_plus_plus_descends_as_torch_does() -> None:
    episode = features()
    for i in range(2):
        z, y = (
            F.normalize(episode.x[i, : episode.n_support], dim=-1),
            episode.w[i, : episode.n_support],
        )
        v = (y.T @ z / y.sum(0)[:, None]).requires_grad_()
        g = torch.full((3, 1), 3**-0.5, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.SGD([v, g], 0.01, momentum=0.9, dampening=0.9, weight_decay=0.001)
        for _ in range(2 * 30):
            optimizer.zero_grad()
            F.cross_entropy(2 * z @ (g * F.normalize(v, dim=-1)).T, y).backward()
            optimizer.step()
        found = BaselinePlusPlus(epochs=30).score(episode)[i]
        want = 2 * F.normalize(episode.x[i], dim=-1) @ (g * F.normalize(v, dim=-1)).T
        torch.testing.assert_close(found, want, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize(
    "make",
    [lambda: RFS(C=0), lambda: R2D2(lamda=0), lambda: MetaOptNet(C=-1), lambda: Baseline(lr=0),
     lambda: BaselinePlusPlus(scale=0)],
)  # fmt: skip
def test_bad_options_are_refused(make: Callable[[], Any]) -> None:
    with pytest.raises(InputError, match="above 0"):
        make()


def test_meta_learned_heads_teach_the_encoder() -> None:
    for head in ("r2d2", "metaoptnet", "rfs"):
        model = learner(head=head).train()
        model.loss(*episodes()).backward()
        assert model.encoder.conv.weight.grad.abs().sum() > 0
