"""Edges between the nodes of a graph, and their loss as labels of pairs.

An edge e_ij goes from j (columns) to i (rows).
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from graphfsl.functional.prototypes import prototypes


def upper(e: Bool[Tensor, "*B n n"]) -> Bool[Tensor, "*B p"]:
    """The entries above the diagonal, row by row.

    Args:
        e: (…, n, n).

    Returns:
        (…, n (n - 1) / 2) those of the pairs i < j.
    """
    i, j = torch.triu_indices(e.shape[-1], e.shape[-1], 1, device=e.device)
    return e.flatten(-2).index_select(-1, i * e.shape[-1] + j)


def mirrored(v: Float[Tensor, "*B p"], n: int) -> Float[Tensor, "*B {n} {n}"]:
    """The symmetric matrix of values for pairs of nodes; the inverse of `upper`.

    Args:
        v: (…, n (n - 1) / 2) values of the pairs i < j.
        n: how many nodes.

    Returns:
        (…, n, n), zero on the diagonal.
    """
    i, j = torch.triu_indices(n, n, 1, device=v.device)
    zero = v.shape[-1]  # where a zero is appended
    place = torch.full((n, n), zero, device=v.device)
    place[i, j] = torch.arange(zero, device=v.device)
    place = torch.minimum(place, place.mT)
    padded = F.pad(v, (0, 1))
    dense: Tensor = padded.index_select(-1, place.flatten()).unflatten(-1, (n, n))
    return dense


def differences(x: Float[Tensor, "*B n d"]) -> Float[Tensor, "*B p d"]:
    """The differences x_i - x_j of the pairs i < j, each once.

    Args:
        x: (…, n, d).

    Returns:
        (…, n (n - 1) / 2, d).
    """
    i, j = torch.triu_indices(x.shape[-2], x.shape[-2], 1, device=x.device)
    return x.index_select(-2, i) - x.index_select(-2, j)


def reweighted(e: Float[Tensor, "*B n n"], s: Float[Tensor, "*B n n"]) -> Float[Tensor, "*B n n"]:
    """Multiply edges by weights and keep the sum of every row.

        s_ij e_ij / sum_k s_ik e_ik * sum_k e_ik

    Args:
        e: (…, n, n) edges, not negative.
        s: (…, n, n) weights, not negative.

    Returns:
        (…, n, n).
    """
    return F.normalize(s * e, p=1, dim=-1) * e.sum(-1, keepdim=True)


def class_means(e: Float[Tensor, "*B n n"], w: Float[Tensor, "*B n C"]) -> Float[Tensor, "*B n C"]:
    """Mean edge between each node and the nodes of each class, both directions averaged.

    Args:
        e: (…, n, n) edges.
        w: (…, n, C) label weights.

    Returns:
        (…, n, C), zero for a class without weight.
    """
    return prototypes((e + e.mT) / 2, w).mT


def edge_loss(
    same: Float[Tensor, "*L B Q C"],
    other: Float[Tensor, "*L B Q C"],
    y: Int[Tensor, "B Q"],
    there: Bool[Tensor, "B C"],
) -> Float[Tensor, "*L"]:
    """Balanced binary cross-entropy of the edges between queries and classes.

    It is minus the mean of log e over each query's own class, minus the mean of log(1 - e) over the
    other classes: as a sum of two means the few edges within a class count as much as the many
    between classes.

    Args:
        same: (…, B, Q, C) log e.
        other: (…, B, Q, C) log(1 - e).
        y: (B, Q) the column of each query; below zero is padding.
        there: (B, C) which classes a task has.

    Returns:
        (…) a loss for each layer.
    """
    real = (y >= 0).unsqueeze(-1) & there.unsqueeze(-2)
    own = F.one_hot(y.clamp_min(0), same.shape[-1]).bool()

    def mean(log_e: Tensor, edges: Tensor) -> Tensor:
        return log_e.where(edges, 0).sum((-3, -2, -1)) / edges.sum().clamp_min(1)

    return -mean(same, real & own) - mean(other, real & ~own)
