"""TypiClust (Hacohen 2022)."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from graphfsl.core.episode import Episode
from graphfsl.core.learner import Acquire
from graphfsl.methods.acquire.k_center import KCenter
from graphfsl.methods.acquire.typiclust import TypiClust
from tests.support.pools_to_label import pool, two_clusters


def chosen(rule: Acquire, episode: Episode, count: int, scores: Tensor | None = None) -> Tensor:
    return rule(episode, episode.mask & (episode.w.sum(-1) == 0), scores, count)


def test_an_outlier_is_what_k_center_begins_with_and_typiclust_leaves_out() -> None:
    episode = two_clusters(outlier=True)
    assert chosen(KCenter(), episode, 1).item() == 30
    typical = chosen(TypiClust(), episode, 2)[0].tolist()
    assert 30 not in typical and {i // 15 for i in typical} == {0, 1}


@pytest.mark.parametrize("rule", [TypiClust()], ids=repr)
def test_two_clusters_are_both_asked_for(rule: Acquire) -> None:
    episode = two_clusters()
    assert {i // 15 for i in chosen(rule, episode, 2)[0].tolist()} == {0, 1}
    w = episode.w.clone()
    w[0, 3, 0] = 1
    assert chosen(rule, episode.replace(w=w), 1).item() >= 15


def test_typicality_is_one_over_the_mean_distance_to_the_nearest() -> None:
    episode, _ = pool(batch=1)
    z = torch.nn.functional.normalize(episode.x, dim=-1)
    cluster = torch.arange(30)[None] % 2
    found = TypiClust().typicality(z, cluster, episode.mask)[0]
    d = torch.cdist(z[0], z[0])
    for i in range(30):
        own = [j for j in range(30) if j != i and j % 2 == i % 2]
        nearest = sorted(float(d[i, j]) for j in own)[: min(20, 15 // 2)]
        assert float(found[i]) == pytest.approx(len(nearest) / sum(nearest))
