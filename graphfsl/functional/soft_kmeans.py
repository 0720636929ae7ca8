"""Soft assignment of nodes to classes."""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor


def soft_assign(
    logits: Float[Tensor, "*B n C"], mask: Bool[Tensor, "*B n"]
) -> Float[Tensor, "*B n C"]:
    """The shares of the classes in each node: z_jc = softmax_c(logits_jc).

    Args:
        logits: (…, n, C); absent classes carry minus infinity.
        mask: (…, n) which nodes are real.

    Returns:
        (…, n, C), zero for padding.
    """
    # A row may be -inf throughout only where a task is empty; softmax would give NaN there.
    return logits.softmax(-1).nan_to_num(0).masked_fill(~mask.unsqueeze(-1), 0)
