"""Transductive tasks of positive features, and their parts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from graphfsl.core.episode import Episode, stack
from graphfsl.core.pipeline import Pipeline
from graphfsl.methods.heads.protonet import ProtoNet

HEAD = ProtoNet()


def task(
    counts: Any = (4, 4, 4), shot: int = 2, dim: int = 12, seed: int = 0, spread: float = 1.0
) -> tuple[Episode, Any]:
    """One task of positive float64 features around class means, counts[c] queries of class c,
    shuffled; its truth.
    """
    g = torch.Generator().manual_seed(seed)
    way = len(counts)
    mean = spread * torch.rand(way, dim, generator=g, dtype=torch.float64)
    truth = torch.arange(way).repeat_interleave(torch.tensor(counts))
    truth = truth[torch.randperm(len(truth), generator=g)]
    y = torch.cat([torch.arange(way).repeat_interleave(shot), truth])
    x = mean[y] + 0.5 * torch.rand(len(y), dim, generator=g, dtype=torch.float64)
    w = F.one_hot(y, way).double()
    w[way * shot :] = 0
    return Episode(x[None], w[None], way * shot, len(truth), relabeled=False), truth[None]


def batch(*tasks: tuple[Episode, Any]) -> Episode:
    """Tasks of any size in one episode."""
    return stack([episode for episode, _ in tasks])


def refined(refiner: Any, episode: Episode) -> Tensor:
    """Scores (B, n, C) of a prototypical network that is refined."""
    with torch.no_grad():
        out: Tensor = Pipeline(head=HEAD, refine=refiner).score(episode)
    return out


def unit(x: Tensor) -> Tensor:
    """Rows of length one."""
    return x / x.norm(dim=-1, keepdim=True)


def parts(episode: Episode) -> tuple[Tensor, Tensor, list[int]]:
    """Support, queries and labels of the first task."""
    k, m = episode.n_support, episode.n_support + episode.n_query
    return episode.x[0, :k], episode.x[0, k:m], episode.w[0, :k].argmax(-1).tolist()


def means(s: Tensor, y: list[int]) -> Tensor:
    """The mean of each class."""
    return torch.stack(
        [torch.stack([s[i] for i in range(len(y)) if y[i] == c]).mean(0) for c in range(max(y) + 1)]
    )


COUNTS = pytest.mark.parametrize("counts", [(4, 4, 4), (9, 0, 2), (1, 1, 0)], ids=str)
