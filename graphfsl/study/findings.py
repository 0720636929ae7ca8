"""What a study shows: sentences and effects from what its cells measured.

They are paired where the episodes are the same.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from graphfsl.functional.comparison import holm, paired_difference
from graphfsl.functional.effects import (
    Comparison,
    Interaction,
    MainEffect,
    corrected,
    interactions,
    main_effects,
)
from graphfsl.io.plain_text import csv_table
from graphfsl.loops.row import ACCURACY, Row, as_row, p_is, scale_of, shown_of, task_of
from graphfsl.report.figures import REPLICATES
from graphfsl.report.tables import DIVERGES
from graphfsl.study.areas import Area, areas
from graphfsl.study.cells import Failure
from graphfsl.study.grid import Study
from graphfsl.study.sentences import amount, word_of
from graphfsl.study.sentences import sentence as axis_sentence

EPISODES = "evaluation.episodes"
# Levels of REPLICATES are not compared, but pairs are matched within them.
#
# Rows of one split and seed are paired: in every setting episode i is drawn from the same numbers,
# so that it has the same classes, and the same images as far as the setting lets it. To take 1 and
# 5 shots for independent would make the interval of their difference too wide, and that of a mean
# over both too narrow.


@dataclass(frozen=True)
class Findings:
    """What a study shows.

    Attributes:
        sentences: plain English.
        effects: one dict for each pair of levels.
        best: which rows no other one of their kind and setting is surely above.
        areas: what each line of cells has under its curve, see `graphfsl.study.areas`.
    """

    sentences: list[str]
    effects: list[dict[str, Any]]
    best: list[bool]
    areas: list[dict[str, Any]]


def findings(study: Study, rows: Sequence[Row | Mapping[str, Any]]) -> Findings:
    """Find what the finished rows of a study show; each has its `cell`.

    Inductive, transductive and semi-supervised rows are compared among themselves. Where the levels
    of an axis differ in kind, their paired difference is said to be the gain of another setting,
    and nothing is ranked by it. p is corrected (Holm) over all pairs of levels of a kind, over all
    pairs of axes, and over all gains.
    """
    made = [as_row(row) for row in rows]
    compared = _each_once(made)
    kinds = list(dict.fromkeys(row.setting for row in made))
    sentences, effects = [], []
    for kind, metric in dict.fromkeys((row.setting, row.metric) for row in compared):
        own = [row for row in compared if (row.setting, row.metric) == (kind, metric)]
        if len(own) < 2:
            continue
        unit, cells = own[0].value.unit, [dict(row.cell or {}) for row in own]
        lead = f"{kind.capitalize()}: " if len(kinds) > 1 else ""
        told = [e for e in main_effects(cells, *scores_of(own)) if e.axis not in REPLICATES]
        for effect in corrected(told):
            if len(study.axes[effect.axis]) == 1 or not (effect.comparisons or len(kinds) == 1):
                continue
            sentences.append(lead + axis_sentence(effect, unit))
            effects += [_effect(kind, effect, c, own) for c in effect.comparisons]
        sentences += [lead + _interaction(found, unit) for found in _sure_interactions(cells, own)]
    for text, told_of in _of_areas(areas(compared)):
        sentences.append(text)
        effects += told_of
    if len(kinds) > 1:
        gains = list(_gains(compared))
        sentences += [text for text, _ in gains]
        effects += [effect for _, effect in gains]
    return Findings(sentences, effects, best(made), [area.to_dict() for area in areas(made)])


def _each_once(rows: Sequence[Row]) -> list[Row]:
    """Of cells that differ in the number of episodes only that with the most.

    The others hold the first of these episodes once more; as pairs of their own they would count
    twice.
    """
    most: dict[Any, Row] = {}
    for row in rows:
        levels = {axis: level for axis, level in (row.cell or {}).items() if axis != EPISODES}
        what = (row.setting, row.metric, *levels.items())
        if what not in most or len(row.values) > len(most[what].values):
            most[what] = row.replace(cell=levels)
    return list(most.values())


def _of_areas(found: Sequence[Area]) -> Iterable[tuple[str, list[dict[str, Any]]]]:
    """Which levels have more under their curves: a sentence for each axis and kind, and effects.

    Curves that lack a point, as where a cell failed, are not compared with those that have it: the
    straight line in its place would be taken for a measurement.
    """
    groups: dict[tuple[Any, ...], list[Area]] = {}
    for area in found:
        key = (area.row.setting, area.row.metric, area.field, area.points)
        groups.setdefault(key, []).append(area)
    for (kind, metric, field, points), own in groups.items():
        if len(own) < 2:
            continue
        rows = [area.row.replace(values=area.values.tolist(), cell=area.cell) for area in own]
        unit = own[0].row.value.unit
        for effect in corrected(main_effects([dict(a.cell) for a in own], *scores_of(rows))):
            if not effect.comparisons or effect.axis in REPLICATES:
                continue
            lead = f"Area under the {metric} over `{field}` from {points[0]:g} to {points[-1]:g}: "
            over = f"{kind}, area over {field}"
            yield (
                lead + axis_sentence(effect, unit),
                [_effect(over, effect, c, rows) for c in effect.comparisons],
            )


def _sure_interactions(
    cells: Sequence[Mapping[str, Any]], rows: Sequence[Row]
) -> Iterable[Interaction]:
    """Pairs of axes that depend on each other, by the corrected p."""
    found = [
        pair
        for pair in interactions(cells, *scores_of(rows))
        if pair.contrast and not {*pair.axes} & {*REPLICATES}
    ]
    p = holm(torch.tensor([f.contrast.corrected for f in found], dtype=torch.float64))  # type: ignore[union-attr]
    return [pair for pair, corrected_p in zip(found, p.tolist(), strict=True) if corrected_p < 0.05]


def scores_of(rows: Sequence[Row]) -> tuple[torch.Tensor, list[tuple[Any, ...]]]:
    """The first metric of each row, so that more is better, and what makes rows paired.

    It is (rows, n), on the n first units, which all rows have.
    """
    n = min(len(row.values) for row in rows)
    values = torch.tensor([row.values[:n] for row in rows], dtype=torch.float64)
    return _sign(rows) * values, [(row.data, row.seed) for row in rows]


def _sign(rows: Sequence[Row]) -> int:
    return 1 if rows[0].value.more_is_better else -1


def _effect(kind: str, effect: MainEffect, c: Comparison, rows: Sequence[Row]) -> dict[str, Any]:
    """What the first level has more of the metric than the second."""
    contrast = c.contrast
    unit = rows[0].value.unit
    difference, half = _sign(rows) * contrast.difference, contrast.half
    return {
        "setting": kind,
        "axis": effect.axis,
        "a": c.first,
        "b": c.second,
        "difference": shown_of(difference, unit),
        "low": shown_of(difference - half, unit),
        "high": shown_of(difference + half, unit),
        "p": contrast.p,
        "corrected": contrast.corrected,
        "matched": contrast.matched,
        "paired": contrast.paired,
        "half": shown_of(half, unit),
        "unit": unit,
    }


def _interaction(found: Interaction, unit: str) -> str:
    """A sentence on two axes that depend on each other."""
    assert found.contrast is not None and found.levels is not None
    c, ((a1, a2), (b1, b2)) = found.contrast, found.levels
    if c.difference < 0:
        a1, a2 = a2, a1
    scale = scale_of(unit)
    size, half = scale * abs(c.difference), scale * c.half
    low, high = amount(size - half, half, unit), amount(size + half, half, unit)
    return (
        f"`{found.axes[0]}` and `{found.axes[1]}` depend on each other: {_name(a1)} instead of "
        f"{_name(a2)} is worth "
        f"{amount(size, half, unit)}{word_of(unit)} more with {_name(b1)} than with {_name(b2)} "
        f"(95% interval {low} to {high})."
    )


def _gains(rows: Sequence[Row]) -> Iterable[tuple[str, dict[str, Any]]]:
    """Pairs of levels whose cells are of different kinds, each kind by itself one sentence.

    p is corrected over all of them.
    """
    axes = list(rows[0].cell or ()) if rows else []
    pairs = [
        (key, matched)
        for axis in axes
        if axis not in REPLICATES
        for key, matched in _pairs(rows, axis).items()
    ]
    effects = corrected([_gain(key[0], matched) for key, matched in pairs])
    for ((axis, plain, one, other, two), matched), effect in zip(pairs, effects, strict=True):
        (c,) = effect.comparisons
        unit = matched[0][0].value.unit
        e = _effect(f"{two} against {one}", effect, c, matched[0])
        low, high = sorted((e["low"], e["high"]))
        text = (
            f"`{axis}`: {_name(other)} ({two}) beside {_name(plain)} ({one}): "
            f"{_signed(e['difference'], unit)}{word_of(unit)} "
            f"(95% interval {_signed(low, unit)} to {_signed(high, unit)}, "
            f"{p_is(e['corrected'], 'corrected p')}) "
            f"over {len(matched)} matched pair{'s' * (len(matched) > 1)}. "
            "They use different information: a gain, not a ranking."
        )
        yield text, e


def _gain(axis: str, matched: Sequence[tuple[Row, Row]]) -> MainEffect:
    """The effect of an axis over pairs of rows that differ in it, and in kind."""
    both = [row for pair in matched for row in pair]
    cells = [{axis: _level(row, axis), "pair": i // 2} for i, row in enumerate(both)]
    (effect, _) = main_effects(cells, *scores_of(both))
    return effect


def _signed(value: float, unit: str) -> str:
    return f"{value:+.1f}" if unit == "%" else f"{value:+.3g}"


def _level(row: Row, axis: str) -> Any:
    return (row.cell or {})[axis]


def _pairs(
    rows: Sequence[Row], axis: str
) -> dict[tuple[str, Any, str, Any, str], list[tuple[Row, Row]]]:
    """Rows that differ in one axis and in kind.

    They are (axis, level, kind, other level, other kind) -> pairs.
    """
    by_rest: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        rest = tuple(v for a, v in (row.cell or {}).items() if a != axis)
        by_rest.setdefault(rest, []).append(row)
    pairs: dict[tuple[str, Any, str, Any, str], list[tuple[Row, Row]]] = {}
    for same in by_rest.values():
        for a, b in itertools.combinations(same, 2):
            if a.setting != b.setting and a.metric == b.metric:
                key = (axis, _level(a, axis), a.setting, _level(b, axis), b.setting)
                pairs.setdefault(key, []).append((b, a))
    return pairs


def _name(level: Any) -> str:
    return "none" if level is None else str(level)


def best(rows: Sequence[Row | Mapping[str, Any]]) -> list[bool]:
    """Which rows are the best, or not surely below it.

    Of each kind and each set of episodes these are the best row, and those whose paired interval
    with it holds 0.
    """
    made = [as_row(row) for row in rows]
    equal = [False] * len(made)
    groups: dict[Any, list[int]] = {}
    for i, row in enumerate(made):
        what = (row.setting, row.data, row.task, task_of(row), row.seed, row.episodes)
        groups.setdefault(what, []).append(i)
    for members in groups.values():
        top = max(members, key=lambda i: made[i].score)
        first = torch.tensor(made[top].values, dtype=torch.float64)
        sign = 1 if made[top].value.more_is_better else -1
        for i in members:
            own = torch.tensor(made[i].values, dtype=torch.float64)
            gain, half = paired_difference(first, own)
            equal[i] = bool(sign * gain <= half)
    return equal


def table(study: Study, outcomes: Sequence[Row | Failure | None]) -> str:
    """The table cells.csv: a line for each cell, in the order of the grid.

    A cell whose inner loop left no finite answer "diverges"; another one without a row is empty.
    Another metric than an accuracy has its unit beside it. Nothing depends on when it was made.
    """
    metric = next((made.metric for made in outcomes if isinstance(made, Row)), ACCURACY)
    unit = () if metric == ACCURACY else ("unit",)
    further = [name for also in study.also for name in (also, f"{also} ci95")]
    heads = ("setting", metric, "ci95", *unit, *further)
    heads = (*heads, "episodes", "data", "batch_norm", "steps")
    lines = []
    for cell, made in zip(study.cells, outcomes, strict=True):
        levels = ["" if v is None else v for v in cell.levels.values()]
        facts = {}
        if isinstance(made, Row):
            facts = {**made.to_dict(), "unit": made.value.unit}
            for name in study.also:
                facts |= {name: made.metrics[name].value, f"{name} ci95": made.metrics[name].ci95}
        elif made is not None and made.diverged:
            facts = {"setting": made.diverged, metric: DIVERGES}
        lines.append([*levels, *(facts.get(key, "") for key in heads)])
    return csv_table([*study.axes, *heads], lines)
