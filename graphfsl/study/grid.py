"""The cells of a study file: every combination of the levels of its axes.

Each cell is a configuration of its own.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphfsl.experiment.experiment import Experiment
from graphfsl.io.errors import InputError, require, unknown
from graphfsl.study.study_file import Choice, SkipRule, StudyFile

Label = str | int | float | None  # a level as tables show it


@dataclass(frozen=True)
class Cell:
    """One combination of levels: what is trained, and what the evaluation changes in it."""

    levels: dict[str, Label]  # axis -> level, structured ones by name
    experiment: Experiment
    changes: tuple[str, ...]

    @property
    def training(self) -> str:
        """The name of the cell's training, the same for cells that share it."""
        return self.experiment.training_digest

    @property
    def name(self) -> str:
        """The name of the cell's file, which changes with anything that decides its row."""
        return self.experiment.row_digest(self.changes)


@dataclass(frozen=True)
class Study:
    """A study file, its overrides applied and its grid multiplied out."""

    name: str
    question: str
    axes: dict[str, list[Label]]
    cells: list[Cell]
    threads: int
    against: Sequence[dict[str, Label]] = ()
    also: Sequence[str] = ()


def read_study(path: str | Path, overrides: Sequence[str] = ()) -> Study:
    """The study of a file, with overrides.

    Every cell's experiment is checked as it is read.

    Args:
        path: the file, or its name below experiments/ablations.
        overrides: of the experiment, or of `grid`, `threads` and the other keys of a study.

    Raises:
        InputError: for a file that is no study; where a cell is wrong, it is named.
    """
    study = StudyFile.read(path, overrides)
    base = Experiment.read(study.experiment, [*study.changes, "evaluation.settings=[{}]"])
    cells = _cells(study, base.without_seeds())
    _check_distinct(cells, study.file)
    _check_metrics(cells, study.also)
    return Study(
        name=study.file.stem,
        question=study.question,
        axes={axis.key: list(dict.fromkeys(map(label, axis.levels))) for axis in study.grid},
        cells=cells,
        against=[{c.axis: label(c.level) for c in reference} for reference in study.against],
        threads=study.threads,
        also=study.also,
    )


def _cells(study: StudyFile, base: Experiment) -> list[Cell]:
    """Every combination of levels that no rule leaves out."""
    known: dict[tuple[str, ...], Experiment] = {}
    combinations = itertools.product(*(axis.choices for axis in study.grid))
    return [_cell(base, c, known) for c in combinations if not _is_skipped(c, study.skip)]


def _is_skipped(combination: Sequence[Choice], rules: Sequence[SkipRule]) -> bool:
    return any(_is_of(combination, rule) for rule in rules)


def _is_of(combination: Sequence[Choice], rule: SkipRule) -> bool:
    """Whether a rule speaks of a combination: it has the level that was chosen, of each axis."""
    chosen = {choice.axis: choice.level for choice in combination}
    return all(chosen[axis.key] in axis.levels for axis in rule)


def _cell(
    base: Experiment, combination: Sequence[Choice], known: dict[tuple[str, ...], Experiment]
) -> Cell:
    """The cell of a combination.

    Args:
        base: the experiment that every cell starts from.
        combination: a choice of each axis.
        known: the experiments read so far, by the changes of their training; filled here.

    Raises:
        InputError: where the changes make no valid experiment, or too few episodes; it names the
            cell.
    """
    levels = {choice.axis: label(choice.level) for choice in combination}
    trained = tuple(c.change for c in combination if not c.is_of_evaluation)
    changes = tuple(c.change for c in combination if c.is_of_evaluation)
    try:
        if trained not in known:
            known[trained] = base.changed(*trained)
        experiment = known[trained]
        evaluated = experiment.changed(*changes)
        episodes, least = evaluated.evaluation.episodes, 2 * evaluated.task.unit
        require(
            episodes >= least,
            f"a comparison needs evaluation.episodes of at least {least}, not {episodes}",
        )
        settings = len(evaluated.evaluation.tasks)
        require(settings == 1, f"a cell is evaluated in one setting, not in {settings}")
    except InputError as error:
        raise InputError(f"cell {shown(levels)}: {error}") from None
    return Cell(levels, experiment, changes)


def _check_distinct(cells: Sequence[Cell], file: Path) -> None:
    """InputError where there are no cells, or two of them are the same."""
    require(bool(cells), f"{file}: the skip rules leave no cell of the grid")
    texts: dict[str, str] = {}  # of the cells before, by their names
    for cell in cells:
        text = shown(cell.levels)
        require(
            text not in texts.values(),
            f"{file}: two cells are the same: {text}; an axis lists a level twice, or two that "
            "tables show alike",
        )
        require(
            cell.name not in texts,
            f"{file}: two cells are the same: {texts.get(cell.name)}, and {text}; leave one out",
        )
        texts[cell.name] = text


def _check_metrics(cells: Sequence[Cell], also: Sequence[str]) -> None:
    """InputError where a metric that the study tells of is none of a task's, or its first one."""
    for cell in cells:
        first, *further = cell.experiment.changed(*cell.changes).task.metrics
        for name in also:
            require(name != first, f"{first} is compared as it is; leave it out of also")
            if name not in further:
                raise unknown("metric", name, further)


def label(level: Any) -> Label:
    """A level as tables show it.

    {name: protonet, distance: cosine} is "protonet (distance cosine)".
    """
    if isinstance(level, bool):
        return str(level).lower()
    if level is None or isinstance(level, (str, int, float)):
        return level
    if isinstance(level, list):
        return " + ".join(str(label(v)) for v in level) or "none"
    told = []
    for key, value in level.items():
        if key != "name":
            told.append(f"{key} {'none' if value is None else label(value)}")
    options = ", ".join(told)
    if "name" not in level:
        return options
    return f"{level['name']} ({options})" if options else str(level["name"])


def shown(levels: Mapping[str, Any]) -> str:
    """The levels of a cell as text: "axis=level, …"."""
    return ", ".join(f"{a}={'none' if v is None else v}" for a, v in levels.items())
