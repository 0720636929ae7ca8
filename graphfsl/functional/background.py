"""Classes that are each told from all the rest, and the background, which is none of them."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

LEAST = 1e-6  # probability, so that its logarithm is a number


def beside_background(p: Float[Tensor, "*B N"]) -> Float[Tensor, "*B C"]:
    """Log-probabilities of the background and of each class, of independent probabilities.

        score_0 = sum_c log(1 - p_c),   score_c = log p_c + sum_{c' != c} log(1 - p_c')

    For one class the larger one is the class where p > 1/2. Scores are not normalised: that all
    classes, or several, are there at once has no column.

    Args:
        p: (…, N) the probability of each class against the rest, in [0, 1].

    Returns:
        (…, N + 1), the background first.
    """
    sure = p.clamp(LEAST, 1 - LEAST)
    none = (1 - sure).log().sum(-1, keepdim=True)
    odds = sure.log() - (1 - sure).log()
    return torch.cat([none, none + odds], -1)
