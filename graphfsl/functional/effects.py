"""Main effects and interactions of the axes of a grid whose cells hold accuracies over episodes."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, product

import torch
from jaxtyping import Float
from torch import Tensor

from graphfsl.functional.comparison import Contrast, contrasts, holm
from graphfsl.io.errors import InputError

Level = Hashable
Cell = Mapping[str, Level]
Table = dict[
    tuple[Level, ...], dict[tuple[Level, ...], int]
]  # some axes' levels -> the other axes' -> the cell's index


@dataclass(frozen=True)
class Comparison:
    """The level `first` of an axis minus the level `second`, over pairs of cells that differ in
    nothing else.
    """

    first: Level
    second: Level
    contrast: Contrast


@dataclass(frozen=True)
class MainEffect:
    """One axis: every pair of its levels that some combination of the other axes has."""

    axis: str
    comparisons: tuple[Comparison, ...]
    # over the combinations that all comparable levels have; empty where there is none
    means: Mapping[Level, float]
    incomparable: tuple[Level, ...]  # share no combination with any other level


@dataclass(frozen=True)
class Interaction:
    """Two axes: of their 2 x 2 contrasts (a1 b1 - a1 b2) - (a2 b1 - a2 b2) that with the largest
    |t|.
    """

    axes: tuple[str, str]
    # (a1, a2), (b1, b2); None: nothing is comparable
    levels: tuple[tuple[Level, Level], tuple[Level, Level]] | None
    contrast: Contrast | None  # `corrected` over this pair of axes' contrasts
    contrasts: int
    # of the cells' sum of squares; None where no combination has all pairs of comparable levels
    share: float | None


def main_effects(
    cells: Sequence[Cell],
    accuracies: Float[Tensor, "cells n"],
    keys: Sequence[Hashable],
    permutations: int = 10_000,
    seed: int = 0,
) -> list[MainEffect]:
    """The effect of each axis. Cells (axis -> level), their accuracies (cells, episodes), their
    episodes' identities.

    Cells of equal key are paired by episode (`contrasts` says what follows). Only combinations of
    the other axes that both levels have are compared. p is raw: `corrected` makes Holm's correction
    over all axes. Raises InputError where cells differ in their axes or are the same twice, or
    values are too few or not finite.
    """
    axes = _axes(cells, accuracies, keys)
    found: list[tuple[str, Level, Level]] = []
    weights, matched = [], []
    for axis in axes:
        table = _table(cells, (axis,))
        for first, second in combinations(table, 2):
            if rests := _common([table[first], table[second]]):
                found.append((axis, first[0], second[0]))
                weights.append(_weights(len(cells), [table[first]], [table[second]], rests))
                matched.append(len(rests))
    values = contrasts(_stack(weights, len(cells)), accuracies, keys, matched, permutations, seed)
    pairs = [
        (axis, Comparison(u, v, value)) for (axis, u, v), value in zip(found, values, strict=True)
    ]
    return [
        _main_effect(axis, tuple(c for a, c in pairs if a == axis), cells, accuracies)
        for axis in axes
    ]


def corrected(effects: Sequence[MainEffect]) -> list[MainEffect]:
    """The same with Holm's correction over every comparison of every axis."""
    raw = [c.contrast.p for e in effects for c in e.comparisons]
    adjusted = iter(holm(torch.tensor(raw, dtype=torch.float64)).tolist())

    def with_p(c: Comparison) -> Comparison:
        return replace(c, contrast=replace(c.contrast, corrected=next(adjusted)))

    return [replace(e, comparisons=tuple(with_p(c) for c in e.comparisons)) for e in effects]


def interactions(
    cells: Sequence[Cell],
    accuracies: Float[Tensor, "cells n"],
    keys: Sequence[Hashable],
    permutations: int = 10_000,
    seed: int = 0,
) -> list[Interaction]:
    """The interaction of each pair of axes; arguments and errors as `main_effects`.

    share = m sum_ab (y_ab - y_a - y_b + y)^2 / sum_abr (y_abr - y)^2 over the levels a, b of some
    contrast and the m combinations r of the other axes that have all of them (eta squared, Fisher
    1925); y_ab, y_a, y_b, y are means of the cells' means y_abr.
    """
    out = []
    for pair in combinations(_axes(cells, accuracies, keys), 2):
        table = _table(cells, pair)
        rows, columns = ([*dict.fromkeys(ab[i] for ab in table)] for i in (0, 1))
        found, weights, matched = [], [], []
        for (a1, a2), (b1, b2) in product(combinations(rows, 2), combinations(columns, 2)):
            plus, minus = (
                [table.get(ab, {}) for ab in side]
                for side in (((a1, b1), (a2, b2)), ((a1, b2), (a2, b1)))
            )
            if rests := _common([*plus, *minus]):
                found.append(((a1, a2), (b1, b2)))
                weights.append(_weights(len(cells), plus, minus, rests))
                matched.append(len(rests))
        if not found:
            out.append(Interaction(pair, None, None, 0, None))
            continue
        values = contrasts(
            _stack(weights, len(cells)), accuracies, keys, matched, permutations, seed
        )
        adjusted = holm(torch.tensor([c.p for c in values], dtype=torch.float64)).tolist()
        largest = max(range(len(found)), key=lambda i: abs(values[i].t))
        contrast = replace(values[largest], corrected=adjusted[largest])
        used = [{level for levels in found for level in levels[i]} for i in (0, 1)]
        grid = [
            [table.get((a, b), {}) for b in columns if b in used[1]] for a in rows if a in used[0]
        ]
        out.append(
            Interaction(pair, found[largest], contrast, len(found), _share(grid, accuracies))
        )
    return out


def sentence(effect: MainEffect) -> str:
    """One axis in plain English; accuracies in [0, 1] become percentage points, p is the corrected
    one where present.

    A difference is asserted where the interval leaves out 0 and p < 0.05, denied where neither,
    else called chance.
    """
    name, left_out = f"`{effect.axis}`", _names(effect.incomparable)
    if not effect.comparisons:
        if len(effect.incomparable) == 1:
            return f"{name}: {left_out} is the only level, so there is nothing to compare."
        return (
            f"{name}: {left_out} cannot be compared, for no two of them share a combination "
            f"of the other axes."
        )
    comparison, ranked = _top(effect)
    contrast, (best, rival) = comparison.contrast, _better_first(comparison)
    size, evidence, says = _evidence(contrast)
    if says == "none":
        subject = f"{best} instead of {rival} makes"
        if len(ranked) > 2:
            subject = f"of {len(ranked)} levels the best two, {best} and {rival}, make"
        text = (
            f"{subject} no difference that {contrast.episodes:,} episodes can show: {size} "
            f"points ({evidence})"
        )
    else:
        text = f"{best} is {size} points better than {rival}"
        if len(ranked) > 2:
            text = (
                f"{best} is the best of {len(ranked)} levels, {size} points better than "
                f"{rival}, the next"
            )
        text += f"{', which may be chance' if says == 'chance' else ''} ({evidence})"
    pairs = "1 matched pair" if contrast.matched == 1 else f"{contrast.matched} matched pairs"
    text += (
        f", averaged over {pairs} of cells{'' if contrast.paired else ' with different episodes'}"
    )
    widest = max(effect.comparisons, key=lambda c: abs(c.contrast.difference))
    if widest is not comparison:
        top, bottom = _better_first(widest)
        size, evidence, _ = _evidence(widest.contrast)
        text += f"; the range is {size} points, from {bottom} up to {top} ({evidence})"
    if left_out:
        they = "it shares" if len(effect.incomparable) == 1 else "they share"
        text += (
            f"; {left_out} could not be compared, for {they} no combination of the other "
            f"axes with another level"
        )
    return f"{name}: {text}."


def _axes(
    cells: Sequence[Cell], accuracies: Float[Tensor, "cells n"], keys: Sequence[Hashable]
) -> list[str]:
    if not len(cells) == len(accuracies) == len(keys):
        raise InputError(
            f"{len(cells)} cells need as many accuracies and keys, not "
            f"{len(accuracies)} and {len(keys)}"
        )
    axes = list(cells[0]) if cells else []
    seen = set()
    for cell in cells:
        if set(cell) != set(axes):
            raise InputError(
                f"every cell needs the same axes: {sorted(cell)} beside {sorted(axes)}"
            )
        levels = tuple(cell[a] for a in axes)
        if levels in seen:
            raise InputError(
                f"two cells are {dict(cell)}; what tells them apart, such as a "
                f"seed, must be an axis"
            )
        seen.add(levels)
    return axes


def _table(cells: Sequence[Cell], axes: tuple[str, ...]) -> Table:
    out: Table = {}
    for i, cell in enumerate(cells):
        rest = tuple(cell[a] for a in cells[0] if a not in axes)
        out.setdefault(tuple(cell[a] for a in axes), {})[rest] = i
    return out


def _common(corners: Sequence[Mapping[tuple[Level, ...], int]]) -> list[tuple[Level, ...]]:
    return [rest for rest in corners[0] if all(rest in corner for corner in corners)]


def _weights(
    size: int,
    plus: Sequence[Mapping[tuple[Level, ...], int]],
    minus: Sequence[Mapping[tuple[Level, ...], int]],
    rests: Sequence[tuple[Level, ...]],
) -> list[float]:
    """A row of weights: the mean over `rests` of the sum of the cells of `plus`, less that of
    `minus`.
    """
    row = [0.0] * size
    for sign, corners in ((1, plus), (-1, minus)):
        for corner, rest in product(corners, rests):
            row[corner[rest]] = sign / len(rests)
    return row


def _stack(rows: Sequence[Sequence[float]], size: int) -> Float[Tensor, "C cells"]:
    return torch.tensor(rows, dtype=torch.float64).reshape(-1, size)


def _main_effect(
    axis: str,
    comparisons: tuple[Comparison, ...],
    cells: Sequence[Cell],
    accuracies: Float[Tensor, "cells n"],
) -> MainEffect:
    table = {levels[0]: rests for levels, rests in _table(cells, (axis,)).items()}
    matched = {level for c in comparisons for level in (c.first, c.second)}
    comparable = [level for level in table if level in matched]
    rests = _common([table[level] for level in comparable]) if comparable else []
    overall = accuracies.double().mean(-1)
    means = (
        {v: float(overall[[table[v][r] for r in rests]].mean()) for v in comparable}
        if rests
        else {}
    )
    return MainEffect(
        axis, comparisons, means, tuple(level for level in table if level not in matched)
    )


def _share(
    grid: Sequence[Sequence[Mapping[tuple[Level, ...], int]]], accuracies: Float[Tensor, "cells n"]
) -> float | None:
    rests = _common([corner for row in grid for corner in row])
    if not rests:
        return None
    y = accuracies.double().mean(-1)[
        torch.tensor([[[corner[r] for r in rests] for corner in row] for row in grid])
    ]
    ab = y.mean(-1)
    interaction = ab - ab.mean(0) - ab.mean(1, keepdim=True) + ab.mean()
    total = (y - y.mean()).square().sum()
    return float(len(rests) * interaction.square().sum() / total) if total > 0 else 0.0


def _top(effect: MainEffect) -> tuple[Comparison, list[Level]]:
    """The best level beside the next that it was compared with, and all by their mean gain over
    those compared.
    """
    gains: dict[Level, list[float]] = {}
    for c in effect.comparisons:
        gains.setdefault(c.first, []).append(c.contrast.difference)
        gains.setdefault(c.second, []).append(-c.contrast.difference)
    ranked = sorted(gains, key=lambda level: -sum(gains[level]) / len(gains[level]))
    best = [c for c in effect.comparisons if ranked[0] in (c.first, c.second)]
    return min(best, key=lambda c: max(ranked.index(c.first), ranked.index(c.second))), ranked


def _better_first(c: Comparison) -> tuple[str, str]:
    first, second = (c.first, c.second) if c.contrast.difference >= 0 else (c.second, c.first)
    return _name(first), _name(second)


def _evidence(c: Contrast) -> tuple[str, str, str]:
    """The size of a difference in points, its interval and p, and what they say: "sure", "chance"
    or "none".
    """
    size, half = 100 * abs(c.difference), 100 * c.half
    p = c.p if c.corrected is None else c.corrected
    digits = 1 if half >= 0.1 else 2

    def points(value: float) -> str:
        return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")

    shown = "< 0.001" if p < 0.001 else f"= {p:.3f}" if p < 0.1 else f"= {p:.2f}"
    label = "p" if c.corrected is None else "corrected p"
    apart = (size > half) + (p < 0.05)
    interval = f"95% interval {points(size - half)} to {points(size + half)}"
    return points(size), f"{interval}, {label} {shown}", ("none", "chance", "sure")[apart]


def _name(level: Level) -> str:
    return str(level).lower() if level is None or isinstance(level, bool) else str(level)


def _names(levels: Sequence[Level]) -> str:
    *most, last = [_name(level) for level in levels] or [""]
    return f"{', '.join(most)} and {last}" if most else last
