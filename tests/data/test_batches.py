"""Batches of images for pretraining."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from graphfsl.data import Split, Transform
from graphfsl.data.batches import Batches
from graphfsl.io.errors import InputError
from tests.support.pretraining import CLASSES, split


def test_an_epoch_shows_every_image_once_and_the_next_in_another_order() -> None:
    batches = Batches(split(), seed=3)
    first, second = batches.ids(np.arange(60)), batches.ids(np.arange(60, 120))
    assert sorted(first) == sorted(second) == list(range(60))
    assert list(first) != list(second)


@pytest.mark.parametrize("per_class", [1, 3])
def test_a_batch_is_a_pure_function_of_its_numbers(per_class: int) -> None:
    """Any part of any batch, over the end of an epoch too, shows what the whole shows."""
    options: dict[str, Any] = {
        "per_class": per_class,
        "views": 2,
        "transform": Transform(rotate=20, translate=0.1),
    }
    numbers = np.arange(50, 74)
    (whole, target), other = (
        Batches(split(), 1, **options).batch(numbers),
        Batches(split(), 1, **options),
    )
    assert whole.x.shape == (2, 24, 1, 8, 8) and not torch.equal(whole.x[0], whole.x[1])
    for at in (slice(0, 5), slice(9, 12), slice(20, 24)):
        part, truth = other.batch(numbers[at])
        assert torch.equal(part.x, whole.x[:, at]) and torch.equal(truth.query, target.query[:, at])


def test_images_of_a_class_come_together_where_pairs_are_needed() -> None:
    batches = Batches(split(), seed=0, per_class=4)
    _, target = batches.batch(np.arange(24))
    y, ids = target.query[0].view(6, 4), target.ids[0].view(6, 4)
    assert (y == y[:, :1]).all() and sorted(y[:, 0].tolist()) == list(range(CLASSES))
    assert all(len(set(row)) == 4 for row in ids.tolist()), "different images of a class"
    with pytest.raises(InputError, match="has 10 images, but pretraining takes 11 of a class"):
        Batches(split(), per_class=11)


def test_images_without_a_label_are_left_out() -> None:
    base = split()
    y = base.y.clone()
    y[::2] = -1
    ids = Batches(Split(base.x, y, base.classes, base.name)).ids(np.arange(60))
    assert set(ids) == set(range(1, 60, 2))
