"""Nearest neighbours in an affinity."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from graphfsl.functional.affinity import cosine_power, pairs


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


def cosine_neighbors(
    z: Float[Tensor, "*B n d"], mask: Bool[Tensor, "*B n"], k: int, power: float = 3.0
) -> Float[Tensor, "*B n n"]:
    """The graph of nearest neighbours by cosine: W_ij = max(0, cos(z_i, z_j))^power, else 0.

    An edge joins two real nodes of which one is among the other's k nearest, none joins a node with
    itself.

    Args:
        z: (…, n, d) features.
        mask: (…, n) which nodes are real.
        k: neighbours of a node.
        power: of the cosine.

    Returns:
        (…, n, n) symmetric.
    """
    a = cosine_power(z, power) * pairs(mask)
    return nearest((a + a.mT) / 2, k)
