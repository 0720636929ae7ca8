"""Numbers of class-incremental sessions, by hand."""

from __future__ import annotations

import pytest
import torch

from graphfsl.functional.bootstrap import bootstrap_interval, resampled_counts
from graphfsl.functional.sessions import (
    backward_transfer,
    base_accuracy,
    forgetting,
    harmonic_mean,
    is_base,
    novel_accuracy,
    performance_drop,
    session_accuracies,
    session_matrix,
    session_sums,
)

# R after each of three sessions; 10 queries of each session's classes, 20 of the base classes
RIGHT = [[18, 0, 0], [16, 9, 0], [17, 7, 8]]


def sums() -> torch.Tensor:
    rows = []
    for t, line in enumerate(RIGHT):
        right, came = [], []
        for j, hits in enumerate(line[: t + 1]):
            asked = 20 if j == 0 else 10
            right += [True] * hits + [False] * (asked - hits)
            came += [j] * asked
        padding = 40 - len(came)
        right, came = right + [True] * padding, came + [-1] * padding
        found = session_sums(
            torch.tensor([right]), torch.tensor([came]), torch.tensor([t]), sessions=2
        )
        rows.append(found[0])
    return torch.stack(rows).sum(0)


def test_all_numbers_follow_from_the_counts() -> None:
    found = sums()
    matrix = session_matrix(found)
    torch.testing.assert_close(matrix[2], torch.tensor([0.85, 0.7, 0.8], dtype=torch.float64))
    assert matrix[0, 1].isnan() and matrix[1, 2].isnan()
    assert session_accuracies(found).tolist() == pytest.approx([18 / 20, 25 / 30, 32 / 40])
    assert float(performance_drop(found)) == pytest.approx(0.9 - 0.8)
    assert float(base_accuracy(found)) == pytest.approx(0.85)
    assert float(novel_accuracy(found)) == pytest.approx(15 / 20)
    assert float(harmonic_mean(found)) == pytest.approx(2 * 0.85 * 0.75 / 1.6)
    assert float(backward_transfer(found)) == pytest.approx((0.85 - 0.9 + 0.7 - 0.9) / 2)
    assert float(forgetting(found)) == pytest.approx((0.9 - 0.85 + 0.9 - 0.7) / 2)
    assert float(forgetting(found)) >= -float(backward_transfer(found))


def test_classes_are_drawn_again_within_their_group() -> None:
    strata = torch.tensor([0, 1, 0, 1, 1])
    counts = resampled_counts(strata, 500)
    assert counts[:, strata == 0].sum(1).eq(2).all() and counts[:, strata == 1].sum(1).eq(3).all()
    assert counts.mean(0).sub(1).abs().max() < 0.2
    assert bootstrap_interval(torch.arange(1001.0)) == pytest.approx((25, 975))


def test_base_classes_are_those_of_session_zero() -> None:
    c = torch.zeros(1, 4, 2)
    assert is_base(torch.tensor([[0, 0, 1, -1]]), c).tolist() == [[True, True, False, False]]
    assert not is_base(None, c).any()
