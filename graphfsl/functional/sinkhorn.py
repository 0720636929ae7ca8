"""Sinkhorn's scaling of a non-negative matrix to given marginals."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def sinkhorn(
    log_p: Float[Tensor, "*B n C"], rows: Float[Tensor, "*#B n"], columns: Float[Tensor, "*#B C"], steps: int
) -> Float[Tensor, "*B n C"]:
    """diag(u) exp(log_p) diag(v) whose rows sum to `rows` and whose columns to `columns`, after `steps` rounds.

    The columns are scaled first, the rows last, so that these are met exactly. A row or column that is to sum to zero,
    such as padding or an absent class, is zero throughout; log_p may be -inf there. (…, n, C) -> (…, n, C).
    """
    log_r, log_c = rows.log().unsqueeze(-1), columns.log().unsqueeze(-2)
    x = log_p
    for _ in range(steps):
        x = _scaled(x, log_c, -2)
        x = _scaled(x, log_r, -1)
    return x.exp()


def _scaled(x: Float[Tensor, "*B n C"], log_sum: Float[Tensor, "*#B r c"], dim: int) -> Float[Tensor, "*B n C"]:
    """x - logsumexp(x) + log_sum along a dimension; -inf where the sum is to be zero or there is nothing to scale."""
    total = x.logsumexp(dim, keepdim=True)
    return (x - total.where(total > float("-inf"), 0) + log_sum).nan_to_num(float("-inf"), posinf=float("-inf"))
