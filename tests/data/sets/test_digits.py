"""The digits that come with scikit-learn."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.datasets import load_digits

from graphfsl.data import load
from tests.support.refusal import refused


def test_digits_are_those_of_scikit_learn() -> None:
    bunch = load_digits()
    as_they_are = load("digits", "test", size=8)
    assert as_they_are.classes == tuple("0123456789")
    assert np.array_equal(as_they_are.y, bunch.target)
    expected = torch.from_numpy(bunch.images * 255 / 16).round().to(torch.uint8)
    assert torch.equal(as_they_are.x[:, 0], expected)
    assert load("digits", "test").shape == (1, 28, 28)


def test_another_split_is_one_line() -> None:
    with refused("split test alone", "'train'"):
        load("digits", "train")
