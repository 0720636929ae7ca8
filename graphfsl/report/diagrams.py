"""Heat maps of a study, and for single rows confusion matrices and reliability diagrams."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from typing import Any

from graphfsl.report.figures import (
    COLORS,
    MARKERS,
    REPLICATES,
    Figure,
    by_strength,
    draw,
    mean,
    varied_axes,
    with_left_out,
)
from graphfsl.report.reliability import reliability_diagram
from graphfsl.report.tables import Line, asked_of, finite, level, value_of

HEAT_MAPS = 6  # the most of a report
ALONG, ASIDE = 36, 16  # characters that fit below all columns of a heat map, and beside a line
NAMED = 30  # classes whose names can be read along a confusion matrix


def _label(r: Line) -> str:
    asked = asked_of(r)
    what = ", ".join([asked.title, *asked.details])
    levels = ", ".join(f"{a} {level(r, a)}" for a in r.get("cell") or ())
    name = levels or " · ".join(str(r[k]) for k in ("method", "run") if r.get(k))
    return f"{r.get('data')}, {what} ({r.get('setting')}): {name}"


def _mean(rows: Sequence[Line]) -> float:
    """Of the first metric; NaN where there are no rows."""
    return next(iter(mean(rows).values()))


@dataclass(frozen=True)
class HeatMap:
    """What one heat map is of: rows of one kind of setting, and the two axes that it spans."""

    kind: str
    rows: Sequence[Line]
    down: str
    across: str


def heat_maps(rows: Sequence[Line]) -> list[Figure]:
    """The mean of the first metric for the levels of two axes, over one kind of setting.

    The strongest axes come first.
    """
    maps = []
    for kind in dict.fromkeys(str(r.get("setting")) for r in rows):
        own = [r for r in rows if str(r.get("setting")) == kind and _is_measured_cell(r)]
        axes = [a for a in varied_axes(own) if a not in REPLICATES]
        pairs = combinations(by_strength(own, axes), 2)
        maps += [HeatMap(kind, own, down, across) for down, across in pairs]
    figures = [_heat_map(each) for each in maps[:HEAT_MAPS]]
    return with_left_out(figures, len(maps) - HEAT_MAPS, "pairs")


def _is_measured_cell(r: Line) -> bool:
    """Whether a row is of a study's cell, with a number to show."""
    return bool(r.get("cell")) and finite(value_of(r))


def _heat_map(what: HeatMap) -> Figure:
    others = [a for a in varied_axes(what.rows) if a not in (what.down, what.across)]
    over = f", averaged over {', '.join(others)}" if others else ""
    caption = f"{what.kind}: {what.down} against {what.across}{over}"
    y = list(dict.fromkeys(level(r, what.down) for r in what.rows))
    x = list(dict.fromkeys(level(r, what.across) for r in what.rows))
    rows: dict[tuple[str, str], list[Line]] = {}
    for r in what.rows:
        rows.setdefault((level(r, what.down), level(r, what.across)), []).append(r)
    values = [[_mean(rows.get((line, column), [])) for column in x] for line in y]
    columns, of_columns = _ticks(x, what.across, ALONG // len(x))
    lines, of_lines = _ticks(y, what.down, ASIDE)
    plot = partial(_plot_heat, values=values, x=columns, y=lines)
    height = max(1.8, 1.1 + 0.36 * len(y))
    drawn = draw(plot, what.across, what.down, (4.2, height))
    return f"{caption}{of_columns}{of_lines}", drawn


def _ticks(levels: Sequence[str], axis: str, longest: int) -> tuple[list[str], str]:
    """What stands along an axis: its levels, or numbers where a name is too long.

    Then the caption says which number is which level.
    """
    if max(map(len, levels)) <= longest:
        return list(levels), ""
    numbers = [f"{i}." for i in range(1, len(levels) + 1)]
    named = "; ".join(f"{number} {name}" for number, name in zip(numbers, levels, strict=True))
    return numbers, f". {axis}: {named}"


def _plot_heat(
    axes: Any,
    values: list[list[float]],
    x: list[str],
    y: list[str],
    limits: tuple[float, float] | None = None,
) -> None:
    """Numbers on colours, which reach from the least to the largest of them, or between limits."""
    low, high = limits or _limits(values)
    axes.grid(False)
    image = axes.imshow(values, cmap="cividis", aspect="auto", vmin=low, vmax=high)
    axes.set(xticks=range(len(x)), xticklabels=x, yticks=range(len(y)), yticklabels=y)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    middle = (low + high) / 2
    for i, line in enumerate(values):
        for j, v in enumerate(line):
            if math.isfinite(v):
                axes.text(
                    j,
                    i,
                    f"{v:.1f}",
                    ha="center",
                    va="center",
                    color="white" if v <= middle else "black",
                    fontsize=9,
                )
    axes.figure.colorbar(image, ax=axes, shrink=0.9).outline.set_visible(False)


def _limits(values: Sequence[Sequence[float]]) -> tuple[float, float]:
    """The least and the largest number; a cell that was not measured is NaN."""
    numbers = [v for line in values for v in line if math.isfinite(v)]
    return min(numbers), max(numbers)


def confusion(r: Line) -> Figure:
    """A confusion matrix: rows are the true classes, and each row sums to 1.

    The pairs that are confused most are named.
    """
    names, counts = r["confusion"]["classes"], r["confusion"]["counts"]
    rates = [[c / max(sum(line), 1) for c in line] for line in counts]
    pairs = [
        (v, i, j) for i, line in enumerate(rates) for j, v in enumerate(line) if i != j and v > 0
    ]
    worst = [
        f"{names[i]} taken for {names[j]} ({100 * v:.0f} %)"
        for v, i, j in sorted(pairs, key=lambda p: -p[0])[:3]
    ]

    def plot(axes: Any) -> None:
        axes.grid(False)
        axes.imshow(rates, cmap="Blues", vmin=0, vmax=1)
        axes.spines[:].set_visible(False)
        if len(names) <= NAMED:
            short = [str(n).rpartition("/")[2][:16] for n in names]
            axes.set(xticks=range(len(names)), yticks=range(len(names)), yticklabels=short)
            axes.set_xticklabels(short, rotation=90)
            axes.tick_params(labelsize=6, length=0)

    caption = f"{_label(r)}. Most often: {'; '.join(worst) or 'nothing is confused'}"
    return caption, draw(plot, "answered", "true", (4.2, 4.2))


def own_curves(rows: Sequence[Line]) -> list[Figure]:
    """The curves that rows bring with them (`curve`), those of one task in one panel."""
    figures = []
    for what in dict.fromkeys(_asked_text(r) for r in rows):
        own = [r for r in rows if _asked_text(r) == what]
        curve = own[0]["curve"]
        plot = partial(_plot_own_curves, rows=own)
        figures.append((what, draw(plot, curve["across"], curve["up"])))
    return figures


def _asked_text(r: Line) -> str:
    """What a row was asked, in words."""
    asked = asked_of(r)
    return f"{r.get('data')}, {', '.join([asked.title, *asked.details])} ({r.get('setting')})"


def _plot_own_curves(axes: Any, rows: Sequence[Line]) -> None:
    for i, r in enumerate(rows):
        name = " · ".join(str(r[k]) for k in ("method", "run") if r.get(k))
        axes.plot(
            r["curve"]["x"],
            r["curve"]["y"],
            color=COLORS[i % len(COLORS)],
            marker=MARKERS[i % len(MARKERS)],
            markersize=4,
            label=name,
        )


def own_matrices(rows: Sequence[Line]) -> list[Figure]:
    """The matrices that rows bring with them (`matrix`); those of one kind share their colours."""
    of_kind: dict[str, list[Sequence[float]]] = {}
    for r in rows:
        of_kind.setdefault(r["matrix"]["what"], []).extend(r["matrix"]["values"])
    return [_own_matrix(r, _limits(of_kind[r["matrix"]["what"]])) for r in rows]


def _own_matrix(r: Line, limits: tuple[float, float]) -> Figure:
    """The matrix of one row; a line may be shorter than the last."""
    matrix = r["matrix"]
    values, width = matrix["values"], len(matrix["values"][-1])
    full = [[*line, *[math.nan] * (width - len(line))] for line in values]
    across, down = ([str(i) for i in range(n)] for n in (width, len(values)))
    plot = partial(_plot_heat, values=full, x=across, y=down, limits=limits)
    size = (max(4.2, 1.4 + 0.36 * width), max(1.8, 1.1 + 0.3 * len(values)))
    return f"{_label(r)}: {matrix['what']}", draw(plot, matrix["across"], matrix["down"], size)


def reliability(r: Line) -> Figure:
    """Accuracy by probability: on the diagonal they agree."""
    bins = r["reliability"]
    total = sum(n for n, _, _ in bins)
    error = sum(n * abs(a - c) for n, c, a in bins) / max(total, 1)
    caption = (
        f"{_label(r)}. Expected calibration error {100 * error:.1f} points over {total:,} answers"
    )
    return reliability_diagram(bins, caption, "probability of the answer")
