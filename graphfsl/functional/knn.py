"""Nearest neighbours in an affinity."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def nearest(a: Float[Tensor, "*B n n"], k: int, mutual: bool = False) -> Float[Tensor, "*B n n"]:
    """The affinity a with a_ij kept where j is among the k largest of row i or i among those of row
    j (`mutual`: and), zero elsewhere. A row's own diagonal counts as any other entry; k above n
    keeps all. (…, n, n) -> (…, n, n).
    """
    keep = torch.zeros_like(a, dtype=torch.bool).scatter(
        -1, a.topk(min(k, a.shape[-1]), -1).indices, True
    )
    return a * (keep & keep.mT if mutual else keep | keep.mT)
