"""Scores of heads that answer at every layer, the last being the answer."""

from jaxtyping import Float
from torch import Tensor


def last_layer(scores: Float[Tensor, "*layers B n C"]) -> Float[Tensor, "B n C"]:
    """The answer of a head that scores at every layer: the last of them.

    Args:
        scores: (L, B, n, C), or (B, n, C) of one layer, which are themselves the answer.

    Returns:
        (B, n, C).
    """
    return scores[-1] if scores.ndim == 4 else scores
