"""Class means of weighted nodes: the one function that class means, soft k-means and pseudo-labels share."""

from __future__ import annotations

from torch import Tensor


def prototypes(z: Tensor, w: Tensor) -> Tensor:
    """p_c = sum_i w_ic z_i / sum_i w_ic; zero where a class has no weight. (B, n, d), (B, n, C) -> (B, C, d)."""
    total = w.sum(-2).unsqueeze(-1)
    return (w.mT @ z) / total.where(total > 0, 1)


def present(w: Tensor) -> Tensor:
    """Which classes have weight anywhere. (B, n, C) -> (B, C) bool."""
    return w.sum(-2) > 0


def hide_absent(scores: Tensor, w: Tensor) -> Tensor:
    """Scores (…, B, n, C) with minus infinity where w (B, n, C) gives a class no weight anywhere."""
    return scores.masked_fill(~present(w).unsqueeze(-2), float("-inf"))
