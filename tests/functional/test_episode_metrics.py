"""Metrics of single episodes, and of their sums."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.metrics import f1_score

from graphfsl.functional.calibration import expected_calibration_error, reliability
from graphfsl.functional.episode_metrics import BINS, calibration_error, calibration_sums, macro_f1


def episodes_answered(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores (6, 9, 4) and targets (6, 9), of which some are padding."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(6, 9, 4, generator=generator)
    target = torch.randint(0, 3, (6, 9), generator=generator)  # one class has no query
    target[2, 5:] = -100
    return scores, target


def test_macro_f1_is_that_of_scikit_learn() -> None:
    scores, target = episodes_answered()
    expected = []
    for row, truth in zip(scores.argmax(-1), target, strict=True):
        real = truth >= 0
        expected.append(f1_score(truth[real], row[real], average="macro", zero_division=0))
    assert macro_f1(scores, target).tolist() == pytest.approx(expected)


def test_the_calibration_error_of_sums_is_that_of_all_episodes_answered() -> None:
    scores, target = episodes_answered(1)
    p = scores.softmax(-1)
    sums = calibration_sums(p, target)
    assert sums.shape == (6, 3 * BINS)
    whole = expected_calibration_error(reliability(p.flatten(0, 1), target.flatten()))
    assert float(calibration_error(sums.sum(0))) == pytest.approx(float(whole))
    for i in range(6):
        one = expected_calibration_error(reliability(p[i], target[i]))
        assert float(calibration_error(sums[i])) == pytest.approx(float(one))
    by_hand = torch.zeros(3, BINS, dtype=torch.float64)
    for q in range(9):
        if target[2, q] >= 0:
            top = float(p[2, q].max())
            at = min(max(math.ceil(top * BINS) - 1, 0), BINS - 1)
            by_hand[:, at] += torch.tensor([1, top, float(p[2, q].argmax() == target[2, q])])
    torch.testing.assert_close(sums[2], by_hand.flatten())
