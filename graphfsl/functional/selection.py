"""Which nodes a pseudo-label is believed of: the most confident of every class."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F


def log_odds(scores: Float[Tensor, "*B n C"]) -> Float[Tensor, "*B n"]:
    """log(p / (1 - p)) of the most probable class, p = softmax(scores).

    It orders nodes as p does, and still does so where p rounds to one.

    Args:
        scores: (…, n, C).

    Returns:
        (…, n).
    """
    best = scores.max(-1, keepdim=True)
    rest = scores.scatter(-1, best.indices, float("-inf")).logsumexp(-1)
    return best.values.squeeze(-1) - rest


def two_best(p: Float[Tensor, "*B n C"]) -> tuple[Float[Tensor, "*B n"], Float[Tensor, "*B n"]]:
    """The largest probability and the second largest, which is 0 where there is one class.

    Args:
        p: (…, n, C).

    Returns:
        (…, n) each.
    """
    best, second = F.pad(p, (0, 1)).topk(2, -1).values.unbind(-1)
    return best, second


def quota(
    mask: Bool[Tensor, "*B n"], present: Bool[Tensor, "*B C"], share: float
) -> Float[Tensor, "*B 1 1"]:
    """How many nodes of each class make a share of the real nodes, rounded up.

    Args:
        mask: (…, n) which nodes are real.
        present: (…, C) which classes there are.
        share: of the nodes, an equal part for each class.

    Returns:
        (…, 1, 1) whole numbers.
    """
    each = share * mask.sum(-1) / present.sum(-1).clamp_min(1)
    return (each - 1e-4).ceil()[..., None, None]  # a share of 0.1 of 30 is 3, whatever the rounding


def top_per_class(
    confidence: Float[Tensor, "*B n"],
    candidate: Bool[Tensor, "*B n C"],
    most: Float[Tensor, "*#B 1 #C"] | float,
) -> Bool[Tensor, "*B n C"]:
    """The candidates of highest confidence in each class, or all where there are fewer.

    Args:
        confidence: (…, n).
        candidate: (…, n, C) which nodes may be picked for which class.
        most: how many of a class, a number or (…, 1, C).

    Returns:
        (…, n, C) bool.
    """
    key = confidence.unsqueeze(-1).where(candidate, float("-inf"))
    rank = key.argsort(dim=-2, descending=True, stable=True).argsort(-2)
    return candidate & (rank < most)


def shuffled(candidates: Bool[Tensor, "*B n"], seed: int) -> Float[Tensor, "*B n"]:
    """A number of each candidate such that the order of all of them is a random one.

    It depends on how many candidates stand before one, and on nothing else: padding does not change
    it, nor the other tasks of a batch.

    Args:
        candidates: (…, n) which there are.
        seed: of the order.

    Returns:
        (…, n) in [0, 1) for candidates, -1 for others.
    """
    n = candidates.shape[-1]
    numbers = torch.rand(n, generator=torch.Generator().manual_seed(seed), device="cpu")
    before = candidates.long().cumsum(-1) - 1
    return numbers.to(candidates.device, non_blocking=True)[before.clamp_min(0)].where(
        candidates, -1
    )
