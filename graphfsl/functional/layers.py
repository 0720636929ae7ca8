"""Scores of heads that answer at every layer, the last being the answer."""

from jaxtyping import Float
from torch import Tensor


def last_layer(scores: Float[Tensor, "*axes C"]) -> Float[Tensor, "*answer C"]:
    """The answer of a head that scores at every layer: the last of them.

    Args:
        scores: (L, B, n, C), or (B, n, C) of one layer, which are themselves the answer; so are
            those of images that are answered cell by cell, (B, n, h, w, C).

    Returns:
        (B, n, C) or (B, n, h, w, C).
    """
    return scores[-1] if scores.ndim == 4 else scores
