"""The bootstrap over classes: how far numbers would move with other classes of the same kind."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def resampled_counts(
    strata: Int[Tensor, " C"], resamples: int, seed: int = 0
) -> Float[Tensor, "R C"]:
    """How often each class is drawn where classes are drawn again, with replacement.

    Args:
        strata: (C,) the group of each class; as many are drawn of each group as it has.
        resamples: R.
        seed: of the draws.

    Returns:
        (R, C) whole numbers, whose sum over a group is the group's size.

    Source:
        Efron 1979, https://doi.org/10.1214/aos/1176344552.
    """
    g = torch.Generator().manual_seed(seed)
    counts = torch.zeros(resamples, len(strata), dtype=torch.float64)
    for group in strata.unique():
        members = (strata == group).nonzero().squeeze(1)
        drawn = torch.randint(len(members), (resamples, len(members)), generator=g)
        ones = torch.ones(drawn.shape, dtype=torch.float64)
        counts.scatter_add_(1, members[drawn], ones)
    return counts


def bootstrap_interval(values: Float[Tensor, " R"]) -> tuple[float, float]:
    """The 2.5 and 97.5 percentiles of resampled values."""
    low, high = values.double().quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high
