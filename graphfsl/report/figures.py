"""The pictures of a report, as SVG: the same bytes for the same rows."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from textwrap import fill
from typing import Any

from graphfsl.core.task import PoolCurve, Task
from graphfsl.loops.row import ACCURACY, scale_of, text_of
from graphfsl.report.tables import (
    Line,
    axes_of,
    axis_of,
    finite,
    group,
    is_pool_setting,
    level,
    metric_of,
    task_of,
    value_of,
)

Figure = tuple[str, str]  # caption, SVG

# Told apart by most colour-blind readers; the last ones, which few reports need, less well.
COLORS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#b8860b",
    "#5b5bd6",
    "#56b4e9",
    "#8c564b",
    "#7f7f7f",
    "#a6b800",
)


class Colors(dict[str, str]):
    """The colour of each method, the same in all figures of a report.

    They are given in the order in which they are asked for.
    """

    def __missing__(self, method: str) -> str:
        return self.setdefault(method, COLORS[len(self) % len(COLORS)])


# axes of a study whose levels are not compared but averaged over
REPLICATES = ("seed", "evaluation.episodes")
LINES = 6  # the most of a panel
PANELS = 4  # the most of a heading
MARKERS = "os^Dv*"  # of the lines of a panel


def averaged(rows: Sequence[Line]) -> list[Line]:
    """A study's rows, named by their levels and averaged over its replicates.

    Other rows stay as they are.
    """
    out: dict[Any, list[Line]] = {}
    for i, r in enumerate(rows):
        plotted = _plotted_against(task_of(r))
        told = [
            f"{a} {level(r, a)}"
            for a in r.get("cell") or ()
            if a not in REPLICATES and a.rpartition(".")[2] not in plotted
        ]
        named = {**r, "method": ", ".join(told) or r.get("method")}
        key = (named["method"], r["setting"], *group(r)) if r.get("cell") else i
        out.setdefault(key, []).append(named)
    return [{**same[0], **mean(same)} for same in out.values()]


def _plotted_against(task: type[Task]) -> set[str]:
    """The fields of a task that figures plot the first metric against."""
    pool = task.pool_curve
    return {*task.curves, *([pool.size, pool.distractors] if pool else [])}


def mean(rows: Sequence[Line]) -> dict[str, float]:
    """The means of the first metric and of its half-width over rows.

    The mean half-width is at least that of the mean.
    """
    keys = (metric_of(rows[0]) if rows else "accuracy", "ci95")
    values = {k: [r[k] for r in rows if finite(r.get(k))] for k in keys}
    return {k: sum(v) / len(v) if v else math.nan for k, v in values.items()}


def draw(
    plot: Callable[[Any], None], x: str, y: str, size: tuple[float, float] = (4.2, 2.7)
) -> str:
    """A small panel as SVG, the same bytes on every call.

    Phones stack panels, wide screens place them in rows.

    Args:
        plot: plots into the axes that it is given.
        x: what stands along the horizontal axis.
        y: what stands along the vertical axis.
        size: in inches; a legend makes it higher.
    """
    import matplotlib  # here, since it takes longer to import than most commands run
    from matplotlib.figure import Figure as Canvas

    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # a reader's matplotlibrc does not change the report
        matplotlib.rc("svg", hashsalt="graphfsl")
        matplotlib.rc("text", parse_math=False)  # a dollar in a method's name is a dollar
        figure = Canvas(figsize=size, layout="constrained")
        axes = figure.add_subplot(xlabel=x, ylabel=y)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#e8e8e8")
        plot(axes)
        handles, labels = axes.get_legend_handles_labels()
        if labels := [fill(label, 52) for label in labels]:
            figure.set_figheight(size[1] + 0.1 + 0.17 * "\n".join([*labels, ""]).count("\n"))
            figure.legend(handles, labels, loc="outside lower left", fontsize=8, frameon=False)
        file = io.StringIO()
        figure.savefig(
            file, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type"))
        )
    return file.getvalue()


def _half(line: Line, scale: float) -> float:
    """The half-width of the validation's interval in points.

    It is NaN, which is not plotted, where there is none.
    """
    half = line.get("val_ci95")
    return scale * half if finite(half) else math.nan  # type: ignore[operator]


def curves(label: str, lines: Sequence[Line]) -> list[Figure]:
    """Plot training loss, and the validation's metric with its interval, by step."""
    loss = [(m["step"], m["loss"]) for m in lines if finite(m.get("loss"))]
    validated = [m for m in lines if finite(m.get("val"))]
    metric = validated[0].get("metric", ACCURACY) if validated else ACCURACY
    unit = validated[0].get("unit", "%") if validated else "%"
    scale = scale_of(unit)
    less = metric != ACCURACY and bool(validated) and not validated[0].get("more_is_better", True)
    val = [(m["step"], scale * m["val"], _half(m, scale)) for m in validated]

    words = f"validation {metric}" + (f" ({unit})" if unit else "")

    def plot_loss(axes: Any) -> None:
        axes.plot(*zip(*loss, strict=True), color=COLORS[0], linewidth=1.2)
        low, high = min(v for _, v in loss), max(v for _, v in loss)
        if 0 < 4 * low < high:
            ticks = [
                t for e in range(-9, 9) for d in (1, 2, 3, 5) if low <= (t := d * 10.0**e) <= high
            ]
            axes.set(yscale="log", yticks=ticks, yticklabels=[f"{t:g}" for t in ticks])
            axes.minorticks_off()

    def plot_val(axes: Any) -> None:
        line(axes, val, color=COLORS[2], marker="o", markersize=3)
        step, best, _ = (min if less else max)(val, key=lambda v: v[1])
        axes.plot(
            step,
            best,
            "o",
            color=COLORS[2],
            markersize=7,
            label=f"best: step {step:,}, {text_of(best, unit)}",
        )

    out = [(f"{label}: loss", draw(plot_loss, "step", "training loss"))] if loss else []
    return out + ([(f"{label}: validation", draw(plot_val, "step", words))] if val else [])


def line(axes: Any, points: Sequence[tuple[float, float, float]], **look: Any) -> None:
    """Plot a line through points (x, y, half-width), with its band."""
    x, y, _ = zip(*points, strict=True)
    low, high = ([v + sign * h for _, v, h in points] for sign in (-1, 1))
    axes.fill_between(x, low, high, color=look["color"], alpha=0.15, linewidth=0)
    axes.plot(x, y, **look)


def pool_figures(rows: Sequence[Line], pool: PoolCurve, colors: Colors) -> list[Figure]:
    """Accuracy by unlabeled samples, a panel for each kind of episode.

    Kinds with a single number of them have none.
    """
    several = len({r.get("run") for r in rows}) > 1
    panels: dict[str, dict[str, list[Line]]] = {}
    for r in rows:
        if pool.size in r and finite(value_of(r)):
            name = f"{r.get('method')} · {r.get('run')}" if several else str(r.get("method"))
            name += " (transductive)" if "transductive" in str(r.get("setting")) else ""
            panels.setdefault(_pool_caption(r, pool), {}).setdefault(name, []).append(r)
    out = []
    for caption, methods in panels.items():
        if any(len({r[pool.size] for r in members}) > 1 for members in methods.values()):
            far = _off_the_scale(methods, pool)
            off = ", ".join(f"{name} {value:.1f}" for name, value in far.items())
            near = {name: members for name, members in methods.items() if name not in far}
            plot = partial(_plot_pool, methods=near, pool=pool, colors=colors)
            text = f"{caption}; off the scale: {off}" if far else caption
            out.append((text, draw(plot, pool.axis, axis_of(_any(methods)))))
    return out


def _pool_caption(line: Line, pool: PoolCurve) -> str:
    """All that captions say of what a line was asked, but for the pool's size and classes."""
    told = [
        caption.of(line[key])
        for key, caption in task_of(line).captions.items()
        if key not in (pool.size, pool.distractors) and line.get(key)
    ]
    return ", ".join([str(line.get("data")), *told])


def _any(methods: Mapping[str, list[Line]]) -> Line:
    return next(line for members in methods.values() for line in members)


def _reads_pool(members: Sequence[Line]) -> bool:
    """Whether the method of these rows reads unlabeled samples, where an episode has any.

    Its row without any is an inductive one; the trait says that it would read them.
    """
    return any(
        "uses_unlabeled" in (r.get("traits") or ()) or is_pool_setting(str(r.get("setting")))
        for r in members
    )


def _off_the_scale(methods: Mapping[str, list[Line]], pool: PoolCurve) -> dict[str, float]:
    """The accuracies of methods without a pool that would press the lines of interest flat."""
    of_interest = [members for members in methods.values() if _reads_pool(members)]
    shown = [value_of(r) for members in of_interest or methods.values() for r in members]
    low = min(shown)
    high = max(shown)
    span = max(high - low, 2.0)
    far = {}
    for name, members in methods.items():
        value = value_of(min(members, key=lambda r: r[pool.size]))
        if not _reads_pool(members) and not low - span < value < high + span:
            far[name] = value
    return far


def _plot_pool(
    axes: Any, methods: Mapping[str, list[Line]], pool: PoolCurve, colors: Colors
) -> None:
    """Plot the lines of a panel: the accuracy of each method by the size of the pool.

    A method that reads the pool has a line for each number of distractors. One that leaves it alone
    has one dashed line, and a level one over the whole panel where it was measured once.
    """
    sizes = sorted({r[pool.size] for members in methods.values() for r in members})
    for name, members in methods.items():
        if _reads_pool(members):
            _plot_by_distractors(axes, name, members, pool, colors[name])
            continue
        points = _points_by_size(members, pool)
        if len(points) == 1:
            _, value, half_width = points[0]
            points = [(size, value, half_width) for size in sizes]
        line(axes, points, label=name, linestyle="--", linewidth=1.1, color=colors[name])
    axes.set_xticks(sizes)


def _plot_by_distractors(
    axes: Any, name: str, members: Sequence[Line], pool: PoolCurve, color: str
) -> None:
    """Plot a line for each number of distractors that one method was measured with."""
    numbers = sorted({r[pool.distractors] for r in members if r[pool.size]} or {0})
    for i, number in enumerate(numbers):
        # Without unlabeled samples nothing distracts: that point starts every line.
        own = [r for r in members if not r[pool.size] or r[pool.distractors] == number]
        told = task_of(own[0]).captions[pool.distractors].of(number)
        line(
            axes,
            _points_by_size(own, pool),
            label=f"{name}, {told}" if number else name,
            color=color,
            linestyle=("-", "-.", ":")[min(i, 2)],
            marker=MARKERS[min(i, 2)],
            markersize=4,
        )


def _points_by_size(members: Sequence[Line], pool: PoolCurve) -> list[tuple[float, float, float]]:
    """The points (size of the pool, value, half-width) of a line, from left to right."""
    return sorted({(r[pool.size], value_of(r), r.get("ci95") or 0.0) for r in members})


def curve_figures(rows: Sequence[Line], x: str, words: str, colors: Colors) -> list[Figure]:
    """The first metric by one number of the setting.

    There is a panel for each kind of setting and all else that an episode is.

    Args:
        rows: as tables hold them.
        x: the name of the number.
        words: for it, along the axis.
        colors: of the methods.
    """
    keys = _panel_keys(rows, x)
    by_key: dict[tuple[Any, ...], list[Line]] = {}
    for r in rows:
        if _has_point(r, x):
            by_key.setdefault(tuple(r.get(k) for k in keys), []).append(r)
    panels = {key: members for key, members in by_key.items() if _takes_several(members, x)}
    differ = [name for i, name in enumerate(keys) if len({key[i] for key in panels}) > 1]
    figures = []
    for members in panels.values():
        lines, over = _lines(members, x)
        caption = _curve_caption(members[0], x, differ) + over
        plot = partial(_plot_lines, lines=lines, x=x, colors=colors)
        figures.append((caption, draw(plot, words, axis_of(members[0]))))
    return with_left_out(figures[:PANELS], len(figures) - PANELS, "panels")


def _panel_keys(rows: Sequence[Line], x: str) -> list[str]:
    """What rows of one panel have in common: all that an episode is, but for x."""
    fields = dict.fromkeys(name for r in rows for name in task_of(r).columns_shown())
    return ["setting", "data", *(name for name in fields if name != x)]


def _has_point(r: Line, x: str) -> bool:
    """Whether a row has a value to plot at x, and x means something for its task."""
    needed = task_of(r).needs.get(x)
    return x in r and finite(value_of(r)) and (needed is None or bool(r.get(needed)))


def _takes_several(rows: Sequence[Line], x: str) -> bool:
    """Whether x is not the same in all rows."""
    return len({r.get(x) for r in rows}) > 1


def with_left_out(figures: list[Figure], number: int, what: str) -> list[Figure]:
    """The figures; the caption of the last one says how many further ones there would be."""
    if number <= 0:
        return figures
    caption, svg = figures[-1]
    return [*figures[:-1], (f"{caption} ({number} further {what} are left out)", svg)]


def _curve_caption(line: Line, x: str, differ: Sequence[str]) -> str:
    """The data, what is always said of the task, the setting, and what else panels differ in."""
    always = []
    further = []
    for key, caption in task_of(line).captions.items():
        value = line.get(key)
        if key == x:
            continue
        if caption.always and value:
            always.append(caption.of(value))
        elif key in differ:
            further.append(caption.of(value))
    start = ", ".join([str(line["data"]), *always])
    return ", ".join([f"{start} ({line['setting']})", *further])


def _lines(rows: Sequence[Line], x: str) -> tuple[dict[str, list[Line]], str]:
    """Rows by line, and what was averaged over.

    A line is a variant or, if these are many, a level of the strongest axis.
    """
    repeated = [a for a in varied_axes(rows) if a in REPLICATES]
    axes = [a for a in axes_of(rows) if a not in REPLICATES and a.rpartition(".")[2] != x]
    several = len({r.get("run") for r in rows}) > 1

    def name(r: Line, told: Sequence[str]) -> str:
        levels = ", ".join(f"{a} {level(r, a)}" for a in told)
        return levels or str(r.get("method")) + (f" · {r['run']}" if several else "")

    lines: dict[str, list[Line]] = {}
    for r in rows:
        lines.setdefault(name(r, axes), []).append(r)
    if len(lines) <= LINES:
        return lines, _over(repeated)
    strongest = by_strength(rows, axes)[:1]
    lines = {}
    for r in rows:
        lines.setdefault(name(r, strongest), []).append(r)
    kept = dict(list(lines.items())[:LINES])
    return kept, _over([*(a for a in axes if a not in strongest), *repeated])


def _over(axes: Sequence[str]) -> str:
    return f", averaged over {' and '.join(axes)}" if axes else ""


def varied_axes(rows: Sequence[Line]) -> list[str]:
    """The axes of which rows have more than one level."""
    return [a for a in axes_of(rows) if len({level(r, a) for r in rows}) > 1]


def by_strength(rows: Sequence[Line], axes: Sequence[str]) -> list[str]:
    """Order axes by the spread of the mean values of their levels, the widest first."""

    def spread(axis: str) -> float:
        levels: dict[str, list[float]] = {}
        for r in rows:
            levels.setdefault(level(r, axis), []).append(value_of(r))
        means = [sum(v) / len(v) for v in levels.values()]
        return max(means) - min(means)

    return sorted(axes, key=lambda a: (-spread(a), a))


def _plot_lines(axes: Any, lines: Mapping[str, Sequence[Line]], x: str, colors: Colors) -> None:
    for i, (name, members) in enumerate(lines.items()):
        at: dict[float, list[Line]] = {}
        for r in members:
            at.setdefault(r[x], []).append(r)
        points = []
        for place in sorted(at):
            value, half = mean(at[place]).values()
            points.append((place, value, half))
        marker = MARKERS[i % len(MARKERS)]
        line(axes, points, color=colors[name], marker=marker, markersize=4, label=name)
    axes.set_xticks(sorted({r[x] for members in lines.values() for r in members}))
