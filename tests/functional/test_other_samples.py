"""Means of other samples of a class."""

from __future__ import annotations

import pytest
import torch

from graphfsl.functional.other_samples import mean_of_others
from graphfsl.io.errors import InputError


def test_all_others_give_the_mean_without_the_sample() -> None:
    y = torch.tensor([0, 3, 0, 3, 0, 3])
    x = torch.randn(6, 2)
    found = mean_of_others(x, y, torch.arange(6), 2)
    for i in range(6):
        others = [j for j in range(6) if j != i and y[j] == y[i]]
        torch.testing.assert_close(found[i], x[others].mean(0))


def test_others_differ_are_of_the_class_and_never_the_sample() -> None:
    """Powers of two: their sum says which samples it is of."""
    y = torch.arange(3).repeat_interleave(5)
    x = 2.0 ** torch.arange(15).double()[:, None]
    chosen = torch.arange(15).repeat(40)
    sums = (3 * mean_of_others(x, y, chosen, 3)).round().long().flatten().tolist()
    met = set()
    for i, total in zip(chosen.tolist(), sums, strict=True):
        which = [j for j in range(15) if total >> j & 1]
        assert len(which) == 3 and i not in which and all(y[j] == y[i] for j in which)
        met.add((i, tuple(which)))
    assert len(met) > 15, "they are drawn anew"


def test_too_few_samples_are_refused() -> None:
    with pytest.raises(InputError, match=r"3 other samples .* one class has 3 samples"):
        mean_of_others(torch.randn(6, 2), torch.tensor([0, 0, 0, 1, 1, 1]), torch.arange(2), 3)
