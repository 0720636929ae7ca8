"""Small pools of features, for rules that choose what to label."""

from __future__ import annotations

import torch
from torch import Tensor

from graphfsl.core.episode import Episode

C = 3  # classes of a pool


def pool(batch: int = 4, each: int = 10, seed: int = 0) -> tuple[Episode, Tensor]:
    """Pools without a label, of queries around three means in random order, and their classes."""
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(C).repeat_interleave(each)
    y = torch.stack([y[torch.randperm(len(y), generator=g)] for _ in range(batch)])
    means = 2 * torch.randn(batch, C, 6, generator=g, dtype=torch.float64)
    x = means.gather(1, y.unsqueeze(-1).expand(-1, -1, 6))
    x = x + 0.7 * torch.randn(x.shape, generator=g, dtype=torch.float64)
    w = torch.zeros(batch, C * each, C, dtype=torch.float64)
    return Episode(x, w, 0, C * each, relabeled=False), y


def labeled(episode: Episode, y: Tensor, nodes: Tensor) -> Episode:
    """The pools with the true labels of these nodes (B, m)."""
    truth = torch.nn.functional.one_hot(y, C).to(episode.w)
    known = torch.zeros_like(episode.w[..., 0]).scatter(1, nodes, 1.0)
    return episode.replace(w=truth * known.unsqueeze(-1))


def two_clusters(outlier: bool = False) -> Episode:
    """Two far clusters of 15 around unit vectors, their densest points the nodes 0 and 15.

    With an outlier, node 30 is far from both.
    """
    g = torch.Generator().manual_seed(1)
    noise = 0.25 * torch.randn(1, 30, 8, generator=g, dtype=torch.float64)
    noise[:, [0, 15]] = 0
    means = torch.eye(2, 8, dtype=torch.float64).repeat_interleave(15, 0)
    x = means + noise
    if outlier:
        x = torch.cat([x, -2 * torch.ones(1, 1, 8, dtype=torch.float64)], 1)
    w = torch.zeros(1, x.shape[1], 2, dtype=torch.float64)
    return Episode(x, w, 0, x.shape[1], relabeled=False)
