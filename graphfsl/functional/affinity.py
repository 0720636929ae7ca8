"""Affinities: how near the nodes of a graph are to each other.

They are non-negative, (…, n, n), the edge from j (columns) to i (rows).
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
    """Gaussian affinities of squared distances: exp(-d_ij / (2 scale^2)).

    Args:
        d: (…, n, m) squared distances.
        scale: sigma, a number or (…, 1, 1).

    Returns:
        (…, n, m) in (0, 1].
    """
    return torch.exp(-d / (2 * scale**2))


def median_distance(
    d: Float[Tensor, "*B n n"], mask: Bool[Tensor, "*B n"]
) -> Float[Tensor, "*B 1 1"]:
    """The lower median of the distances between different real nodes.

    Args:
        d: (…, n, n) distances.
        mask: (…, n) which nodes are real.

    Returns:
        (…, 1, 1), at least 1e-12; with fewer than two real nodes any number.
    """
    ordered = d.masked_fill(~pairs(mask), float("inf")).flatten(-2).sort(-1).values
    real = mask.sum(-1, keepdim=True)
    middle = (real * (real - 1) - 1) // 2  # below zero where there is no pair
    median = ordered.gather(-1, middle.clamp_min(0))
    return median.clamp(1e-12, torch.finfo(d.dtype).max).unsqueeze(-1)


def cosine_power(z: Float[Tensor, "*B n d"], power: float = 3.0) -> Float[Tensor, "*B n n"]:
    """Cosines of nodes where they are positive, to a power: max(0, cos(z_i, z_j))^power.

    Args:
        z: (…, n, d) features.
        power: 3 is iLPC's.

    Returns:
        (…, n, n) in [0, 1].
    """
    return cosine(z, z).clamp_min(0) ** power


def std_scaled(z: Float[Tensor, "*B n d"], mask: Bool[Tensor, "*B n"]) -> Float[Tensor, "*B n n"]:
    """Affinities exp(-d_ij / std(d)) of squared distances, which fit features of any length.

    Args:
        z: (…, n, d) features.
        mask: (…, n) which nodes are real; the deviation is over pairs of two different ones.

    Returns:
        (…, n, n).

    Source:
        Rodriguez et al. 2020 (EPNet), https://arxiv.org/abs/2003.04151.
    """
    d = squared_euclidean(z, z)
    real = pairs(mask)
    count = real.sum((-1, -2), keepdim=True).clamp_min(2)
    mean = (d * real).sum((-1, -2), keepdim=True) / count
    squares = ((d - mean).square() * real).sum((-1, -2), keepdim=True)
    variance = squares / (count - 1)
    # Of equal distances the deviation is zero, and its square root has no gradient there.
    return torch.exp(-d / variance.clamp_min(1e-12).sqrt())


def pairs(mask: Bool[Tensor, "*B n"]) -> Bool[Tensor, "*B n n"]:
    """Which pairs are two different real nodes.

    Args:
        mask: (…, n) which nodes are real.

    Returns:
        (…, n, n) bool, without the diagonal.
    """
    itself = torch.eye(mask.shape[-1], dtype=torch.bool, device=mask.device)
    return mask.unsqueeze(-1) & mask.unsqueeze(-2) & ~itself


def joined(labels: Float[Tensor, "*B n C"]) -> Float[Tensor, "*B n n"]:
    """The probability that two labeled nodes share their class: sum_c y_ic y_jc.

    Args:
        labels: (…, n, C) label weights, which are normalised to one for each node.

    Returns:
        (…, n, n), zero where one of the two has no label.
    """
    y = labels / total_or_one(labels)
    return y @ y.mT
