"""Nearest neighbours in an affinity."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def nearest(a: Float[Tensor, "*B n n"], k: int, mutual: bool = False) -> Float[Tensor, "*B n n"]:
    """Keep the affinities of nearest neighbours and set all others to zero.

    a_ij is kept where j is among the k largest of row i or i among those of row j. A row's own
    diagonal counts as any other entry.

    Args:
        a: (…, n, n) affinities.
        k: neighbours of a row; above n all are kept.
        mutual: keep an entry only where both are among each other's.

    Returns:
        (…, n, n).
    """
    keep = torch.zeros_like(a, dtype=torch.bool).scatter(
        -1, a.topk(min(k, a.shape[-1]), -1).indices, True
    )
    return a * (keep & keep.mT if mutual else keep | keep.mT)
