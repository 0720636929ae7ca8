"""k-centre (Sener & Savarese 2018)."""

from __future__ import annotations

import torch
from torch import Tensor

from graphfsl.core.episode import Episode
from graphfsl.core.learner import Acquire
from graphfsl.methods.acquire.k_center import KCenter
from tests.support.pools_to_label import labeled, pool


def chosen(rule: Acquire, episode: Episode, count: int, scores: Tensor | None = None) -> Tensor:
    return rule(episode, episode.mask & (episode.w.sum(-1) == 0), scores, count)


def test_k_center_equals_a_loop() -> None:
    episode, y = pool(batch=1)
    episode = labeled(episode, y, torch.tensor([[3, 9]]))
    d = torch.cdist(episode.x[0], episode.x[0])
    centres = [3, 9]
    for _ in range(6):
        centres.append(max(range(30), key=lambda i: min(float(d[i, j]) for j in centres)))
    assert chosen(KCenter(), episode, 6)[0].tolist() == centres[2:]
