"""The table of runs on data sets: one line a run, one column a data set and setting, and ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from scipy.stats import rankdata

from graphfsl.functional.comparison import paired_difference
from graphfsl.io.errors import require
from graphfsl.loops.row import Row, title_of


def pairs_table(
    rows: Mapping[str, Sequence[Row]], images: Sequence[str] = ()
) -> list[dict[str, str]]:
    """A line for each run: its value in each column, and its mean rank over the columns.

    Behind the value of a further run stands its gain over the first one on the same episodes, with
    the 95% interval of the mean difference. The best of a column has rank 1, and equal ones share
    the mean of their ranks. Runs of another kind than the first, such as transductive ones, say so
    and have ranks among themselves: they know more, so that theirs is a gain and no ranking.

    Args:
        rows: run -> its rows, those of all runs in the same order of data sets and settings.
        images: of each row of a run, what was done to its images, where something was.

    Raises:
        InputError: where a run has other rows than another one.
    """
    names = list(rows)
    first = rows[names[0]]
    done = images or [""] * len(first)
    kinds = {name: _kind_of_all(own) for name, own in rows.items()}
    columns = [_column(row, of, kinds[names[0]]) for row, of in zip(first, done, strict=True)]
    for name in names:
        pairs = zip(rows[name], done, strict=False)
        own = [_column(row, of, kinds[name]) for row, of in pairs]
        require(
            own == columns,
            f"{name} is asked {', '.join(own)}, but {names[0]} {', '.join(columns)}; name one "
            "setting, such as episode.way=5 episode.shot=1",
        )
    ranks = _mean_ranks(rows, kinds)
    lines = []
    for name in names:
        numbers = [row.value.number for row in rows[name]]
        if name != names[0]:
            gains = map(_gain, rows[name], first)
            numbers = [f"{n}{gain}" for n, gain in zip(numbers, gains, strict=True)]
        kind = kinds[name]
        title = name if kind in ("", "inductive") else f"{name} ({kind})"
        line = dict(zip(columns, numbers, strict=True))
        lines.append({"run": title, **line, "mean rank": f"{ranks[name]:.2f}"})
    return lines


def _kind_of_all(rows: Sequence[Row]) -> str:
    """The kind that all rows of a run are of; empty where they differ."""
    kinds = {row.setting for row in rows}
    return kinds.pop() if len(kinds) == 1 else ""


def _column(row: Row, images: str, kind_of_all: str) -> str:
    """What a row is of, with its kind where the run's differ, and what was done to images."""
    kind = "" if kind_of_all or row.setting == "inductive" else f", {row.setting}"
    return f"{row.data} {title_of(row)}{kind}" + (f", {images}" if images else "")


def _mean_ranks(rows: Mapping[str, Sequence[Row]], kinds: Mapping[str, str]) -> dict[str, float]:
    """The mean rank of each run over the columns, among the runs of its kind."""
    found: dict[str, float] = {}
    for kind in set(kinds.values()):
        names = [name for name in rows if kinds[name] == kind]
        ranks_of_columns = []
        for of_column in zip(*(rows[name] for name in names), strict=True):
            scores = np.array([row.score for row in of_column])
            ranks_of_columns.append(rankdata(-scores))
        means = np.mean(ranks_of_columns, 0)
        found |= dict(zip(names, means.tolist(), strict=True))
    return found


def _gain(row: Row, first: Row) -> str:
    """The gain over the first run on the same episodes: " (+1.20 ± 0.30)"; empty without one.

    Of errors it has as many digits as they have, and is below 0 where they are smaller.
    """
    same = (row.data, row.asked, row.seed) == (first.data, first.asked, first.seed)
    if not same or len(row.values) != len(first.values) or len(row.values) < 2:
        return ""
    a, b = (torch.tensor(one.values, dtype=torch.float64) for one in (row, first))
    mean, half = paired_difference(a, b)
    if row.value.unit == "%":
        return f" ({100 * float(mean):+.2f} ± {100 * float(half):.2f})"
    return f" ({float(mean):+.4g} ± {float(half):.4g})"
