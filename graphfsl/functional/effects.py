"""Main effects and interactions of the axes of a grid whose cells hold accuracies over episodes."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, product
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from graphfsl.functional.comparison import Contrast, contrasts, holm
from graphfsl.io.errors import require

Level = Hashable
Cell = Mapping[str, Level]
Corner = dict[tuple[Level, ...], int]  # the other axes' levels -> the cell's index
Table = dict[tuple[Level, ...], Corner]  # some axes' levels -> the cells that have them


@dataclass(frozen=True)
class Comparison:
    """Two levels of an axis, compared over pairs of cells that differ in nothing else.

    Attributes:
        first: a level.
        second: another level.
        contrast: the first less the second.
    """

    first: Level
    second: Level
    contrast: Contrast


@dataclass(frozen=True)
class MainEffect:
    """What one axis does: every pair of its levels that some combination of the other axes has.

    Attributes:
        axis: its name.
        comparisons: of each pair of levels.
        means: accuracy of each level over the combinations that all comparable levels have; empty
            where there is none.
        incomparable: levels that share no combination with any other level.
    """

    axis: str
    comparisons: tuple[Comparison, ...]
    means: Mapping[Level, float]
    incomparable: tuple[Level, ...]


@dataclass(frozen=True)
class Interaction:
    """Whether two axes depend on each other: the strongest of their 2 x 2 contrasts.

    A contrast is (a1 b1 - a1 b2) - (a2 b1 - a2 b2); the strongest has the largest |t|.

    Attributes:
        axes: their names.
        levels: (a1, a2), (b1, b2); None where nothing is comparable.
        contrast: `corrected` over this pair of axes' contrasts.
        contrasts: how many there are.
        share: of the cells' sum of squares; None where no combination has all pairs of comparable
            levels.
    """

    axes: tuple[str, str]
    levels: tuple[tuple[Level, Level], tuple[Level, Level]] | None
    contrast: Contrast | None
    contrasts: int
    share: float | None


def main_effects(
    cells: Sequence[Cell],
    accuracies: Float[Tensor, "cells n"],
    keys: Sequence[Hashable],
    permutations: int = 10_000,
    seed: int = 0,
) -> list[MainEffect]:
    """The effect of each axis: every pair of its levels, compared where nothing else differs.

    Cells of equal key are paired by episode (`contrasts` says what follows). Only combinations of
    the other axes that both levels have are compared. p is raw: `corrected` makes Holm's correction
    over all axes.

    Args:
        cells: axis -> level, of each cell.
        accuracies: (cells, n) over episodes.
        keys: what a cell's episodes are a function of.
        permutations: of the test behind p, see `permutation_test`.
        seed: of its signs.

    Raises:
        InputError: where cells differ in their axes or are the same twice, or values are too few or
            not finite.
    """
    axes = _axes(cells, accuracies, keys)
    asked = {axis: _pairs_of_levels(cells, axis) for axis in axes}
    every = [question for questions in asked.values() for question in questions]
    answers = iter(_answers(every, accuracies, keys, permutations, seed))

    effects = []
    for axis, questions in asked.items():
        comparisons = []
        for question in questions:
            first, second = question.levels
            comparisons.append(Comparison(first, second, next(answers)))
        effects.append(_main_effect(axis, tuple(comparisons), cells, accuracies))
    return effects


def corrected(effects: Sequence[MainEffect]) -> list[MainEffect]:
    """The same effects with Holm's correction over every comparison of every axis.

    Args:
        effects: of `main_effects`.
    """
    raw = [c.contrast.p for effect in effects for c in effect.comparisons]
    adjusted = iter(holm(torch.tensor(raw, dtype=torch.float64)).tolist())

    def with_p(c: Comparison) -> Comparison:
        return replace(c, contrast=replace(c.contrast, corrected=next(adjusted)))

    return [
        replace(effect, comparisons=tuple(map(with_p, effect.comparisons))) for effect in effects
    ]


def interactions(
    cells: Sequence[Cell],
    accuracies: Float[Tensor, "cells n"],
    keys: Sequence[Hashable],
    permutations: int = 10_000,
    seed: int = 0,
) -> list[Interaction]:
    """The interaction of each pair of axes.

        share = m sum_ab (y_ab - y_a - y_b + y)^2 / sum_abr (y_abr - y)^2

    over the levels a, b of some contrast and the m combinations r of the other axes that have all
    of them (eta squared); y_ab, y_a, y_b, y are means of the cells' means y_abr.

    Args:
        cells: see `main_effects`.
        accuracies: see `main_effects`.
        keys: see `main_effects`.
        permutations: see `main_effects`.
        seed: see `main_effects`.

    Raises:
        InputError: as `main_effects`.

    Source:
        Fisher 1925, Statistical Methods for Research Workers.
    """
    found = []
    for axes in combinations(_axes(cells, accuracies, keys), 2):
        table = _table(cells, axes)
        questions = _two_by_two(table, len(cells))
        if not questions:
            found.append(Interaction(axes, None, None, 0, None))
            continue
        answers = _answers(questions, accuracies, keys, permutations, seed)
        adjusted = holm(torch.tensor([c.p for c in answers], dtype=torch.float64)).tolist()
        largest = max(range(len(answers)), key=lambda i: abs(answers[i].t))
        found.append(
            Interaction(
                axes,
                levels=questions[largest].levels,
                contrast=replace(answers[largest], corrected=adjusted[largest]),
                contrasts=len(answers),
                share=_share(_comparable_grid(table, questions), accuracies),
            )
        )
    return found


def _axes(
    cells: Sequence[Cell], accuracies: Float[Tensor, "cells n"], keys: Sequence[Hashable]
) -> list[str]:
    require(
        len(cells) == len(accuracies) == len(keys),
        f"{len(cells)} cells need as many accuracies and keys, not "
        f"{len(accuracies)} and {len(keys)}",
    )
    axes = list(cells[0]) if cells else []
    seen = set()
    for cell in cells:
        require(
            set(cell) == set(axes),
            f"every cell needs the same axes: {sorted(cell)} beside {sorted(axes)}",
        )
        levels = tuple(cell[a] for a in axes)
        require(
            levels not in seen,
            f"two cells are {dict(cell)}; what tells them apart, such as a seed, must be an axis",
        )
        seen.add(levels)
    return axes


def _table(cells: Sequence[Cell], axes: tuple[str, ...]) -> Table:
    """The cells by their levels of these axes, and then by those of all others."""
    table: Table = {}
    for i, cell in enumerate(cells):
        levels = tuple(cell[axis] for axis in axes)
        rest = tuple(cell[axis] for axis in cells[0] if axis not in axes)
        table.setdefault(levels, {})[rest] = i
    return table


@dataclass(frozen=True)
class _Question:
    """A contrast that is asked for.

    levels: of which it is. weights: of each cell; they sum to zero. matched: over how many
    combinations of the other axes.
    """

    levels: Any
    weights: list[float]
    matched: int


def _question(
    levels: Any, plus: Sequence[Corner], minus: Sequence[Corner], size: int
) -> _Question | None:
    """The weights of all cells in a difference of corners; None where no combination has them all.

    It is the mean, over the combinations of the other axes that all corners have, of the sum of the
    cells of `plus` less that of `minus`.

    Args:
        levels: what the question is called by.
        plus: the corners that are added.
        minus: the corners that are subtracted.
        size: the number of all cells.
    """
    rests = _common([*plus, *minus])
    if not rests:
        return None
    weights = [0.0] * size
    for rest in rests:
        for corner in plus:
            weights[corner[rest]] = 1 / len(rests)
        for corner in minus:
            weights[corner[rest]] = -1 / len(rests)
    return _Question(levels, weights, len(rests))


def _common(corners: Sequence[Corner]) -> list[tuple[Level, ...]]:
    """The combinations of the other axes that all corners have."""
    return [rest for rest in corners[0] if all(rest in corner for corner in corners)]


def _pairs_of_levels(cells: Sequence[Cell], axis: str) -> list[_Question]:
    """Each two levels of an axis that can be compared."""
    table = _table(cells, (axis,))
    questions = [
        _question((first[0], second[0]), [table[first]], [table[second]], len(cells))
        for first, second in combinations(table, 2)
    ]
    return [question for question in questions if question is not None]


def _two_by_two(table: Table, size: int) -> list[_Question]:
    """Each two levels of one axis and two of another whose four corners can be compared."""
    rows = list(dict.fromkeys(a for a, _ in table))
    columns = list(dict.fromkeys(b for _, b in table))
    nowhere: Corner = {}
    questions = []
    for (a1, a2), (b1, b2) in product(combinations(rows, 2), combinations(columns, 2)):
        plus = [table.get((a1, b1), nowhere), table.get((a2, b2), nowhere)]
        minus = [table.get((a1, b2), nowhere), table.get((a2, b1), nowhere)]
        questions.append(_question(((a1, a2), (b1, b2)), plus, minus, size))
    return [question for question in questions if question is not None]


def _answers(
    questions: Sequence[_Question],
    accuracies: Float[Tensor, "cells n"],
    keys: Sequence[Hashable],
    permutations: int,
    seed: int,
) -> list[Contrast]:
    rows = [question.weights for question in questions]
    weights = torch.tensor(rows, dtype=torch.float64).reshape(-1, len(keys))
    matched = [question.matched for question in questions]
    return contrasts(weights, accuracies, keys, matched, permutations, seed)


def _main_effect(
    axis: str,
    comparisons: tuple[Comparison, ...],
    cells: Sequence[Cell],
    accuracies: Float[Tensor, "cells n"],
) -> MainEffect:
    table = {levels[0]: corner for levels, corner in _table(cells, (axis,)).items()}
    matched = {level for c in comparisons for level in (c.first, c.second)}
    comparable = [level for level in table if level in matched]
    incomparable = tuple(level for level in table if level not in matched)

    overall = accuracies.double().mean(-1)
    means = {}
    rests = _common([table[level] for level in comparable]) if comparable else []
    if rests:
        for level in comparable:
            means[level] = float(overall[[table[level][rest] for rest in rests]].mean())
    return MainEffect(axis, comparisons, means, incomparable)


def _comparable_grid(table: Table, questions: Sequence[_Question]) -> list[list[Corner]]:
    """The corners of all levels of two axes that stand in some contrast."""
    first = {level for question in questions for level in question.levels[0]}
    second = {level for question in questions for level in question.levels[1]}
    rows = [a for a in dict.fromkeys(a for a, _ in table) if a in first]
    columns = [b for b in dict.fromkeys(b for _, b in table) if b in second]
    return [[table.get((a, b), {}) for b in columns] for a in rows]


def _share(grid: Sequence[Sequence[Corner]], accuracies: Float[Tensor, "cells n"]) -> float | None:
    """Eta squared of the interaction; None where no combination has all corners."""
    rests = _common([corner for row in grid for corner in row])
    if not rests:
        return None
    overall = accuracies.double().mean(-1)
    y = torch.stack([_means(row, rests, overall) for row in grid])
    ab = y.mean(-1)
    interaction = ab - ab.mean(0) - ab.mean(1, keepdim=True) + ab.mean()
    total = (y - y.mean()).square().sum()
    return float(len(rests) * interaction.square().sum() / total) if total > 0 else 0.0


def _means(
    row: Sequence[Corner], rests: Sequence[tuple[Level, ...]], overall: Float[Tensor, " cells"]
) -> Float[Tensor, "b r"]:
    """y_abr of one level a: (levels b, combinations r)."""
    return torch.stack([overall[[corner[rest] for rest in rests]] for corner in row])
