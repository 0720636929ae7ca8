"""ProbCover (Yehuda 2022)."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from graphfsl.core.episode import Episode
from graphfsl.core.learner import Acquire
from graphfsl.io.errors import InputError
from graphfsl.methods.acquire.prob_cover import ProbCover
from tests.support.pools_to_label import pool, two_clusters


def chosen(rule: Acquire, episode: Episode, count: int, scores: Tensor | None = None) -> Tensor:
    return rule(episode, episode.mask & (episode.w.sum(-1) == 0), scores, count)


@pytest.mark.parametrize("rule", [ProbCover(), ProbCover(delta=0.6)], ids=repr)
def test_two_clusters_are_both_asked_for(rule: Acquire) -> None:
    episode = two_clusters()
    assert {i // 15 for i in chosen(rule, episode, 2)[0].tolist()} == {0, 1}
    w = episode.w.clone()
    w[0, 3, 0] = 1
    assert chosen(rule, episode.replace(w=w), 1).item() >= 15


def test_prob_cover_takes_the_ball_of_most_samples_that_none_holds() -> None:
    episode, _ = pool(batch=1)
    z = torch.nn.functional.normalize(episode.x[0], dim=-1)
    inside = torch.cdist(z, z) <= 0.5
    covered = torch.zeros(30, dtype=torch.bool)
    for i in chosen(ProbCover(delta=0.5), episode, 5)[0].tolist():
        new = (inside & ~covered).sum(1)
        assert new[i] == new.max()
        covered |= inside[i]


def test_the_radius_is_the_largest_of_which_enough_balls_are_pure() -> None:
    """Balls hold one cluster up to the radius, and beyond it too few of them do."""
    episode = two_clusters()
    z = torch.nn.functional.normalize(episode.x, dim=-1)
    d = torch.cdist(z, z)
    delta = ProbCover(purity=0.9).radius(z, d, episode.mask, episode)
    of = torch.arange(30) // 15

    def pure(radius: float) -> float:
        mixed = (d[0] <= radius) & (of[:, None] != of)
        return float((~mixed.any(1)).double().mean())

    assert pure(delta.item()) >= 0.9 > pure(delta.item() * 1.0002) - 1 / 30


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: ProbCover(delta=0.0), "a delta above 0"),
        (lambda: ProbCover(purity=1.0), "a purity between 0 and 1"),
    ],
)
def test_options_that_are_none_are_refused(make: object, says: str) -> None:
    with pytest.raises(InputError, match=says):
        make()  # type: ignore[operator]
