"""The iterations that several methods share: against closed forms and torch's own."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from graphfsl.functional.adam import adam_step
from graphfsl.functional.conjugate_gradients import conjugate_gradients, identity
from graphfsl.functional.fista import fista
from graphfsl.functional.newton import damping

N = 6


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def positive(batch: int, seed: int = 0) -> Tensor:
    root = normal(batch, N, N, seed=seed)
    return root @ root.mT + torch.eye(N)


def inner(u: Tensor, v: Tensor) -> Tensor:
    return (u * v).sum(-1, keepdim=True)


# ------------------------------------------------------------------------------ conjugate gradients


def test_as_many_steps_as_unknowns_solve_a_system() -> None:
    a, b = positive(3), normal(3, N, seed=1)
    found = conjugate_gradients(lambda p, _: (a @ p[..., None])[..., 0], b, N, 1e-12, inner)
    torch.testing.assert_close(found, torch.linalg.solve(a, b))


def test_systems_do_not_meet_and_rest_once_they_are_solved() -> None:
    """An easy system beside a hard one is solved as it is alone, and nothing is divided by zero."""
    a, b = positive(2), normal(2, N, seed=1)
    a[0], b[0] = torch.eye(N), torch.arange(1.0, N + 1)
    zero = torch.zeros(1, N).double()

    def solved(a: Tensor, b: Tensor, may_stop: bool) -> Tensor:
        def apply(p: Tensor, _: Tensor) -> Tensor:
            return (a @ p[..., None])[..., 0]

        return conjugate_gradients(apply, b, 40, 1e-12, inner, may_stop=may_stop)

    for may_stop in (False, True):
        both = solved(a, b, may_stop)
        assert torch.equal(both[0], b[0])
        for i in (0, 1):
            torch.testing.assert_close(
                both[i : i + 1], solved(a[i : i + 1], b[i : i + 1], may_stop)
            )
        assert torch.equal(solved(a[:1], zero, may_stop), zero)


def test_a_solver_ends_when_all_systems_rest() -> None:
    calls = []

    def apply(p: Tensor, _: Tensor) -> Tensor:
        calls.append(1)
        return 2 * p

    found = conjugate_gradients(apply, torch.ones(3, N), 50, 1e-6, inner, may_stop=True)
    assert len(calls) == 1 and torch.equal(found, torch.full((3, N), 0.5))


def test_a_system_may_be_symmetric_in_another_inner_product() -> None:
    """A = Q^-1 B with symmetric B and Q is symmetric in <u, Q v>."""
    q, symmetric, b = positive(1)[0], positive(1, seed=3)[0], normal(N, seed=1)
    a = torch.linalg.solve(q, symmetric)
    found = conjugate_gradients(lambda p, _: a @ p, b, N, 1e-12, inner, lambda r: q @ r)
    torch.testing.assert_close(found, torch.linalg.solve(a, b))
    assert identity(b) is b


# -------------------------------------------------------------------------------------------- FISTA


def test_fista_finds_the_lasso() -> None:
    """min |x - a|^2 / 2 D + lam |x|_1 with diagonal D shrinks each coordinate by itself."""
    d, a, lam = torch.tensor([1.0, 0.3, 0.1, 0.02]), torch.tensor([2.0, -3.0, 0.5, 8.0]), 0.1

    def proximal_step(z: Tensor) -> Tensor:
        moved = z - d * (z - a)
        return moved.sign() * (moved.abs() - lam).clamp_min(0)

    expected = a.sign() * (a.abs() - lam / d).clamp_min(0)
    torch.testing.assert_close(
        fista(proximal_step, torch.zeros(4), 400), expected, rtol=0, atol=1e-3
    )


def test_fista_is_faster_than_plain_steps() -> None:
    d = torch.tensor([1.0, 0.01])

    def step(z: Tensor) -> Tensor:
        return z - d * z

    plain = torch.ones(2)
    for _ in range(50):
        plain = step(plain)
    assert fista(step, torch.ones(2), 50).norm() < 0.3 * plain.norm()
    assert torch.equal(fista(step, torch.ones(2), 1), step(torch.ones(2)))


# ---------------------------------------------------------------------------------- Newton and Adam


@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0])
def test_a_damped_newton_step_never_overshoots(scale: float) -> None:
    """On log-sum-exps less a linear function, which full steps may raise."""
    for seed in range(20):
        rows, target = scale * normal(8, 3, seed=seed), torch.full((8,), 0.125).double()

        def value(v: Tensor, rows: Tensor = rows, target: Tensor = target) -> Tensor:
            return (rows @ v).logsumexp(0) - target @ rows @ v

        v = normal(3, seed=seed + 50)
        gradient = torch.func.grad(value)(v)
        hessian = torch.func.hessian(value)(v) + 1e-12 * torch.eye(3)
        delta = -torch.linalg.solve(hessian, gradient)
        move = rows @ delta
        damped = v + damping(move.amax() - move.amin()) * delta
        assert value(damped) <= value(v) + 1e-9
    assert float(damping(torch.tensor(0.0))) == pytest.approx(1)
    assert float(damping(torch.tensor(3.0))) == pytest.approx(math.log(4) / 3)


def test_adam_steps_are_torchs() -> None:
    parameter = torch.nn.Parameter(normal(4, 3))
    optimizer = torch.optim.Adam([parameter], 0.1)
    x = parameter.detach().clone()
    first = second = torch.zeros_like(x)
    for step in range(1, 12):
        gradient = (3 * x).sin() + x
        parameter.grad = gradient.clone()
        optimizer.step()
        x, first, second = adam_step(x, gradient, first, second, step, 0.1)
        torch.testing.assert_close(x, parameter.detach())
