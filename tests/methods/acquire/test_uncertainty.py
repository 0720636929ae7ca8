"""Margin and entropy (Settles 2009)."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from graphfsl.core.episode import Episode
from graphfsl.core.learner import Acquire
from graphfsl.io.errors import InputError
from graphfsl.methods.acquire.random import Random
from graphfsl.methods.acquire.uncertainty import Entropy, Margin
from tests.support.pools_to_label import C, labeled, pool


def chosen(rule: Acquire, episode: Episode, count: int, scores: Tensor | None = None) -> Tensor:
    return rule(episode, episode.mask & (episode.w.sum(-1) == 0), scores, count)


def test_uncertainty_is_that_of_its_equation() -> None:
    episode, y = pool(batch=1)
    scores = torch.randn(1, 30, C, dtype=torch.float64)
    episode = labeled(episode, y, torch.tensor([[int((y[0] == c).nonzero()[0]) for c in range(C)]]))
    p = scores.softmax(-1)[0]
    free = (episode.w[0].sum(-1) == 0).tolist()

    def margin(i: int) -> float:
        low, high = sorted(p[i].tolist())[-2:]
        return high - low

    def entropy(i: int) -> float:
        return sum(-q * math.log(q) for q in p[i].tolist())

    rest = [i for i in range(30) if free[i]]
    assert chosen(Margin(), episode, 3, scores)[0].tolist() == sorted(rest, key=margin)[:3]
    assert chosen(Entropy(), episode, 3, scores)[0].tolist() == sorted(rest, key=entropy)[:-4:-1]


@pytest.mark.parametrize("rule", [Margin(), Entropy()], ids=repr)
def test_until_each_class_is_seen_samples_are_drawn_at_random(rule: Acquire) -> None:
    episode, y = pool(batch=1)
    at_random = chosen(Random(), episode, 1)
    assert torch.equal(chosen(rule, episode, 1), at_random)
    one_class = labeled(episode, y, torch.tensor([[0]]))
    scores = torch.randn(1, 30, C, dtype=torch.float64)
    assert torch.equal(chosen(rule, one_class, 1, scores), chosen(Random(), one_class, 1))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Margin(batch=0), "1 sample or more"),
    ],
)
def test_options_that_are_none_are_refused(make: object, says: str) -> None:
    with pytest.raises(InputError, match=says):
        make()  # type: ignore[operator]
