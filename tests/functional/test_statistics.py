"""Accuracies, intervals and statistics of classes against loops, scipy and numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from graphfsl.functional.statistics import (
    accuracy,
    answered,
    class_statistics,
    mean_and_ci95,
    or_one,
    total_or_one,
)
from tests.support.tensors import B, C, N, normal, uniform


def test_accuracy() -> None:
    scores = normal(B, N, C)
    target = torch.randint(0, C, (B, N), generator=torch.Generator().manual_seed(0))
    target[0] = scores[0].argmax(-1)
    target[0, 2:4] = -100
    target[0, 4] = (target[0, 4] + 1) % C
    target[2] = -100
    scores[1, :, 0] = -math.inf
    expected = []
    for b in range(B):
        real = [q for q in range(N) if target[b, q] >= 0]
        right = [
            q for q in real if max(range(C), key=lambda c: float(scores[b, q, c])) == target[b, q]
        ]
        expected.append(len(right) / max(len(real), 1))
    torch.testing.assert_close(
        accuracy(scores, target).double(), torch.tensor(expected).double(), rtol=0, atol=1e-6
    )
    assert expected[0] == 4 / 5 and expected[2] == 0
    torch.testing.assert_close(accuracy(scores.float(), target), accuracy(scores, target))


def test_mean_and_ci95() -> None:
    mean, half = mean_and_ci95(torch.tensor([0.0, 1.0, 1.0, 0.0]))
    # s^2 = 4 * 0.25 / 3, sqrt(n) = 2
    assert mean == 0.5 and half == pytest.approx(3.182446305 * math.sqrt(1 / 3) / 2)
    values = uniform(600)
    mean, half = mean_and_ci95(values.float())
    listed = values.float().tolist()
    m = sum(listed) / 600
    assert mean == pytest.approx(m, abs=1e-12)
    assert half == pytest.approx(
        1.963932 * math.sqrt(sum((v - m) ** 2 for v in listed) / 599 / 600), rel=1e-6
    )
    assert mean_and_ci95(torch.ones(9)) == (1.0, 0.0)
    assert mean_and_ci95(torch.tensor([0.25])) == (0.25, None)


@pytest.mark.parametrize("n", [2, 5, 100])
def test_the_interval_covers_as_often_as_it_says(n: int) -> None:
    samples = torch.randn(4000, n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    inside = [abs(mean) <= half for mean, half in map(mean_and_ci95, samples)]
    assert abs(sum(inside) / 4000 - 0.95) < 0.01


def test_a_query_without_an_answer_makes_the_accuracy_nan() -> None:
    # an absent class
    scores = torch.tensor([[2.0, 1.0, -math.inf], [0.0, 1.0, -math.inf]]).expand(6, 2, 3).clone()
    scores[1, 1, 2], scores[2, 0], scores[3, 0, 2], scores[4, 1] = (
        math.nan,
        -math.inf,
        math.inf,
        math.nan,
    )
    target = torch.tensor([[0, 0]]).repeat(6, 1)
    target[4, 1] = -100  # padding
    got = accuracy(scores, target)
    assert answered(scores).all(-1).tolist() == [True, False, False, False, False, True]
    assert got.isnan().tolist() == [False, True, True, True, False, False]
    assert got[[0, 4, 5]].tolist() == [0.5, 1.0, 0.5]


def test_a_total_divides_even_where_there_is_nothing() -> None:
    assert total_or_one(torch.tensor([[0.2, 0.3], [0.0, 0.0]])).tolist() == [[0.5], [1.0]]
    assert or_one(torch.tensor([0.5, 0.0, -2.0])).tolist() == [0.5, 1.0, 1.0]


def test_class_statistics_are_those_of_numpy() -> None:
    x, y = torch.randn(30, 4, dtype=torch.float64), torch.randint(-1, 3, (30,))
    y[y == 1] = 2
    y[0] = 1  # a class of one sample
    mean, means, covariances = class_statistics(x, y, 4)
    torch.testing.assert_close(mean, x[y >= 0].mean(0))
    for c in (0, 2):
        torch.testing.assert_close(means[c], x[y == c].mean(0))
        torch.testing.assert_close(covariances[c], torch.from_numpy(np.cov(x[y == c].numpy().T)))
    torch.testing.assert_close(means[1], x[0])
    assert not covariances[1].any() and not means[3].any() and not covariances[3].any()
