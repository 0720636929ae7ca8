"""One step of soft k-means around labeled prototypes."""

from __future__ import annotations

from torch import Tensor

from graphfsl.functional.prototypes import prototypes


def soft_assign(logits: Tensor, mask: Tensor) -> Tensor:
    """z_jc = softmax_c(logits_jc), zero for padded nodes; absent classes carry -inf. (B, n, C), (B, n) -> (B, n, C)."""
    # A row may be -inf throughout only where a task is empty; softmax would give NaN there.
    return logits.softmax(-1).nan_to_num(0).masked_fill(~mask.unsqueeze(-1), 0)


def refined_prototypes(z: Tensor, w: Tensor, assignment: Tensor) -> Tensor:
    """p_c = (sum_i h_i w_ic + sum_j h_j z_jc) / (sum_i w_ic + sum_j z_jc): Ren et al. 2018, equation 4.

    z (B, n, d) all nodes, w (B, n, C) their label weights, assignment (B, n, C) soft labels of the pool, zero
    elsewhere -> (B, C, d). An assignment of zero returns the class means.
    """
    return prototypes(z, w + assignment)
