"""Affinities between the nodes of a graph: non-negative (…, n, n), the edge from j (columns) to i
(rows).
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from graphfsl.functional.distances import cosine, squared_euclidean
from graphfsl.functional.statistics import total_or_one


def rbf(
    d: Float[Tensor, "*B n m"], scale: Float[Tensor, "*#B 1 1"] | float
) -> Float[Tensor, "*B n m"]:
    """exp(-d_ij / (2 scale^2)) of squared distances d. (…, n, m) -> (…, n, m)."""
    return torch.exp(-d / (2 * scale**2))


def median_distance(
    d: Float[Tensor, "*B n n"], mask: Bool[Tensor, "*B n"]
) -> Float[Tensor, "*B 1 1"]:
    """The (lower) median of d_ij over pairs i != j of real nodes, at least 1e-12: (…, n, n), (…, n)
    -> (…, 1, 1).
    """
    far = d.masked_fill(~pairs(mask), float("inf")).flatten(-2).sort(-1).values
    real = mask.sum(-1, keepdim=True)
    middle = ((real * (real - 1) - 1) // 2).clamp_min(0)
    # With fewer than two real nodes there is no pair; any scale will do.
    return far.gather(-1, middle).clamp(1e-12, torch.finfo(d.dtype).max).unsqueeze(-1)


def cosine_power(z: Float[Tensor, "*B n d"], power: float = 3.0) -> Float[Tensor, "*B n n"]:
    """max(0, cos(z_i, z_j))^power, the affinity of iLPC with power 3. (…, n, d) -> (…, n, n)."""
    return cosine(z, z).clamp_min(0) ** power


def std_scaled(z: Float[Tensor, "*B n d"], mask: Bool[Tensor, "*B n"]) -> Float[Tensor, "*B n n"]:
    """exp(-d_ij / std(d)) of squared distances, the standard deviation over pairs i != j of real
    nodes: EPNet's.

    (…, n, d), (…, n) -> (…, n, n).
    """
    d, real = squared_euclidean(z, z), pairs(mask)
    count = real.sum((-1, -2), keepdim=True).clamp_min(2)
    mean = (d * real).sum((-1, -2), keepdim=True) / count
    variance = ((d - mean).square() * real).sum((-1, -2), keepdim=True) / (count - 1)
    # Of equal distances the deviation is zero, and its square root has no gradient there.
    return torch.exp(-d / variance.clamp_min(1e-12).sqrt())


def pairs(mask: Bool[Tensor, "*B n"]) -> Bool[Tensor, "*B n n"]:
    """Which (i, j) are two different real nodes. (…, n) -> (…, n, n)."""
    itself = torch.eye(mask.shape[-1], dtype=torch.bool, device=mask.device)
    return mask.unsqueeze(-1) & mask.unsqueeze(-2) & ~itself


def joined(labels: Float[Tensor, "*B n C"]) -> Float[Tensor, "*B n n"]:
    """sum_c y_ic y_jc of label weights normalised to one: the probability that two labeled nodes
    share their class, zero where one of them has no label. (…, n, C) -> (…, n, n)."""
    y = labels / total_or_one(labels)
    return y @ y.mT
