"""Overlaps by sums over episodes, against brute force."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor
from torch.nn import functional as F

from graphfsl.functional.mask_metrics import (
    area_of_sums,
    false_foreground_sums,
    mean_overlap,
    overlap_sums,
    presence_sums,
    share,
    two_sided_sums,
)
from graphfsl.functional.open_set import auroc


def drawn() -> tuple[Tensor, Tensor, Tensor]:
    """Answers and truth (5, 2, 6, 7) of 2 classes of 4, some pixels of which do not count."""
    answer = torch.randint(3, (5, 2, 6, 7))
    truth = torch.randint(3, (5, 2, 6, 7))
    truth[torch.rand(truth.shape) < 0.2] = -100
    classes = torch.stack([torch.randperm(4)[:2] for _ in range(5)])
    return answer, truth, F.one_hot(classes, 4).double()


def test_sums_equal_a_loop_over_pixels() -> None:
    answer, truth, classes = drawn()
    both, either = torch.zeros(4), torch.zeros(4)
    for b, q, i, j in itertools.product(range(5), range(2), range(6), range(7)):
        named, real = int(answer[b, q, i, j]), int(truth[b, q, i, j])
        if real < 0:
            continue
        for column in (1, 2):
            c = int(classes[b, column - 1].argmax())
            both[c] += named == column and real == column
            either[c] += named == column or real == column
    found = mean_overlap(overlap_sums(answer, truth, classes).sum(0))
    seen = either > 0
    torch.testing.assert_close(found, (both[seen] / either[seen]).mean().double())


def test_a_small_object_does_not_weigh_as_much_as_a_large_one() -> None:
    """One perfect on 10 pixels, one wrong on 1000: the sums say 10 / 1010, not 50%."""
    truth = torch.zeros(2, 1, 40, 40, dtype=torch.long)
    truth[0, 0, 0, :10] = 1
    truth[1, 0, :25] = 1
    answer = truth.clone()
    answer[1] = 0
    found = mean_overlap(overlap_sums(answer, truth, torch.ones(2, 1, 1).double()).sum(0))
    assert abs(float(found) - 10 / 1010) < 1e-9


def test_false_positives_of_an_absent_way_count_and_ignored_pixels_never_do() -> None:
    truth = torch.zeros(1, 1, 4, 4, dtype=torch.long)
    truth[..., 0, :] = 1
    classes = torch.eye(2).double()[None]
    right = truth.clone()
    wrong = right.clone()
    wrong[..., 3, 0] = 2  # a class that the query does not show
    assert mean_overlap(overlap_sums(right, truth, classes))[0] == 1  # the other class is left out
    assert mean_overlap(overlap_sums(wrong, truth, classes))[0] == 0.5
    truth[..., 3, 0] = -100
    torch.testing.assert_close(
        overlap_sums(wrong, truth, classes), overlap_sums(right, truth, classes)
    )


def test_all_foreground_has_the_share_of_foreground() -> None:
    _, truth, _ = drawn()
    one_class = truth.clamp_max(1)
    everything = torch.ones_like(truth)
    counts = (truth >= 0).sum()
    foreground = (truth > 0).sum() / counts
    found = mean_overlap(two_sided_sums(everything, one_class).sum(0))
    torch.testing.assert_close(float(found), 0.5 * float(foreground))
    only = torch.ones(5, 1, 1).double()
    torch.testing.assert_close(
        float(mean_overlap(overlap_sums(everything, one_class, only).sum(0))), float(foreground)
    )


def test_false_foreground_is_of_queries_without_a_class() -> None:
    truth = torch.zeros(1, 2, 2, 2, dtype=torch.long)
    truth[0, 0, 0, 0] = 1
    answer = torch.ones_like(truth)
    answer[0, 1, 0] = 0
    torch.testing.assert_close(false_foreground_sums(answer, truth)[0].tolist(), [2.0, 4.0])
    assert float(share(false_foreground_sums(answer, truth))[0]) == 0.5


def test_the_area_of_presence_agrees_with_auroc_up_to_its_bins() -> None:
    sign, shown = torch.rand(40, 3, 2), torch.rand(40, 3, 2) < 0.4
    sign = (sign + 0.3 * shown).clamp(0, 1)
    found = float(area_of_sums(presence_sums(sign, shown).sum(0)))
    flat, there = sign.flatten()[None], shown.flatten()[None]
    right = float(auroc(flat, ~there, there)[0])
    assert abs(found - right) < 0.005


def test_signs_that_are_almost_sure_are_told_apart() -> None:
    torch.manual_seed(0)
    shown = torch.rand(50, 4, 2) < 0.5
    logit = 6 + 2 * torch.randn(shown.shape) + 3 * shown
    flat, there = logit.flatten()[None], shown.flatten()[None]
    exact = float(auroc(flat, ~there, there)[0])
    for sign, value in ((logit.sigmoid(), exact), ((-logit).sigmoid(), 1 - exact)):
        found = float(area_of_sums(presence_sums(sign, shown).sum(0)))
        assert abs(found - value) < 0.002
    sums = presence_sums(torch.tensor([[[0.0], [1.0]]]), torch.tensor([[[False], [True]]]))
    assert float(area_of_sums(sums.sum(0))) == 1
