"""Cross-entropy against label weights."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def cross_entropy(
    scores: Float[Tensor, "*B n C"], w: Float[Tensor, "*B n C"]
) -> Float[Tensor, "*B n"]:
    """-sum_c w_ic log softmax_c(scores_i); a class without weight may score -inf. (…, n, C), (…, n,
    C) -> (…, n).
    """
    # 0 * -inf must not make the loss NaN.
    return -(w * scores.log_softmax(-1).where(w > 0, 0)).sum(-1)
