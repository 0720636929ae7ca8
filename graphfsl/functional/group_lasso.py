"""A linear model in which every node may have an error of its own.

A group lasso on the errors keeps most of them at zero.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from graphfsl.functional.fista import fista


def leaving(
    u: Float[Tensor, "B n r"],
    y: Float[Tensor, "B n C"],
    penalties: int = 20,
    smallest: float = 1e-3,
    steps: int = 10,
) -> Float[Tensor, "B n"]:
    """How small a penalty must be before a node's error enters a linear model of labels.

        gamma(lambda) = argmin 1/2 ||(I - H)(Y - gamma)||^2 + lambda sum_i ||gamma_i||

    This is Y = X beta + gamma without its beta; H = U U^T projects onto the columns of X. The grid
    of lambda is geometric, `penalties` values below the least that leaves all gamma zero, down to
    its part `smallest`; each goes on from the solution before. The step of FISTA is 1: I - H is a
    projection.

    Args:
        u: (B, n, r) orthonormal columns, or zero ones.
        y: (B, n, C) labels.
        penalties: values of lambda.
        smallest: the last of them, as a share of the first that leaves all zero.
        steps: of `fista` at each.

    Returns:
        (B, n); less is more credible: a node that is in the model for k of the penalties gets k,
        and, so that there are few ties, the share of lambda that its residual has at the last
        penalty that leaves it out.

    Source:
        Wang et al. 2020 (ICI), https://arxiv.org/abs/2003.11853, section 3.
    """
    free = y - u @ (u.mT @ y)
    most = _length(free).amax(1, keepdim=True)
    gamma = torch.zeros_like(y)
    last = (_length(free) / most).squeeze(-1)  # reach at the last penalty that leaves a node out
    count = torch.zeros_like(last)  # penalties for which a node is in the model
    for k in range(1, penalties + 1):
        penalty = most * smallest ** (k / penalties)
        gamma = fista(_proximal_step(free, u, penalty), gamma, steps)
        reach = (_length(free + u @ (u.mT @ gamma)) / penalty).squeeze(-1)
        count = count + (reach > 1)
        last = reach.where(reach <= 1, last)
    return count + last


def _proximal_step(
    free: Float[Tensor, "B n C"], u: Float[Tensor, "B n r"], penalty: Float[Tensor, "B 1 1"]
) -> Callable[[Float[Tensor, "B n C"]], Float[Tensor, "B n C"]]:
    """gamma -> shrink(gamma - gradient): the gradient is (I - H) (gamma - Y)."""

    def step(gamma: Tensor) -> Tensor:
        return shrink(free + u @ (u.mT @ gamma), penalty)

    return step


def shrink(z: Float[Tensor, "B n C"], penalty: Float[Tensor, "B 1 1"]) -> Float[Tensor, "B n C"]:
    """Shorten every row by the penalty: z_i (1 - penalty / ||z_i||)+.

    It is the proximal map of penalty * sum_i ||z_i||.

    Args:
        z: (B, n, C).
        penalty: (B, 1, 1).

    Returns:
        (B, n, C), zero for rows that are shorter than the penalty.
    """
    return z * (1 - penalty / _length(z)).clamp_min(0)


def _length(z: Float[Tensor, "B n C"]) -> Float[Tensor, "B n 1"]:
    return z.square().sum(-1, keepdim=True).sqrt().clamp_min(1e-12)
