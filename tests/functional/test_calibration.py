"""Reliability, calibration error, confusion and coverage against loops and torchmetrics."""

from __future__ import annotations

import pytest
import torch
from torchmetrics.functional.classification import (
    multiclass_calibration_error,
    multiclass_confusion_matrix,
)

from graphfsl.functional.calibration import (
    accuracy_coverage,
    confusion,
    expected_calibration_error,
    reliability,
)


def test_accuracy_by_coverage_equals_a_loop() -> None:
    confidence = torch.tensor([0.9, 0.5, 0.7, 0.9, 0.5, 0.2])
    right = torch.tensor([True, False, True, False, True, False])
    expected = []
    for level in (0.9, 0.7, 0.5, 0.2):
        kept = [bool(r) for c, r in zip(confidence, right, strict=True) if c >= level - 1e-6]
        expected.append((len(kept) / 6, sum(kept) / len(kept)))
    torch.testing.assert_close(
        accuracy_coverage(confidence, right), torch.tensor(expected, dtype=torch.float64)
    )
    shuffled = torch.tensor([3, 4, 0, 5, 1, 2])
    assert torch.equal(
        accuracy_coverage(confidence[shuffled], right[shuffled]),
        accuracy_coverage(confidence, right),
    )
    assert accuracy_coverage(confidence[:0], right[:0]).shape == (0, 2)


def answers(n: int = 500, classes: int = 5, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    target = torch.randint(classes, (n,), generator=g)
    logits = 2 * torch.randn(n, classes, generator=g) + 2 * torch.nn.functional.one_hot(
        target, classes
    )
    return logits.softmax(-1), target


def test_reliability_is_the_loop() -> None:
    p, target = answers()
    target = target.masked_fill(torch.arange(500) % 7 == 0, -100)
    found = reliability(p, target, 10)
    for b in range(10):
        inside = [
            i
            for i in range(500)
            if target[i] >= 0 and b / 10 < float(p[i].double().max()) <= (b + 1) / 10
        ]
        confidence = sum(float(p[i].max()) for i in inside) / max(len(inside), 1)
        accuracy = sum(bool(p[i].argmax() == target[i]) for i in inside) / max(len(inside), 1)
        assert found[b].tolist() == pytest.approx([len(inside), confidence, accuracy], abs=1e-6)
    assert found[:, 0].sum() == (target >= 0).sum()


def test_a_bin_holds_its_upper_edge() -> None:
    """(0, 1/4], (1/4, 1/2], …: one half, the answer of two equal classes, belongs to the second of
    four bins.
    """
    p = torch.tensor([[0.5, 0.5], [0.25, 0.75], [1.0, 0.0], [0.51, 0.49]])
    found = reliability(p, torch.tensor([0, 1, 0, 0]), 4)
    assert found[:, 0].tolist() == [0, 1, 2, 1]


def test_the_error_is_torchmetrics() -> None:
    for seed in range(3):
        p, target = answers(seed=seed)
        theirs = multiclass_calibration_error(p, target, num_classes=5, n_bins=15)
        assert float(expected_calibration_error(reliability(p, target))) == pytest.approx(
            float(theirs), abs=1e-5
        )
    sure = torch.eye(3)[[0, 1, 2, 2]]
    assert expected_calibration_error(reliability(sure, torch.tensor([0, 1, 2, 2]))) == 0
    assert expected_calibration_error(reliability(sure, torch.tensor([1, 2, 0, 0]))) == 1
    assert expected_calibration_error(reliability(sure, torch.full((4,), -100))) == 0


def test_confusion_is_torchmetrics() -> None:
    p, target = answers()
    found = confusion(p.argmax(-1), target, 5)
    assert torch.equal(found, multiclass_confusion_matrix(p, target, num_classes=5))
    padded = confusion(p.argmax(-1), target.masked_fill(torch.arange(500) >= 100, -100), 5)
    assert torch.equal(padded, multiclass_confusion_matrix(p[:100], target[:100], num_classes=5))
