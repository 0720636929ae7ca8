"""Choosing nodes for each class."""

from __future__ import annotations

import math

import pytest
import torch

from graphfsl.functional.selection import log_odds, quota, shuffled, top_per_class, two_best


def test_log_odds_equals_its_definition_and_does_not_saturate() -> None:
    scores = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    p = scores.softmax(-1).amax(-1)
    torch.testing.assert_close(log_odds(scores), (p / (1 - p)).log())
    far = torch.tensor([[[0.0, -200.0, -300.0], [0.0, -100.0, -300.0]]])
    assert log_odds(far)[0].tolist() == pytest.approx([200.0, 100.0])


def test_top_per_class_equals_a_loop() -> None:
    g = torch.Generator().manual_seed(1)
    confidence, candidate = torch.randn(3, 9, generator=g), torch.rand(3, 9, 4, generator=g) < 0.6
    most = torch.tensor([[[2.0, 0.0, 3.0, 99.0]]])
    found = top_per_class(confidence, candidate, most)
    for b in range(3):
        for c in range(4):
            order = sorted(
                (i for i in range(9) if candidate[b, i, c]), key=lambda i: -float(confidence[b, i])
            )
            expected = set(order[: int(most[0, 0, c])])
            assert {i for i in range(9) if found[b, i, c]} == expected


def test_quota_counts_real_nodes_and_present_classes() -> None:
    mask = torch.tensor([[True] * 30, [True] * 10 + [False] * 20])
    way = torch.tensor([[True, True, True], [True, True, False]])
    for share in (0.1, 0.3, 0.5, 1.0):
        found = quota(mask, way, share).flatten().tolist()
        assert found == [math.ceil(round(share * 10, 6)), math.ceil(round(share * 5, 6))]


@pytest.mark.parametrize(
    ("nodes", "way", "share", "each"), [(25, 3, 0.6, 5), (50, 2, 0.6, 15), (45, 3, 0.6, 9)]
)
def test_a_quota_that_is_whole_is_not_rounded_up(
    nodes: int, way: int, share: float, each: int
) -> None:
    """In single precision 0.6 * 25 / 3 is more than 5."""
    found = quota(
        torch.ones(1, nodes, dtype=torch.bool), torch.ones(1, way, dtype=torch.bool), share
    )
    assert found.item() == each


def test_the_order_of_candidates_is_random_and_does_not_depend_on_padding() -> None:
    candidates = torch.tensor([[True, False, True, True, False, True]])
    found = shuffled(candidates, 0)
    assert (found[~candidates] == -1).all() and (found[candidates] >= 0).all()
    wider = shuffled(torch.nn.functional.pad(candidates, (3, 40)), 0)
    assert torch.equal(wider[:, 3:9], found)
    first = {int(shuffled(torch.ones(1, 5, dtype=torch.bool), s).argmax()) for s in range(40)}
    assert first == set(range(5))


def test_the_second_best_of_one_class_is_zero() -> None:
    p = torch.tensor([[0.2, 0.5, 0.3], [0.4, 0.4, 0.2]])
    best, second = two_best(p)
    assert best.tolist() == pytest.approx([0.5, 0.4])
    assert second.tolist() == pytest.approx([0.3, 0.4])
    assert [v.tolist() for v in two_best(torch.ones(2, 1))] == [[1.0, 1.0], [0.0, 0.0]]
