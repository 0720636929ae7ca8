"""What numbers of a pool's nodes say of it, whatever its size: places among them, and moments."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

LEAST_VARIANCE = 1e-8  # of equal numbers, whose deviation divides


def place_among(
    value: Float[Tensor, "B m"], pool: Float[Tensor, "B u"], mask: Bool[Tensor, "B u"]
) -> Float[Tensor, "B m"]:
    """The share of a pool's numbers that lie below each value, ties counting half.

    A pool in which every node stands twice, or ten times, gives the same shares.

    Args:
        value: (B, m) of which the place is asked.
        pool: (B, u) the numbers of the pool's nodes.
        mask: (B, u) which of these nodes are real.

    Returns:
        (B, m) in [0, 1]; 0 where the pool is empty.
    """
    ordered = pool.masked_fill(~mask, float("inf")).sort(-1).values
    below = torch.searchsorted(ordered, value.contiguous())
    upto = torch.searchsorted(ordered, value.contiguous(), right=True)
    count = mask.sum(-1, keepdim=True)
    ties = below.minimum(count) + upto.minimum(count)  # padding is infinite, as a value may be
    return ties.to(value.dtype) / (2 * count.clamp_min(1))


def moments(
    value: Float[Tensor, "B u"], mask: Bool[Tensor, "B u"]
) -> tuple[Float[Tensor, "B u"], Float[Tensor, "B 4"]]:
    """Standardise numbers of a pool's nodes by their mean and deviation.

    Args:
        value: (B, u) one number of each node.
        mask: (B, u) which nodes are real.

    Returns:
        (B, u) in deviations from the mean, zero for padding; and (B, 4) mean, deviation, skewness
        and kurtosis (3 of a normal density) of each pool, zeros where it is empty.
    """
    real = mask.to(value.dtype)
    count = real.sum(-1, keepdim=True).clamp_min(1)

    def average(t: Tensor) -> Tensor:
        return (t * real).sum(-1, keepdim=True) / count

    mean = average(value)
    apart = (value - mean) * real
    deviation = average(apart.square()).clamp_min(LEAST_VARIANCE).sqrt()
    standard = apart / deviation
    shape = [average(standard**3), average(standard**4)]
    return standard, torch.cat([mean, deviation, *shape], -1) * mask.any(-1, keepdim=True)


def entropy(p: Float[Tensor, "*B C"]) -> Float[Tensor, "*B"]:
    """How unsure probabilities are: -sum_c p_c log p_c, in nats.

    Args:
        p: (…, C), not negative; a class of probability 0 adds nothing.

    Returns:
        (…).
    """
    return -torch.xlogy(p, p).sum(-1)
