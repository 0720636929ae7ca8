"""Every unknown node is the mean of its neighbors'."""

from __future__ import annotations

import torch

from graphfsl.functional.harmonic import harmonic


def test_unknown_nodes_are_means_of_their_neighbors_and_known_ones_stay() -> None:
    g = torch.Generator().manual_seed(0)
    a = torch.rand(7, 7, generator=g).triu(1)
    a = a + a.mT
    values, known = torch.randn(7, 2, generator=g), torch.tensor([1, 1, 1, 0, 0, 0, 0]).bool()
    f = harmonic(a, values, known)
    torch.testing.assert_close(f[known], values[known])
    means = (a @ f) / a.sum(1, keepdim=True)
    torch.testing.assert_close(f[~known], means[~known])


def test_it_is_where_repeated_averaging_ends() -> None:
    a = torch.tensor([[0, 1, 0, 0], [1, 0, 2, 0], [0, 2, 0, 1], [0, 0, 1, 0]]).float()
    values, known = torch.tensor([[0.0], [0], [0], [1]]), torch.tensor([1, 0, 0, 1]).bool()
    f = values.clone()
    for _ in range(500):
        f = ((a @ f) / a.sum(1, keepdim=True)).where(~known[:, None], values)
    torch.testing.assert_close(harmonic(a, values, known), f)
