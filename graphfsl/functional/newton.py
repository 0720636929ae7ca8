"""The length of a step of Newton's method on a sum of log-sum-exps."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def damping(spread: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """log(1 + r) / r: the share of a full step that never overshoots.

    On the line to x + delta the third derivative of such a function is at most r times the second,
    r being how far apart the step moves the logits of one softmax. So it is self-concordant along
    the line, and the damped step lowers it, whatever the data.

    Args:
        spread: (…) r >= 0, the range of the step's change of the logits, the largest over the rows.

    Returns:
        (…) in (0, 1].

    Source:
        Sun, Tran-Dinh 2019, https://arxiv.org/abs/1703.04599, the case nu = 2.
    """
    r = spread.clamp_min(1e-6)
    return r.log1p() / r
