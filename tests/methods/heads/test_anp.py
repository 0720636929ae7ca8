"""Attentive neural processes: attention head by head, and what it makes of a known point."""

from __future__ import annotations

import torch

from graphfsl.core.episode import Episode
from graphfsl.methods.heads.anp import ANP


def points(x: torch.Tensor) -> Episode:
    """Three points that may be known, and others behind them."""
    w = torch.zeros(1, x.shape[1], 1)
    w[:, :3] = 1
    return Episode(x, w, 3, x.shape[1] - 3, relabeled=False, values=torch.zeros_like(w))


def test_a_point_is_told_the_embeddings_of_points_like_it_head_by_head() -> None:
    torch.manual_seed(0)
    model = ANP(1, width=6, layers=2, heads=2)
    episode = points(torch.randn(1, 5, 1))
    r, known = torch.randn(1, 3, 6), torch.tensor([1.0, 0, 1]).view(1, 3, 1)
    told = model.representation(episode, r, known)[0]
    q = model.q(episode.x[0])
    for i in range(5):
        for part in (slice(0, 3), slice(3, 6)):
            logits = torch.stack([q[i, part] @ q[j, part] / 3**0.5 for j in (0, 2)])
            wanted = logits.softmax(0) @ r[0, [0, 2], part]
            torch.testing.assert_close(told[i, part], wanted)


def test_sharp_attention_asks_the_point_itself() -> None:
    """So that an answer can pass through the known points, which a mean cannot."""
    torch.manual_seed(0)
    model = ANP(2, width=4, layers=2, heads=1)
    model.q = torch.nn.Sequential(torch.nn.Linear(2, 4, bias=False))
    with torch.no_grad():
        model.q[0].weight.copy_(torch.cat([torch.eye(2), torch.zeros(2, 2)]) * 30)
    x = torch.tensor([[1.0, 0], [0, 1], [0.6, 0.8], [1, 0]])[None]
    episode = points(x)
    r = torch.randn(1, 3, 4)
    told = model.representation(episode, r, torch.ones(1, 3, 1))
    torch.testing.assert_close(told[0, 3], r[0, 0])
