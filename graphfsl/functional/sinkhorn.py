"""Sinkhorn's scaling of a non-negative matrix to given marginals, round by round or in its limit."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

RIDGE = 1e-7


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


@torch.no_grad()
def potentials(
    log_p: Float[Tensor, "*B n C"],
    rows: Float[Tensor, "*#B n"],
    columns: Float[Tensor, "*#B C"],
    steps: int,
    start: Float[Tensor, "*B C"] | None = None,
) -> Float[Tensor, "*B C"]:
    """The v for which rows_i softmax_c(log_p_ic + v_c) has the column sums `columns`: the limit of Sinkhorn's rounds.

    It is the minimum of sum_i rows_i logsumexp_c(log_p_ic + v_c) - sum_c columns_c v_c, which is convex, by `steps`
    damped steps of Newton's method from `start` or zero. Ten meet the columns where log_p varies by some ten units,
    thirty where it does by a hundred. Rows and columns must have the same sum, R. A column of sum zero may be -inf
    throughout; v is zero there. (…, n, C) -> (…, C).

    Where every row is sure of its column many v do, and rounding would choose: RIDGE R / 2 ||v||^2 on top takes the
    least of them, and moves a column's sum by RIDGE R v_c.
    """
    # Double precision, as the sums of rows that are sure differ from `columns` by less than single precision tells.
    dtype, none = log_p.dtype, columns == 0
    log_p = log_p.mT.masked_fill(none.unsqueeze(-1), -1e30).double()
    rows, columns = rows.unsqueeze(-2).double(), columns.double()
    v = torch.zeros_like(log_p[..., 0]) if start is None else start.double()
    ridge = RIDGE * rows.sum(-1).clamp_min(1)
    eye = torch.eye(v.shape[-1], dtype=v.dtype, device=v.device) * ridge.unsqueeze(-1)
    for _ in range(steps):
        p = (log_p + v.unsqueeze(-1)).softmax(-2)
        weighted = rows * p
        total = weighted.sum(-1)
        curvature = total.diag_embed() - weighted @ p.mT + eye
        slope = columns - total - ridge * v
        delta = torch.linalg.solve_ex(curvature, slope.unsqueeze(-1))[0].squeeze(-1)
        # On the line to v + delta the third derivative is at most r times the second: log(1 + r) / r never overshoots.
        r = (delta.amax(-1, keepdim=True) - delta.amin(-1, keepdim=True)).clamp_min(1e-6)
        v = v + (r.log1p() / r) * delta
    # The least v has the mean zero; along what all columns share, nothing but the ridge holds it.
    here = (~none).to(v.dtype)
    v = here * (v - (here * v).sum(-1, keepdim=True) / here.sum(-1, keepdim=True).clamp_min(1))
    return v.to(dtype)


@torch.no_grad()
def balance(
    log_p: Float[Tensor, "*B n C"],
    rows: Float[Tensor, "*B n"],
    share: float,
    steps: int,
    start: Float[Tensor, "*B C"] | None = None,
) -> Float[Tensor, "*B C"]:
    """The `potentials` for columns of equal sums over the classes that are not -inf throughout (share 1), for those
    of rows_i softmax_c(log_p_ic), which are zero (share 0), or between. One row alone is left as it is.

    (…, n, C), (…, n) -> (…, C).
    """
    here = (log_p > float("-inf")).any(-2).to(log_p.dtype)
    count = rows.sum(-1, keepdim=True)
    columns = here * count / here.sum(-1, keepdim=True).clamp_min(1)
    if share < 1:
        own = (log_p.mT.softmax(-2).nan_to_num(0) @ rows.unsqueeze(-1)).squeeze(-1)
        columns = own.lerp(columns, share)
    return potentials(log_p, rows, columns, steps, start).where(count > 1, 0)


def _scaled(x: Float[Tensor, "*B n C"], log_sum: Float[Tensor, "*#B r c"], dim: int) -> Float[Tensor, "*B n C"]:
    """x - logsumexp(x) + log_sum along a dimension; -inf where the sum is to be zero or there is nothing to scale."""
    total = x.logsumexp(dim, keepdim=True)
    return (x - total.where(total > float("-inf"), 0) + log_sum).nan_to_num(float("-inf"), posinf=float("-inf"))
