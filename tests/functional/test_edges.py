"""Features of edges: pairs, sums of rows, the loss."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from graphfsl.functional.edges import (
    class_means,
    differences,
    edge_loss,
    mirrored,
    reweighted,
    upper,
)
from graphfsl.testing import WAY
from tests.support.edge_heads import close


@pytest.mark.parametrize("n", [1, 2, 5])
def test_pairs_are_read_once_and_mirrored(n: int) -> None:
    x = torch.randn(2, n, 3)
    d = differences(x)
    above = [(i, j) for i in range(n) for j in range(i + 1, n)]
    assert d.shape == (2, len(above), 3)
    full = mirrored(d[..., 0], n)
    for p, (i, j) in enumerate(above):
        assert torch.equal(d[:, p], x[:, i] - x[:, j])
        assert torch.equal(full[:, i, j], d[:, p, 0]) and torch.equal(full[:, j, i], d[:, p, 0])
    assert not full.diagonal(dim1=-2, dim2=-1).any()
    assert upper(full != 0).shape == d.shape[:2] and upper(full != 0).all()
    assert not upper(torch.eye(n, dtype=torch.bool)).any()


def test_reweighted_rows_keep_their_sums() -> None:
    e, s = torch.rand(2, 4, 4).double(), torch.rand(2, 4, 4).double()
    e[0, 1] = 0
    found = reweighted(e, s)
    close(found.sum(-1), e.sum(-1))
    close(found[1, 2, 3] / found[1, 2, 0], s[1, 2, 3] * e[1, 2, 3] / (s[1, 2, 0] * e[1, 2, 0]))
    close(reweighted(e, 7 * s), found)


def test_class_means_go_both_ways_and_leave_the_unlabeled_out() -> None:
    e, w = (
        torch.rand(1, 4, 4).double(),
        torch.tensor([[[1.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 0]]]).double(),
    )
    found = class_means(e, w)
    assert found[0, 3, 0].item() == pytest.approx(
        float(e[0, 3, :2].mean() + e[0, :2, 3].mean()) / 2
    )
    assert found[0, 0, 1].item() == pytest.approx(float(e[0, 0, 2] + e[0, 2, 0]) / 2)
    assert not found[..., 2].any()


def test_edge_loss_is_two_means_of_binary_cross_entropies() -> None:
    # of 3 layers, 2 tasks, 4 queries and a node for each class
    e = torch.rand(3, 2, 4, WAY).double()
    y = torch.tensor([[0, 1, 2, 1], [1, 0, -100, 0]])
    there = torch.tensor([[True, True, True], [True, True, False]])
    found = edge_loss(e.log(), (1 - e).log(), y, there)
    for layer in range(3):
        kinds: dict[bool, list[Tensor]] = {True: [], False: []}
        for b, q, c in torch.cartesian_prod(
            torch.arange(2), torch.arange(4), torch.arange(WAY)
        ).tolist():
            if y[b, q] >= 0 and there[b, c]:
                alike = bool(y[b, q] == c)
                kinds[alike].append(
                    F.binary_cross_entropy(e[layer, b, q, c], torch.tensor(float(alike)).double())
                )
        close(found[layer], sum(torch.stack(k).mean() for k in kinds.values()))
