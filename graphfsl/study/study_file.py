"""A study file: what is compared, by which changes of one experiment.

question:    one line, the title of the report
experiment:  the experiment file that every cell starts from
set:         {trainer.steps: 300, …}: what the study changes in it
grid:        {axis: [levels]}; an axis is any key of a configuration: learner.head, data.name,
             trainer.lr, seed, …
             With `test.` before it, it changes the evaluation only, and cells that differ in
             nothing else share one training: test.episode.shot, test.learner.refine,
             test.data.name. So does a key of the section `evaluation`, as evaluation.split
skip:        [{axis: level or [levels], …}, …]: combinations that are left out
against:     [{axis: level, …}, …]: references. The report says what each cell gains over the one
             that has these levels and else its own
also:        [metric, …]: metrics of the task beside the first one, whose values stand in cells.csv,
             and whose gains over `against` in the report
threads:     CPU threads of a cell (1); the same for one process or many, so that results do not
             depend on it
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from graphfsl.core.schema import given_or
from graphfsl.experiment.overrides import names, parted, text_value, yaml_value
from graphfsl.experiment.yaml_files import load_yaml, merged
from graphfsl.io.errors import InputError, require, unknown
from graphfsl.io.package_data import experiments_dir

KEYS = ("question", "experiment", "set", "grid", "skip", "against", "also", "threads")
TEST = "test."
# they make no other training
PLACES = ("data.root", "data.download", "trainer.device", "trainer.logger")
YAML_WORDS = {"null", "true", "false", "yes", "no", "on", "off", "nan", "inf"}


@dataclass(frozen=True)
class Choice:
    """One level of an axis.

    Args:
        axis: the key that it sets.
        level: what YAML holds: text, a number, null, or a list or mapping of options.
    """

    axis: str
    level: Any

    @property
    def is_of_evaluation(self) -> bool:
        """Whether it changes the evaluation only."""
        return self.axis.startswith(TEST) or self.axis.split(".")[0] == "evaluation"

    @property
    def change(self) -> str:
        """The override that makes it, of a training or of an evaluation."""
        return override((self.axis.removeprefix(TEST), self.level))


@dataclass(frozen=True)
class Axis:
    """A key and its levels."""

    key: str
    levels: tuple[Any, ...]

    @property
    def choices(self) -> list[Choice]:
        """Each level as one choice."""
        return [Choice(self.key, level) for level in self.levels]


# leaves out each combination of these levels, whatever those of the other axes
SkipRule = tuple[Axis, ...]


@dataclass(frozen=True)
class StudyFile:
    """A study file with overrides, checked when it is read.

    Args:
        file: where it stands.
        question: the title of the report.
        experiment: the file that every cell starts from.
        changes: overrides of that experiment, the same in every cell.
        grid: the axes.
        skip: which combinations of their levels are left out.
        threads: CPU threads of a cell.
        against: levels of references, each for itself.
        also: further metrics that are told.
    """

    file: Path
    question: str
    experiment: str
    changes: tuple[str, ...]
    grid: tuple[Axis, ...]
    skip: tuple[SkipRule, ...]
    threads: int
    against: tuple[tuple[Choice, ...], ...] = ()
    also: tuple[str, ...] = ()

    @classmethod
    def read(cls, path: str | Path, overrides: Sequence[str] = ()) -> StudyFile:
        """The study of a file, with overrides.

        Args:
            path: the file, or its name below experiments/ablations.
            overrides: of the experiment, or of `grid`, `threads` and the other keys of a study.

        Raises:
            InputError: for a file that is no study.
        """
        file = _find(Path(path))
        tree = load_yaml(file)
        settings = _apply(overrides, tree)
        _check_kinds(tree, file)
        grid = tuple(Axis(key, tuple(levels)) for key, levels in tree["grid"].items())
        changes = [*map(override, given_or(tree, "set", {}).items()), *settings]
        _check_changes(changes, grid)
        _check_axes(grid)
        return cls(
            file=file,
            question=str(tree.get("question") or file.stem),
            experiment=tree["experiment"],
            changes=tuple(changes),
            grid=grid,
            skip=_skip_rules(given_or(tree, "skip", []), grid, file),
            against=_references(given_or(tree, "against", []), grid, file),
            threads=tree.get("threads", 1),
            also=tuple(given_or(tree, "also", [])),
        )


def override(item: tuple[str, Any]) -> str:
    """A key and a value as text, key=value, as on the command line."""
    key, value = item
    if not isinstance(value, str):
        return f"{key}={json.dumps(value)}"
    if re.fullmatch(r"[A-Za-z_][\w./-]*", value) and value.lower() not in YAML_WORDS:
        return f"{key}={value}"
    escaped = json.dumps(value) != f'"{value}"'  # text is read as it stands, without JSON's escapes
    return f"{key}='{value}'" if escaped else f'{key}="{value}"'


def _find(path: Path) -> Path:
    """A file, or the shipped one of this name."""
    if path.is_file():
        return path
    folder = experiments_dir() / "ablations"
    name = path.name if path.suffix == ".yaml" else f"{path.name}.yaml"
    if not (folder / name).is_file():
        raise unknown("study", str(path), [p.name for p in folder.glob("*.yaml")])
    return folder / name


def _apply(overrides: Sequence[str], tree: dict[str, Any]) -> list[str]:
    """Change a study's tree by the overrides of its own keys.

    Returns:
        The others, which are of the experiment, with whose types they are read. Those below `set`
        come first.

    Raises:
        InputError: for an override that none can read.
    """
    settings, further = [], []
    for item in overrides:
        key, value = parted(item)
        section, _, rest = key.partition(".")
        if section == "set" and rest:
            settings.append(f"{rest}={value}")
        elif section in KEYS:
            tree[section] = _overridden(tree.get(section), item)
        else:
            further.append(item)
    return [*settings, *further]


def _overridden(before: Any, item: str) -> Any:
    """The value of a study's key after an override of it, or of one axis of its grid."""
    key, value = parted(item)
    section, _, axis = key.partition(".")
    parsed = text_value(value) if section in ("question", "experiment") else _plain(value, item)
    if not axis:
        return parsed
    known = before or {}
    require(
        section == "grid" and isinstance(known, Mapping),
        f"override {item!r:.200} sets a part of {section}, which has none; write {section}=…",
    )
    return {**known, axis: parsed}


def _plain(value: str, item: str) -> Any:
    """An override's value, of numbers, texts, lists and mappings."""
    try:
        tree = OmegaConf.create({"v": yaml_value(value)})
        return OmegaConf.to_container(tree)["v"]  # type: ignore[index,call-overload]
    except Exception as error:  # what is no YAML makes OmegaConf raise almost anything
        raise InputError(
            f"override {item!r:.200} is not YAML ({' '.join(str(error).split())[:200]})"
        ) from None


def _check_kinds(tree: Mapping[str, Any], file: Path) -> None:
    """Refuse a key of a study file that means nothing, or a value of the wrong kind.

    Raises:
        InputError: for the first one.
    """
    for key in tree:
        if key not in KEYS:
            raise unknown("key of a study", key, KEYS)
    require(
        _is_grid(tree.get("grid")),
        f"{file}: grid must map each axis to a list of levels, such as grid: {{seed: [0, 1]}}",
    )
    threads = tree.get("threads", 1)
    counts = isinstance(threads, int) and not isinstance(threads, bool) and threads >= 1
    require(counts, f"{file}: threads must be a whole number of at least 1, not {threads!r}")
    named = isinstance(tree.get("experiment"), str)
    require(
        named and isinstance(given_or(tree, "set", {}), Mapping),
        f"{file}: experiment must name an experiment file, and set map keys to values",
    )
    also = given_or(tree, "also", [])
    require(
        isinstance(also, list) and all(isinstance(name, str) for name in also),
        f"{file}: also must be a list of metrics, such as also: [macro-F1], not {also!r:.50}",
    )
    twice = next((name for name in also if also.count(name) > 1), None)
    require(twice is None, f"{file}: also names {twice} twice; name each metric once")


def _is_grid(value: Any) -> bool:
    """Whether it maps names of axes to lists of levels."""
    if not isinstance(value, Mapping) or not value:
        return False
    return all(
        isinstance(key, str) and isinstance(levels, list) and levels
        for key, levels in value.items()
    )


def _check_changes(changes: Sequence[str], grid: Sequence[Axis]) -> None:
    """Refuse what a study would not keep: settings, what an axis replaces, and a number of runs.

    Raises:
        InputError: for the first one.
    """
    single: dict[str, Any] = {"evaluation": {"settings": [{}]}}
    require(
        merged(single, changes)["evaluation"].get("settings", [{}]) == [{}],
        "each cell is evaluated in one setting; make others an axis, such as "
        "grid.test.episode.shot=[1, 5]",
    )
    for change in changes:
        key, _ = parted(change)
        for axis in grid:
            if names(change, axis.key):
                raise InputError(
                    f"{key} is set by the axis {axis.key} in every cell; change its levels: "
                    f"grid.{axis.key}=[…]"
                )
        if key == "seeds":
            raise InputError("a study runs each cell once; make seeds an axis: grid.seed=[0, 1, 2]")


def _check_axes(grid: Sequence[Axis]) -> None:
    """Refuse axes that do not make cells of their own.

    Raises:
        InputError: where one axis replaces what another one sets, or cells would differ in the
            place of their data.
    """
    for first, second in itertools.combinations(grid, 2):
        # changes are made in the order of the axes: a wide one after a narrow one replaces it
        if first.key.startswith(f"{second.key}."):
            raise _replaces(first, second)
        if second.key.startswith(f"{first.key}.") and _sets(first, second.key):
            raise _replaces(second, first)
    for axis in grid:
        require(
            axis.key.removeprefix(TEST) != "seeds",
            f"a study runs each cell once, whatever {axis.key}; make it grid.seed=[0, 1, 2]",
        )
        require(
            axis.key not in PLACES,
            f"the axis {axis.key} makes no other training; for other data make "
            f"{TEST}data.root an axis",
        )


def _sets(axis: Axis, key: str) -> bool:
    """Whether one of the levels holds this key."""
    return any(names(override((axis.key, level)), key) for level in axis.levels)


def _replaces(inner: Axis, outer: Axis) -> InputError:
    return InputError(
        f"of the axes {inner.key} and {outer.key} one replaces what the other sets; "
        "make them one axis"
    )


def _skip_rules(rules: Any, grid: Sequence[Axis], file: Path) -> tuple[SkipRule, ...]:
    """The section `skip`, checked against the axes.

    Raises:
        InputError: where it is no list of rules, or names what the grid does not have.
    """
    _check_mappings("skip", rules, file)
    found = []
    for rule in rules:
        parts = []
        for key, value in rule.items():
            levels = value if isinstance(value, list) else [value]
            for level in levels:
                _check_level("skip", key, level, grid, file)
            parts.append(Axis(key, tuple(levels)))
        found.append(tuple(parts))
    return tuple(found)


def _references(given: Any, grid: Sequence[Axis], file: Path) -> tuple[tuple[Choice, ...], ...]:
    """The section `against`, checked against the axes.

    Raises:
        InputError: where it is no list of references, or names what the grid does not have.
    """
    _check_mappings("against", given, file)
    for reference in given:
        for key, level in reference.items():
            _check_level("against", key, level, grid, file)
    return tuple(tuple(Choice(*item) for item in reference.items()) for reference in given)


def _check_mappings(section: str, given: Any, file: Path) -> None:
    """Refuse what is no list of mappings."""
    lists = isinstance(given, list) and all(isinstance(one, Mapping) and one for one in given)
    require(lists, f"{file}: {section} must be a list of {{axis: level}}, not {given!r}")


def _check_level(section: str, key: str, level: Any, grid: Sequence[Axis], file: Path) -> None:
    """Refuse an axis, or a level of one, that the grid does not have."""
    known = {axis.key: axis.levels for axis in grid}
    if key not in known:
        raise unknown(f"axis in {section}", key, known)
    require(
        level in known[key],
        f"{file}: {section} names the level {level!r}, which axis {key} does not have",
    )
