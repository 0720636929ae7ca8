"""How much an image seems to show a class at all, of the scores of its cells."""

from __future__ import annotations

import math

from jaxtyping import Float
from torch import Tensor

SHARE = 0.05  # of an image's cells, the most probable ones


def presence(scores: Float[Tensor, "*B h w C"]) -> Float[Tensor, "*B N"]:
    """The sign that an image shows each class: the mean probability of its most probable cells.

    They are SHARE of all cells, so that neither a single cell nor the size of the object decides.

    Args:
        scores: (…, h, w, C) of cells, the background first.

    Returns:
        (…, C - 1) in [0, 1].
    """
    p = scores.float().softmax(-1).flatten(-3, -2)[..., 1:]
    count = max(1, math.ceil(SHARE * p.shape[-2]))
    mean: Tensor = p.topk(count, -2).values.mean(-2)
    return mean
