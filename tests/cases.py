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
    Method,
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
    "answers_values",
    "around",
    "episodes",
    "episodes_of",
    "learner",
    "pairwise",
    "part",
    "sinkhorn",
    "unlike_fresh",
]
METHODS = sorted(registry.find())  # graphfsl's own


def answers_values(slot: str, name: str) -> bool:
    """Whether a method answers with real values, so that episodes of classes are not for it."""
    return Method(slot, registry.get(slot, name)).of_values


def episodes_of(slot: str, name: str, **options: Any) -> tuple[Any, Any]:
    """Episodes of the kind that a method answers, and their target."""
    return Method(slot, registry.get(slot, name)).episodes(**options)


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
