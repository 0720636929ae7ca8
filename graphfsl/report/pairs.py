"""The table of runs on data sets: one line a run, one column a data set and setting, and ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.stats import rankdata

from graphfsl.io.errors import require
from graphfsl.loops.row import Row, title_of


def pairs_table(
    rows: Mapping[str, Sequence[Row]], images: Sequence[str] = ()
) -> list[dict[str, str]]:
    """A line for each run: its value in each column, and its mean rank over the columns.

    The best of a column has rank 1, and equal ones share the mean of their ranks.

    Args:
        rows: run -> its rows, those of all runs in the same order of data sets and settings.
        images: of each row of a run, what was done to its images, where something was.

    Raises:
        InputError: where a run has other rows than another one.
    """
    names = list(rows)
    done = images or [""] * len(rows[names[0]])
    columns = [_column(row, of) for row, of in zip(rows[names[0]], done, strict=True)]
    for name in names:
        own = [_column(row, of) for row, of in zip(rows[name], done, strict=False)]
        require(
            own == columns,
            f"{name} is asked {', '.join(own)}, but {names[0]} {', '.join(columns)}; name one "
            "setting, such as episode.way=5 episode.shot=1",
        )
    scores = np.array([[row.score for row in rows[name]] for name in names])
    ranks = np.stack([rankdata(-column) for column in scores.T], 1)
    lines = []
    for name, own_ranks in zip(names, ranks, strict=True):
        numbers = (row.value.number for row in rows[name])
        line = dict(zip(columns, numbers, strict=True))
        lines.append({"run": name, **line, "mean rank": f"{own_ranks.mean():.2f}"})
    return lines


def _column(row: Row, images: str) -> str:
    """What a row is of, with its kind and what was done to images, where they are not plain."""
    kind = "" if row.setting == "inductive" else f", {row.setting}"
    return f"{row.data} {title_of(row)}{kind}" + (f", {images}" if images else "")
