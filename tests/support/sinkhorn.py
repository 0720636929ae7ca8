"""Sinkhorn's rounds, one after the other."""

from __future__ import annotations

from torch import Tensor


def sinkhorn(log_p: Tensor, rows: Tensor, columns: Tensor, rounds: int) -> Tensor:
    """diag(u) exp(log_p) diag(v) after so many of Sinkhorn's rounds: the columns are scaled, then
    the rows.
    """
    for _ in range(rounds):
        for sums, dim in ((columns.unsqueeze(-2), -2), (rows.unsqueeze(-1), -1)):
            total = log_p.logsumexp(dim, keepdim=True)
            log_p = (log_p - total.where(total > float("-inf"), 0) + sums.log()).nan_to_num(
                float("-inf"), posinf=float("-inf")
            )
    return log_p.exp()
