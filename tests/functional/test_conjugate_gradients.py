"""Conjugate gradients: many systems at once, against closed forms."""

from __future__ import annotations

import torch
from torch import Tensor

from graphfsl.functional.conjugate_gradients import conjugate_gradients, identity
from tests.support.tensors import normal

N = 6


def positive(batch: int, seed: int = 0) -> Tensor:
    root = normal(batch, N, N, seed=seed)
    return root @ root.mT + torch.eye(N)


def inner(u: Tensor, v: Tensor) -> Tensor:
    return (u * v).sum(-1, keepdim=True)


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
