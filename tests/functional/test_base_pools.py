"""Pools of base classes: their parts are disjoint, and classes get their shares."""

from __future__ import annotations

import pytest
import torch

from graphfsl.functional.base_pools import base_pools, columns_of, order_within
from graphfsl.io.errors import InputError


def test_parts_are_disjoint_and_show_the_classes_of_their_columns() -> None:
    torch.manual_seed(0)
    labels = torch.arange(12).repeat(9)[torch.randperm(108)] * 2  # odd numbers are missing
    shares = torch.tensor([[1.0, 1.0, 0.0, 2.0], [0.0, 0.0, 1.0, 1.0]]).repeat(20, 1)
    drawn = base_pools(labels, way=2, shot=2, query=1, size=8, shares=shares)
    assert drawn.real.all()  # six samples of a class are left
    assert drawn.truth[0].tolist() == [0, 0, 1, 1, -1, -1, -1, -1]
    assert drawn.truth[1].tolist() == [-1] * 8
    for i in range(40):
        ids = torch.cat([drawn.support[i], drawn.query[i], drawn.pool[i]]).tolist()
        assert len(set(ids)) == len(ids)
        of_column = labels[drawn.support[i]].view(2, 2)
        assert (of_column[:, 0] == of_column[:, 1]).all() and of_column[0, 0] != of_column[1, 0]
        assert labels[drawn.query[i]].tolist() == of_column[:, 0].tolist()
        for column in (0, 1):
            assert (labels[drawn.pool[i]][drawn.truth[i] == column] == of_column[column, 0]).all()
        foreign = labels[drawn.pool[i]][drawn.truth[i] < 0]
        assert not torch.isin(foreign, of_column[:, 0]).any()


def test_a_class_without_further_samples_leaves_its_places_empty() -> None:
    drawn = base_pools(torch.arange(3).repeat(5), 2, 1, 1, 10, torch.ones(4, 2))
    assert drawn.real.sum(1).tolist() == [6] * 4  # three of each class
    ids = torch.cat([drawn.support, drawn.query, drawn.pool.where(drawn.real, -1)], 1)
    for row in ids:
        assert len(row[row >= 0].unique()) == 10


@pytest.mark.parametrize(("columns", "shot"), [(4, 1), (2, 4)])
def test_classes_and_samples_must_suffice(columns: int, shot: int) -> None:
    with pytest.raises(InputError, match="cannot be drawn from 3 classes"):
        base_pools(torch.arange(3).repeat(5), 2, shot, 1, 4, torch.ones(2, columns))


def test_columns_get_their_shares_to_a_node() -> None:
    g = torch.Generator().manual_seed(0)
    shares = torch.rand(50, 6, generator=g)
    found = columns_of(shares, 37)
    counts = torch.stack([(found == c).sum(1) for c in range(6)], 1)
    wanted = 37 * shares / shares.sum(1, keepdim=True)
    assert ((counts - wanted).abs() < 1).all() and (counts.sum(1) == 37).all()
    assert columns_of(torch.ones(1, 3), 6).tolist() == [[0, 0, 1, 1, 2, 2]]


def test_order_within_counts_the_nodes_before() -> None:
    assert order_within(torch.tensor([[2, 0, 2, 1, 2, 0]]), 3).tolist() == [[0, 0, 1, 0, 2, 1]]
