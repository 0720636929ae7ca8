"""The area under the first metric against a field of the task, such as a budget of labels.

A rule that is better at some budgets and worse at others is told by one number so: the mean of the
metric over the range, between measured points a straight line.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from graphfsl.functional.statistics import mean_and_ci95
from graphfsl.loops.row import Row, shown_of, task_of


@dataclass(frozen=True)
class Area:
    """The area of cells that differ in one field of the task only.

    Attributes:
        row: the first of them; what they share stands in it.
        field: of the task.
        cell: the levels of the other axes.
        points: the values of the field that were measured, in ascending order.
        values: (n,) the mean of the metric over their range, of each statistical unit.
    """

    row: Row
    field: str
    cell: Mapping[str, Any]
    points: tuple[float, ...]
    values: Tensor

    @property
    def low(self) -> float:
        """The least value of the field."""
        return self.points[0]

    @property
    def high(self) -> float:
        """The largest value of the field."""
        return self.points[-1]

    def to_dict(self) -> dict[str, Any]:
        """What study.json keeps of it, scaled as people are shown the metric."""
        mean, half = mean_and_ci95(self.values)
        unit = self.row.value.unit
        return {
            "cell": dict(self.cell),
            "data": self.row.data,
            "setting": self.row.setting,
            "metric": self.row.metric,
            "over": self.field,
            "from": self.low,
            "to": self.high,
            "points": list(self.points),
            "area": shown_of(mean, unit),
            "ci95": None if half is None else shown_of(half, unit),
        }


def areas(rows: Sequence[Row]) -> list[Area]:
    """The areas of a study's rows, where its task names a field (`Task.area_over`)."""
    return [area for same in _lines(rows).values() if (area := _area(same)) is not None]


def _lines(rows: Iterable[Row]) -> dict[tuple[Any, ...], list[Row]]:
    """The rows that differ in the field only."""
    lines: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        field = task_of(row).area_over
        if field is None or field not in row.asked:
            continue
        rest = tuple((name, value) for name, value in row.asked.items() if name != field)
        key = (*_rest(row, field).items(), rest, row.setting, row.data, row.seed, row.metric)
        lines.setdefault(key, []).append(row)
    return lines


def _rest(row: Row, field: str) -> dict[str, Any]:
    """The levels of a row's cell but that of the field."""
    return {axis: v for axis, v in (row.cell or {}).items() if axis.rpartition(".")[2] != field}


def _area(rows: Sequence[Row]) -> Area | None:
    """The area of rows of one line; None for a single point."""
    field = task_of(rows[0]).area_over
    assert field is not None
    ordered = sorted(rows, key=lambda row: row.asked[field])
    x = torch.tensor([row.asked[field] for row in ordered], dtype=torch.float64)
    if len(x.unique()) < 2:
        return None
    n = min(len(row.values) for row in ordered)
    y = torch.tensor([row.values[:n] for row in ordered], dtype=torch.float64)
    values = torch.trapezoid(y, x, dim=0) / (x[-1] - x[0])
    return Area(ordered[0], field, _rest(ordered[0], field), tuple(x.tolist()), values)
