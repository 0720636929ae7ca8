"""Episodes of base features: the samples of their columns, by their generator."""

from __future__ import annotations

import pytest
import torch

from graphfsl.functional.base_episodes import base_episodes, shuffled_by_class, smallest_class
from graphfsl.io.errors import InputError


def test_base_episodes_are_the_samples_of_their_columns() -> None:
    """Every node shows a sample of its column's class, none twice; the support comes first."""
    g = torch.Generator().manual_seed(0)
    labels = torch.tensor([5, 1, 3] * 6)[torch.randperm(18, generator=g)]  # 0, 2 and 4 are missing
    ids, truth = base_episodes(labels, way=2, shot=2, unlabeled=3, count=50, generator=g)
    assert ids.shape == (50, 10)
    assert truth.tolist() == [0, 0, 1, 1, 0, 0, 0, 1, 1, 1]
    for row in ids:
        assert len(set(row.tolist())) == 10
        first, second = labels[row[truth == 0]], labels[row[truth == 1]]
        assert len(first.unique()) == len(second.unique()) == 1 and first[0] != second[0]
    assert len(ids.unique()) == 18 and len(labels[ids[:, 0]].unique()) == 3


def test_base_episodes_follow_their_generator() -> None:
    labels = torch.arange(6).repeat(9)

    def episodes(seed: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        return base_episodes(labels, 3, 1, 4, 5, generator)[0]

    assert torch.equal(episodes(1), episodes(1)) and not torch.equal(episodes(1), episodes(2))


@pytest.mark.parametrize(("way", "unlabeled"), [(4, 1), (2, 5)])
def test_base_episodes_need_classes_and_samples(way: int, unlabeled: int) -> None:
    with pytest.raises(InputError, match="cannot be drawn"):
        base_episodes(torch.arange(3).repeat(5), way, 1, unlabeled, 1)


def test_samples_are_ordered_by_class_and_shuffled_within() -> None:
    labels = torch.tensor([2, 0, 2, 0, 5, 2, 0, 2])
    orders = {tuple(shuffled_by_class(labels).tolist()) for _ in range(30)}
    assert len(orders) > 1
    for order in orders:
        assert sorted(order) == list(range(8))
        assert labels[list(order)].tolist() == [0, 0, 0, 2, 2, 2, 2, 5]


def test_the_smallest_class_whatever_numbers_are_missing() -> None:
    assert smallest_class(torch.tensor([0, 0, 0, 5, 5, 2, 2, 2, 2])) == 2
