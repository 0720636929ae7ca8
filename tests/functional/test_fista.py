"""FISTA finds the lasso."""

from __future__ import annotations

import torch
from torch import Tensor

from graphfsl.functional.fista import fista


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
