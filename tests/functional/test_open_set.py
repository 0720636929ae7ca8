"""How well novelty tells known from unknown queries, beside scikit-learn and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from graphfsl.functional.open_set import (
    accepted_at,
    auroc,
    average_precision,
    best_threshold,
    max_probability,
    open_accuracy,
)


@pytest.fixture(params=[None, 4], ids=["all different", "with ties"])
def case(request: pytest.FixtureRequest) -> tuple[torch.Tensor, torch.Tensor]:
    """Novelty (6, 30), and targets of 3 classes, -1 for none and some padding."""
    g = torch.Generator().manual_seed(0)
    target = torch.randint(-1, 3, (6, 30), generator=g)
    target[:, 0], target[:, 1] = -1, 0
    target[2, 20:] = -100
    novelty = torch.randn(6, 30, generator=g) + (target == -1).float()
    if request.param:
        novelty = (novelty * request.param).round() / request.param
    novelty[2, 20:] = 50.0  # what stands in padding
    return novelty, target


def test_they_are_those_of_scikit_learn(case: tuple[torch.Tensor, torch.Tensor]) -> None:
    novelty, target = case
    known, unknown = target >= 0, target == -1
    for i in range(len(target)):
        real = target[i] > -100
        truth, value = unknown[i][real].numpy(), novelty[i][real].numpy()
        assert auroc(novelty, known, unknown)[i] == pytest.approx(
            roc_auc_score(truth, value), abs=1e-6
        )
        assert average_precision(novelty, known, unknown)[i] == pytest.approx(
            average_precision_score(truth, value), abs=1e-6
        )
        passed, kept, _ = roc_curve(~truth, -value, drop_intermediate=False)
        assert accepted_at(novelty, known, unknown)[i] == pytest.approx(
            passed[np.argmax(kept >= 0.95)], abs=1e-6
        )


def test_a_constant_novelty_is_worth_a_half_wherever_the_unknown_stand() -> None:
    unknown = torch.tensor([[True] * 3 + [False] * 7, [False] * 7 + [True] * 3])
    flat = torch.ones(2, 10)
    assert auroc(flat, ~unknown, unknown).tolist() == [0.5, 0.5]
    assert average_precision(flat, ~unknown, unknown).tolist() == pytest.approx([0.3, 0.3])
    assert accepted_at(flat, ~unknown, unknown).tolist() == [1, 1]


def test_turning_novelty_around_turns_auroc_around(
    case: tuple[torch.Tensor, torch.Tensor],
) -> None:
    novelty, target = case
    known, unknown = target >= 0, target == -1
    turned = auroc(-novelty, known, unknown)
    torch.testing.assert_close(turned, 1 - auroc(novelty, known, unknown))


def test_without_one_of_the_kinds_there_is_no_number() -> None:
    none = torch.zeros(1, 4, dtype=torch.bool)
    novelty = torch.arange(4.0)[None]
    assert math.isnan(auroc(novelty, ~none, none)) and math.isnan(auroc(novelty, none, ~none))
    assert math.isnan(average_precision(novelty, ~none, none))
    assert math.isnan(accepted_at(novelty, ~none, none))
    assert math.isnan(accepted_at(novelty, none, ~none))


def test_of_twenty_known_queries_one_may_be_above_the_bound() -> None:
    known = torch.tensor([[True] * 20 + [False] * 2])
    novelty = torch.cat([torch.arange(20.0), torch.tensor([18.0, 18.5])])[None]
    assert accepted_at(novelty, known, ~known).item() == 0.5


def test_the_threshold_is_the_best_of_all() -> None:
    g = torch.Generator().manual_seed(0)
    scores = torch.randn(5, 12, 3, generator=g)
    target = torch.randint(-1, 3, (5, 12), generator=g)
    target[0, :3] = -100
    novelty = (torch.randn(5, 12, generator=g) + (target < 0)).mul(3).round()

    def right(bound: float) -> float:
        answers = open_accuracy(scores, novelty - bound, target)
        real = (target > -100).sum(-1)
        return float((answers * real).sum())

    found = best_threshold(scores, novelty, target)
    every = [v + d for v in novelty.unique().tolist() for d in (-0.5, 0.5)]
    assert right(found) == pytest.approx(max(map(right, every)))
    assert found not in novelty.unique().tolist()


@pytest.mark.parametrize("target", [0, -1])
def test_a_threshold_of_queries_of_one_kind_takes_them_all(target: int) -> None:
    scores, novelty = torch.tensor([[[1.0, 0.0]] * 3]), torch.tensor([[1.0, 2.0, 3.0]])
    truth = torch.full((1, 3), target)
    bound = best_threshold(scores, novelty, truth)
    assert bound > 3 if target == 0 else bound < 1
    assert open_accuracy(scores, novelty - bound, truth).item() == 1


def test_the_largest_probability() -> None:
    scores = torch.tensor([[0.0, 0.0], [math.log(3), 0.0], [-math.inf, 2.0]])
    torch.testing.assert_close(max_probability(scores), torch.tensor([-0.5, -0.75, -1.0]))
