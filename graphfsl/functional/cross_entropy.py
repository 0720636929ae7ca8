"""Cross-entropy against label weights."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def cross_entropy(
    scores: Float[Tensor, "*B n C"], w: Float[Tensor, "*B n C"]
) -> Float[Tensor, "*B n"]:
    """Cross-entropy against label weights: -sum_c w_ic log softmax_c(scores_i).

    Args:
        scores: (…, n, C); a class without weight may score minus infinity.
        w: (…, n, C) label weights.

    Returns:
        (…, n) in nats.
    """
    # 0 * -inf must not make the loss NaN.
    return -(w * scores.log_softmax(-1).where(w > 0, 0)).sum(-1)
