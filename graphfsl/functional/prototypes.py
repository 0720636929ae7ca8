"""Class means of weighted nodes, which many methods share.

Nearest class means, soft k-means and pseudo-labels are this one function.
"""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor

from graphfsl.functional.statistics import or_one


def prototypes(z: Float[Tensor, "*B n d"], w: Float[Tensor, "*B n C"]) -> Float[Tensor, "*B C d"]:
    """Class means of weighted nodes: p_c = sum_i w_ic z_i / sum_i w_ic.

    Args:
        z: (…, n, d) nodes.
        w: (…, n, C) label weights.

    Returns:
        (…, C, d), zero where a class has no weight.
    """
    total = w.sum(-2).unsqueeze(-1)
    return (w.mT @ z) / or_one(total)


def present(w: Float[Tensor, "*B n C"]) -> Bool[Tensor, "*B C"]:
    """Which classes have weight anywhere.

    Args:
        w: (…, n, C) label weights.

    Returns:
        (…, C) bool.
    """
    return w.sum(-2) > 0


def hide_absent(
    scores: Float[Tensor, "*layers B n C"], w: Float[Tensor, "B m C"]
) -> Float[Tensor, "*layers B n C"]:
    """Give minus infinity to the scores of classes that a task does not have.

    Args:
        scores: (…, B, n, C).
        w: (B, m, C) label weights; a class without weight anywhere is absent.

    Returns:
        (…, B, n, C).
    """
    return scores.masked_fill(~present(w).unsqueeze(-2), float("-inf"))
