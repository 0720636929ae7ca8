"""Scores of heads that answer at every layer, the last being the answer."""

from jaxtyping import Float
from torch import Tensor


def last_layer(scores: Float[Tensor, "*layers B n C"]) -> Float[Tensor, "B n C"]:
    """(L, B, n, C) -> (B, n, C); scores of one layer, (B, n, C), are themselves the answer."""
    return scores[-1] if scores.ndim == 4 else scores
