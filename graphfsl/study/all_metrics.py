"""What the cells of a study measured beside their first metric, as tables of its report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from graphfsl.experiment.measure import DIAGNOSED
from graphfsl.loops.row import Row, task_of
from graphfsl.report.tables import Section

EVERY = "In percent where no unit is told; ± is the 95% interval of the mean over episodes."


def metric_sections(rows: Sequence[Row]) -> list[Section]:
    """A table of all metrics, where there are several, and one of each value by class.

    Args:
        rows: finished ones, each with its `cell`.
    """
    return [*_all_metrics(rows), *_by_class(rows)]


def _all_metrics(rows: Sequence[Row]) -> list[Section]:
    """All metrics of each row; a row that does not have one is empty there."""
    units = {name: value.unit for row in rows for name, value in row.metrics.items()}
    if len(units) < 2:
        return []
    heads = [name if unit in ("%", "") else f"{name} ({unit})" for name, unit in units.items()]
    lines = []
    for row in rows:
        numbers = [row.metrics[name].number if name in row.metrics else "" for name in units]
        lines.append([*_levels(row), *numbers])
    return [_section("All metrics", EVERY, rows, heads, lines)]


def _by_class(rows: Sequence[Row]) -> list[Section]:
    """A table for each value that a task tells of every class, one column a class."""
    told = {key: words for row in rows for key, words in task_of(row).by_class.items()}
    sections = []
    for key, words in told.items():
        of_rows: list[Mapping[str, float]] = [row.diagnosis.get(key, {}) for row in rows]
        classes = list(dict.fromkeys(name for values in of_rows for name in values))
        if not classes:
            continue
        lines = []
        for row, values in zip(rows, of_rows, strict=True):
            numbers = [f"{100 * values[name]:.2f}" if name in values else "" for name in classes]
            lines.append([*_levels(row), *numbers])
        text = f"In percent, over the first {DIAGNOSED} episodes where there are more."
        sections.append(_section(words, text, rows, classes, lines))
    return sections


def _levels(row: Row) -> list[str]:
    """The levels of a row's cell, as text."""
    return ["none" if level is None else str(level) for level in (row.cell or {}).values()]


def _section(
    heading: str, text: str, rows: Sequence[Row], heads: Sequence[str], lines: list[list[str]]
) -> Section:
    """A table whose first columns are the axes of the study."""
    axes = list(rows[0].cell or {})
    return Section(heading, text, [*axes, *heads], lines, words=len(axes))
