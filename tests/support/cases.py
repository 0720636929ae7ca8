"""What many tests build: see `graphfsl.testing`, which authors elsewhere use too."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from graphfsl.core import registry
from graphfsl.testing import (
    DIM,
    SHOT,
    WAY,
    TinyEncoder,
    around,
    episodes,
    learner,
    part,
    unlike_fresh,
)

__all__ = [
    "DIM",
    "METHODS",
    "SHOT",
    "WAY",
    "TinyEncoder",
    "around",
    "episodes",
    "learner",
    "pairwise",
    "part",
    "sinkhorn",
    "unlike_fresh",
]
METHODS = sorted(registry.find())  # graphfsl's own


def pairwise(axes: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """A set of combinations in which every pair of values of two axes occurs, greedily small."""
    names = list(axes)
    missing = {
        ((a, x), (b, y))
        for a, b in itertools.combinations(names, 2)
        for x in axes[a]
        for y in axes[b]
    }
    everything = [
        dict(zip(names, values, strict=True)) for values in itertools.product(*axes.values())
    ]

    def covers(row: dict[str, Any]) -> set[Any]:
        return {((a, row[a]), (b, row[b])) for a, b in itertools.combinations(names, 2)} & missing

    chosen = []
    while missing:
        best = max(everything, key=lambda row: len(covers(row)))
        missing -= covers(best)
        chosen.append(best)
    return chosen


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
