"""Propagation over sparse graphs is the closed form."""

from __future__ import annotations

import math

import pytest
import torch

from graphfsl.functional.propagation import propagate, symmetric
from graphfsl.functional.sparse_propagation import (
    _dots,
    both_ways,
    propagate_sparse,
    propagate_with,
    symmetric_sparse,
    union,
)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.9, 0.99])
def test_conjugate_gradients_are_the_closed_form(alpha: float) -> None:
    g = torch.Generator().manual_seed(0)
    index = torch.randint(0, 60, (60, 4), generator=g)
    weight = torch.rand(60, 4, generator=g, dtype=torch.float64)
    weight[7], weight[(index == 7)] = 0, 0  # a node without edges
    full = torch.zeros(60, 60, dtype=torch.float64)
    for i in range(60):
        for j, w in zip(index[i].tolist(), weight[i].tolist(), strict=True):
            full[i, j] += w
            full[j, i] += w
    w = union(index, weight)
    torch.testing.assert_close(w.to_dense(), full)
    s = symmetric_sparse(w)
    torch.testing.assert_close(s.to_dense(), symmetric(full))
    y = torch.randn(60, 5, generator=g, dtype=torch.float64) * torch.tensor([1, 1e6, 1e-6, 0, 1])
    expected = propagate(symmetric(full), y, alpha)
    size = y.norm(dim=0).clamp_min(1e-300)
    assert ((propagate_sparse(s, y, alpha) - expected) / size).abs().max() < 1e-6
    known_by_products = propagate_with(lambda p: p - alpha * (s @ p), y, alpha)
    assert ((known_by_products - expected) / size).abs().max() < 1e-6
    single = propagate_sparse(symmetric_sparse(union(index, weight.float())), y.float(), alpha)
    assert ((single - expected) / size).abs().max() < 1e-4, "single precision rounds, no more"


def test_edges_go_both_ways() -> None:
    """Repeated edges are summed, those of one node to itself counted twice; against a loop."""
    edges, weight = torch.tensor([[0, 2, 0, 1], [1, 0, 1, 1]]), torch.tensor([1.0, 2.0, 4.0, 8.0])
    expected = torch.zeros(3, 3)
    for (i, j), value in zip(edges.T.tolist(), weight.tolist(), strict=True):
        expected[i, j] += value
        expected[j, i] += value
    assert torch.equal(both_ways(edges, weight, 3).to_dense(), expected)


def test_a_column_does_not_depend_on_what_is_solved_beside_it() -> None:
    g = torch.Generator().manual_seed(0)
    s = symmetric_sparse(
        union(torch.randint(0, 5000, (5000, 4), generator=g), torch.rand(5000, 4, generator=g))
    )
    y = torch.zeros(5000, 9)
    y[torch.arange(9) * 500, torch.arange(9)] = torch.logspace(-4, 4, 9)
    together = propagate_sparse(s, y, 0.9)
    for part in (1, 2, 4):
        alone = torch.cat([propagate_sparse(s, c.contiguous(), 0.9) for c in y.split(part, 1)], 1)
        torch.testing.assert_close(alone, together, rtol=1e-5, atol=0)


def test_dots_equal_a_loop() -> None:
    a, b = torch.randn(9000, 3, dtype=torch.float64), torch.randn(9000, 3, dtype=torch.float64)
    for m in range(3):
        assert _dots(a, b)[m].item() == pytest.approx(
            math.fsum((a[:, m] * b[:, m]).tolist()), abs=1e-9
        )
