"""Propagation over a graph by loops, and heads that have been used."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from graphfsl.core.batchnorm import BatchNorm
from graphfsl.core.episode import Episode, stack
from graphfsl.methods.heads.tpn import TPN
from graphfsl.testing import DIM
from tests.support.episodes import features_and_target

EPNET = {"scale": "std", "k": None, "alpha": 0.2, "log": True}


def padded() -> Episode:
    """A task of 9 nodes beside one of 18: what stands in the padding is large."""
    both = stack(
        [
            features_and_target(batch=1, shot=1, query=1, unlabeled=1)[0],
            features_and_target(batch=1, seed=1)[0],
        ]
    )
    return both.replace(x=both.x.where(both.mask.unsqueeze(-1), 50.0), mask=both.mask)


def used(head: Any) -> Any:
    """In float64 and evaluation, with BatchNorm that has seen something."""
    for module in head.modules():
        if isinstance(module, BatchNorm):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return head.double().eval()


def tpn(**options: float) -> TPN:
    """Around the sigma of a trained one, wide enough that features of length 1 meet, and not the
    same for all nodes.
    """
    head = used(TPN(DIM, **options))
    nn.init.uniform_(head.rest[-1].weight, 0.2, 0.6)
    nn.init.constant_(head.rest[-1].bias, 0.5)
    return head


def distance(a: Tensor, b: Tensor) -> float:
    """The squared Euclidean distance."""
    return float((a - b).square().sum())


def union_of_neighbors(w: Tensor, k: int) -> Tensor:
    """w_ij where j is among the k largest of row i, or i among those of row j."""
    n = len(w)
    best = [set(sorted(range(n), key=lambda j: -float(w[i, j]))[:k]) for i in range(n)]
    keep = [[j in best[i] or i in best[j] for j in range(n)] for i in range(n)]
    return w * torch.tensor(keep)


def inverse(w: Tensor, alpha: float, eps: float = 0.0) -> Tensor:
    """(I - alpha D^-1/2 W D^-1/2)^-1 of one graph."""
    degree = w.sum(1) + eps
    s = torch.stack([w[i] / (degree[i] * degree).sqrt() for i in range(len(w))])
    return torch.linalg.inv(torch.eye(len(w), dtype=w.dtype) - alpha * s)


def std_affinity(x: Tensor) -> Tensor:
    """exp(-d / std), the deviation over pairs of different nodes; none with oneself."""
    n = len(x)
    d = [[distance(x[i], x[j]) for j in range(n)] for i in range(n)]
    std = torch.tensor([d[i][j] for i in range(n) for j in range(n) if i != j], dtype=x.dtype).std()
    return torch.tensor(
        [[math.exp(-d[i][j] / std) * (i != j) for j in range(n)] for i in range(n)], dtype=x.dtype
    )


def constant(head: TPN, sigma: float) -> None:
    """Make the scale network answer sigma for every node."""
    nn.init.zeros_(head.rest[-1].weight)
    nn.init.constant_(head.rest[-1].bias, math.log(math.expm1(sigma - 1e-3)))
