"""Episodes of features around random class centres, some of whose queries are of no class."""

from __future__ import annotations

import torch
from torch import Tensor

from graphfsl.core.episode import Episode


def world(
    way: int = 4,
    shot: int = 1,
    query: int = 5,
    open_classes: int = 0,
    spread: float = 0.3,
    batch: int = 2,
    dim: int = 16,
    seed: int = 0,
) -> tuple[Episode, Tensor]:
    """Tasks of features that are not negative, and the truth (B, Q), -1 for none of the classes.

    Args:
        way: classes with support.
        shot: support of each.
        query: queries of each class, with support or without.
        open_classes: classes without support.
        spread: of a class around its centre, relative to the distance of centres.
        batch: tasks.
        dim: of the features.
        seed: of all that is random.
    """
    g = torch.Generator().manual_seed(seed)
    centre = torch.rand(batch, way + open_classes, dim, generator=g) * 2
    owner = torch.arange(way).repeat_interleave(shot)
    asked = torch.arange(way + open_classes).repeat_interleave(query)
    asked = asked[torch.randperm(len(asked), generator=g)]
    column = torch.cat([owner, asked])
    x = centre[:, column] + spread * torch.randn(batch, len(column), dim, generator=g)
    w = torch.zeros(batch, len(column), way)
    w[:, torch.arange(len(owner)), owner] = 1
    truth = asked.where(asked < way, -1).expand(batch, -1)
    return Episode(x.clamp_min(0), w, len(owner), len(asked), relabeled=False), truth
