"""Normalised graphs and propagation against loops and limits."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from graphfsl.functional.propagation import propagate, propagator, stochastic, symmetric
from tests.support.tensors import B, C, N, normal


def affinity(seed: int = 0) -> Tensor:
    """(B, N, N) symmetric, without self-loops, the last node of task 1 without edges."""
    a = normal(B, N, N, seed=seed).abs()
    a = (a + a.mT) * (1 - torch.eye(N))
    a[1, -1], a[1, :, -1] = 0, 0
    return a


def test_normalisation() -> None:
    a = affinity()
    s, p = symmetric(a), stochastic(a)
    for b in range(B):
        degree = a[b].sum(1)
        for i in range(N):
            for j in range(N):
                known = degree[i] > 0 and degree[j] > 0
                assert s[b, i, j].item() == pytest.approx(
                    float(a[b, i, j] / (degree[i] * degree[j]).sqrt()) if known else 0
                )
    assert torch.linalg.matrix_norm(s, 2).max() <= 1 + 1e-9, "so that every alpha below 1 converges"
    sums = torch.ones(B, N, dtype=torch.float64)
    sums[1, -1] = 0
    torch.testing.assert_close(p.sum(-1), sums)


def test_the_degree_is_that_of_a_row() -> None:
    """D = diag(sum_j a_ij): of what a node receives, where edges have a direction."""
    a = normal(1, N, N).abs()
    degree = [sum(float(v) for v in row) + 0.1 for row in a[0]]
    expected = [
        [float(a[0, i, j]) / math.sqrt(degree[i] * degree[j]) for j in range(N)] for i in range(N)
    ]
    torch.testing.assert_close(symmetric(a, 0.1)[0], torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.99])
def test_propagation_is_the_limit_of_its_iteration(alpha: float) -> None:
    s, y = symmetric(affinity()), normal(B, N, C)
    f = y
    for _ in range(4000):
        f = alpha * s @ f + y
    torch.testing.assert_close(propagate(s, y, alpha), f)
    if not alpha:
        assert torch.equal(propagate(s, y, alpha), y)


def test_propagation_is_differentiable() -> None:
    s, y = symmetric(affinity()).requires_grad_(), normal(B, N, C).requires_grad_()
    alpha = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(propagate, (s, y, alpha))


def test_a_propagator_is_propagation_of_every_label_in_turn() -> None:
    torch.manual_seed(3)
    s = symmetric(torch.rand(2, 6, 6, dtype=torch.float64))
    spread = propagator(s, 0.8)
    for y in torch.rand(3, 2, 6, 4, dtype=torch.float64):
        torch.testing.assert_close(spread(y), propagate(s, y, 0.8))
