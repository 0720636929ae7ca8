"""What labels say of each other when one is held out."""

from __future__ import annotations

import math

import pytest
import torch

from graphfsl.apply.label.pool_arguments import PRIORS
from graphfsl.functional.held_out import (
    REACHED,
    HeldOut,
    borne_out,
    class_weights,
    held_out,
    is_calibrated,
    scores_of,
    temperature,
)


def test_the_temperature_is_the_likeliest() -> None:
    assert temperature(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64)) == pytest.approx(
        0.7, abs=0.02
    )
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(4000, 5, generator=g)
    drawn = torch.multinomial((logits / 2.0).softmax(1), 1, generator=g)[:, 0]
    assert temperature(logits.exp(), drawn) == pytest.approx(2.0, rel=0.1)


@pytest.mark.parametrize("prior", PRIORS)
def test_held_out_scores_are_those_of_a_loop(prior: str) -> None:
    """Of a class with two labels, of one whose two labels share a node, and of one of none."""
    node, group = torch.tensor([0, 1, 2, 2, 3, 4]), torch.tensor([0, 0, 1, 1, 2, 1])
    member = torch.nn.functional.one_hot(group).float()
    g = torch.Generator().manual_seed(0)
    influence, mass = torch.rand(6, 6, generator=g), torch.rand(6, generator=g)
    held = held_out(influence, node, group, member, mass, prior, classes=2)
    assert held.ids.tolist() == [0, 1, 2, 3, 5] and held.of_every_class and held.reached.all()
    for row, i in enumerate(held.ids.tolist()):
        for c in range(3):
            others = [s for s in range(6) if node[s] != node[i] and group[s] == c]
            given, reach = sum(influence[i, others]), sum(mass[others])
            weight = {"none": 1 / max(len(others), 1), "uniform": 1 / reach if others else 0}
            weight["labels"] = len(others) * weight["uniform"]
            if others:
                assert held.scores[row, c] == pytest.approx(float(given * weight[prior]))
            else:
                assert held.scores[row, c] < 1e-5


def test_classes_are_weighed_by_their_labels_and_their_mass() -> None:
    labels, mass = torch.tensor([1.0, 4.0, 2.0]), torch.tensor([0.5, 2.0, 0.0])
    assert class_weights("none", labels, mass).tolist() == [1, 0.25, 0.5]
    assert class_weights("uniform", labels, mass).tolist() == [2, 0.5, 0], (
        "the last reaches nothing"
    )
    assert class_weights("labels", labels, mass).tolist() == [2, 2, 0]


def test_what_no_label_reaches_scores_the_same_for_all_classes() -> None:
    raw, v = torch.tensor([[1.0, 2.0, 0.0], [0.0, REACHED / 2, 0.0]]), torch.tensor([1.0, 3.0, 0.5])
    least = REACHED * 0.5
    torch.testing.assert_close(
        scores_of(raw, v), torch.tensor([[1.0, 6.0, least], [least, least, least]])
    )


@pytest.mark.parametrize("labels", [4, 40])
def test_few_labels_bear_out_nothing_of_a_pool_that_seems_to_rank_lower(labels: int) -> None:
    group = torch.arange(5).repeat_interleave(labels)
    scores = torch.full((5 * labels, 5), 1e-3).scatter(1, group[:, None], 1.0)
    held = HeldOut(
        torch.arange(5 * labels), scores, group, torch.ones(5 * labels, dtype=torch.bool), True
    )
    error = 1 / math.sqrt(12 * 5 * (labels - 1))
    for z, borne in ((-2.0, True), (0.5, labels == 40), (1.5, False), (4.0, True)):
        assert borne_out(held, 0.7, z * error, error) == borne, z


@pytest.mark.parametrize(
    ("labels", "right", "calibrated"), [(40, 1.0, True), (40, 0.5, False), (2, 1.0, False)]
)
def test_labels_bear_probabilities_out_where_they_are_as_often_right(
    labels: int, right: float, calibrated: bool
) -> None:
    """Probabilities of nearly one, which are too much where half of the answers are wrong, and too
    few labels to tell.
    """
    group = torch.arange(5).repeat_interleave(labels)
    wrong = torch.arange(5 * labels) % 10 >= 10 * right
    said = torch.where(wrong, (group + 1) % 5, group)
    scores = torch.full((5 * labels, 5), 1e-3).scatter(1, said[:, None], 1.0)
    held = HeldOut(torch.arange(5 * labels), scores, group, torch.ones_like(wrong), True)
    assert is_calibrated(held, 1.0) == calibrated
