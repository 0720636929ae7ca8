"""Scale a non-negative matrix to given sums of rows and columns.

It is the limit of Sinkhorn's rounds, by Newton's method on its dual.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from graphfsl.functional.newton import damping

RIDGE = 1e-9  # of the row sums, on the curvature: it is regular where the function is flat
LEVELS, AT_EACH = 10, 6  # temperatures on the way down to 1, and steps of Newton's method at each
EASY = 10.0  # how far scores may lie apart for Newton's method to start at zero


@torch.no_grad()
def potentials(
    log_p: Float[Tensor, "*B n C"],
    rows: Float[Tensor, "*#B n"],
    columns: Float[Tensor, "*#B C"],
    steps: int = 12,
    start: Float[Tensor, "*B C"] | None = None,
) -> Float[Tensor, "*B C"]:
    """What must be added to log-probabilities so that the columns have given sums.

    It is the v for which rows_i softmax_c(log_p_ic + v_c) has the column sums `columns`: the limit
    of Sinkhorn's rounds, and the minimum of the convex

        sum_i rows_i logsumexp_c(log_p_ic + v_c) - sum_c columns_c v_c

    by damped steps of Newton's method in double precision. Without a start they begin at the minima
    at higher temperatures, log_p / T with T from (range of a row's log_p) / EASY down to 1: where
    all rows are sure of their column, the function is flat, and the steps would be blind. Many v do
    there: it is one that lies amid them, as the way down ended there.

    Args:
        log_p: (…, n, C); a column of sum zero may be minus infinity throughout.
        rows: (…, n) sums of the rows.
        columns: (…, C) sums of the columns; together as much as the rows.
        steps: of Newton's method; twelve meet the columns, whether log_p varies by ten units or by
            ten thousand.
        start: (…, C) where they begin.

    Returns:
        (…, C) of mean zero; zero for a column of sum zero.
    """
    # Double precision, as the sums of rows that are sure differ from `columns` by less than single
    # precision tells.
    dtype, none = log_p.dtype, columns == 0
    log_p = log_p.mT.masked_fill(none.unsqueeze(-1), -1e30).double()
    rows, columns = rows.unsqueeze(-2).double(), columns.double()
    v = log_p.new_zeros(log_p.shape[:-1]) if start is None else start.double()
    if start is None:
        hottest = (_spread(log_p, rows, none) / EASY).clamp_min(1)
        for level in range(LEVELS):
            temperature = hottest ** (1 - level / LEVELS)
            v = temperature * _newton(
                log_p / temperature.unsqueeze(-1), rows, columns, AT_EACH, v / temperature
            )
    v = _newton(log_p, rows, columns, steps, v)
    # What all columns share changes nothing: the mean is zero.
    here = (~none).to(v.dtype)
    v = here * (v - (here * v).sum(-1, keepdim=True) / here.sum(-1, keepdim=True).clamp_min(1))
    return v.to(dtype)


@torch.no_grad()
def balance(
    log_p: Float[Tensor, "*B n C"],
    rows: Float[Tensor, "*B n"],
    share: float,
    steps: int = 12,
    start: Float[Tensor, "*B C"] | None = None,
) -> Float[Tensor, "*B C"]:
    """The `potentials` that make the classes equally frequent, or partly so.

    Args:
        log_p: (…, n, C); a class that is minus infinity throughout is absent.
        rows: (…, n) weights of the rows.
        share: 1 for columns of equal sums over the classes that are there, 0 for those of rows_i
            softmax_c(log_p_ic), whose potentials are zero, or between.
        steps: see `potentials`.
        start: see `potentials`.

    Returns:
        (…, C); zero where there is one row alone.
    """
    here = (log_p > float("-inf")).any(-2).to(log_p.dtype)
    count = rows.sum(-1, keepdim=True)
    columns = here * count / here.sum(-1, keepdim=True).clamp_min(1)
    if share < 1:
        own = (log_p.mT.softmax(-2).nan_to_num(0) @ rows.unsqueeze(-1)).squeeze(-1)
        columns = own.lerp(columns, share)
    return potentials(log_p, rows, columns, steps, start).where(count > 1, 0)


def _newton(
    log_p: Float[Tensor, "*B C n"],
    rows: Float[Tensor, "*#B 1 n"],
    columns: Float[Tensor, "*#B C"],
    steps: int,
    v: Float[Tensor, "*#B C"],
) -> Float[Tensor, "*B C"]:
    """`steps` damped steps of Newton's method from v (…, C) on."""
    ridge = RIDGE * rows.sum(-1).clamp_min(1)
    eye = torch.eye(v.shape[-1], dtype=v.dtype, device=v.device) * ridge.unsqueeze(-1)
    for _ in range(steps):
        p = (log_p + v.unsqueeze(-1)).softmax(-2)
        weighted = rows * p
        total = weighted.sum(-1)
        curvature = total.diag_embed() - weighted @ p.mT + eye
        delta = torch.linalg.solve_ex(curvature, (columns - total).unsqueeze(-1))[0].squeeze(-1)
        v = v + damping(delta.amax(-1, keepdim=True) - delta.amin(-1, keepdim=True)) * delta
    return v


def _spread(
    log_p: Float[Tensor, "*B C n"], rows: Float[Tensor, "*#B 1 n"], none: Bool[Tensor, "*#B C"]
) -> Float[Tensor, "*B 1"]:
    """How far the scores of one row lie apart, at most: (…, 1).

    Only columns that are not `none` count, and rows that count.
    """
    none = none.unsqueeze(-1)
    most = log_p.masked_fill(none, float("-inf")).amax(-2)
    least = log_p.masked_fill(none, float("inf")).amin(-2)
    spread = (most - least).where(rows.squeeze(-2) > 0, 0).nan_to_num(0, posinf=0, neginf=0)
    return F.pad(spread, (0, 1)).amax(-1, keepdim=True)  # of no row it is zero
