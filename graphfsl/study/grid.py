"""A study file, and its cells: every combination of the levels of its axes.

Each cell is a configuration of its own.

question:    one line, the title of the report
experiment:  the experiment file that every cell starts from
set:         {trainer.steps: 300, …}: what the study changes in it
grid:        {axis: [levels]}; an axis is any key of a configuration: learner.head, data.name,
             trainer.lr, seed, …
             With `test.` before it, it changes the evaluation only, and cells that differ in
             nothing else share one training: test.episode.shot, test.learner.refine,
             test.data.name.
skip:        [{axis: level or [levels], …}, …]: combinations that are left out
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

from graphfsl.experiment.experiment import Experiment
from graphfsl.experiment.overrides import names, parted, text_value, yaml_value
from graphfsl.experiment.yaml_files import load_yaml
from graphfsl.io.errors import InputError, require, unknown
from graphfsl.io.package_data import experiments_dir

KEYS = ("question", "experiment", "set", "grid", "skip", "threads")
TEST = "test."
# they make no other training
PLACES = ("data.root", "data.download", "trainer.device", "trainer.logger")


@dataclass(frozen=True)
class Cell:
    """One combination of levels: what is trained, and what the evaluation changes in it."""

    levels: dict[str, str | int | float | None]  # axis -> level, structured ones by name
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
    axes: dict[str, list[str | int | float | None]]
    cells: list[Cell]
    threads: int


def read_study(path: str | Path, overrides: Sequence[str] = ()) -> Study:
    """The study of a file, with overrides.

    Every cell's experiment is checked as it is read.

    Args:
        path: the file, or its name below experiments/ablations.
        overrides: of the experiment, or of `grid`, `threads` and the other keys of a study.

    Raises:
        InputError: for a file that is no study; where a cell is wrong, it is named.
    """
    file = _file(Path(path))
    tree = load_yaml(file)
    own = tuple(o for o in overrides if o.partition("=")[0].partition(".")[0] in KEYS)
    further = tuple(o for o in overrides if o not in own)
    settings = _override_study(tree, own)
    _check_tree(tree, file)
    if any(names(o, "evaluation.settings") for o in (*settings, *further)):
        raise InputError(
            "each cell is evaluated in one setting; make others an axis, such as "
            "grid.test.episode.shot=[1, 5]"
        )
    grid = tree["grid"]
    changes = [*map(override, (tree.get("set") or {}).items()), *settings, *further]
    for change in changes:
        _check_free(change, grid)
    _check_axes(grid)
    base = Experiment.read(tree["experiment"], [*changes, "evaluation.settings=[{}]"])
    skip = _skip_rules(tree.get("skip") or [], grid, file)
    cells = _cells(base.without_seeds(), grid, skip)
    _check_distinct(cells, file)
    axes = {a: list(dict.fromkeys(label(v) for v in values)) for a, values in grid.items()}
    question = str(tree.get("question") or file.stem)
    return Study(file.stem, question, axes, cells, tree.get("threads", 1))


def _check_tree(tree: Mapping[str, Any], file: Path) -> None:
    """Refuse a key of a study file that means nothing, or a value of the wrong kind.

    Raises:
        InputError: for the first one.
    """
    for key in tree:
        if key not in KEYS:
            raise unknown("key of a study", key, KEYS)
    grid, threads = tree.get("grid"), tree.get("threads", 1)
    lists = isinstance(grid, Mapping) and all(isinstance(v, list) and v for v in grid.values())
    require(
        bool(grid) and lists,
        f"{file}: grid must map each axis to a list of levels, such as grid: {{seed: [0, 1]}}",
    )
    counts = isinstance(threads, int) and not isinstance(threads, bool) and threads >= 1
    require(counts, f"{file}: threads must be a whole number of at least 1, not {threads!r}")
    named = isinstance(tree.get("experiment"), str)
    require(
        named and isinstance(tree.get("set") or {}, Mapping),
        f"{file}: experiment must name an experiment file, and set map keys to values",
    )


def _cells(
    base: Experiment, grid: Mapping[str, list[Any]], skip: Sequence[Mapping[str, list[Any]]]
) -> list[Cell]:
    """Every combination of levels that no rule leaves out."""
    cells: list[Cell] = []
    known: dict[tuple[str, ...], Experiment] = {}
    for levels in itertools.product(*grid.values()):
        combination = dict(zip(grid, levels, strict=True))
        if not any(_is_skipped(combination, rule) for rule in skip):
            cells.append(_cell(base, combination, known))
    return cells


def _is_skipped(combination: Mapping[str, Any], rule: Mapping[str, list[Any]]) -> bool:
    return all(combination[axis] in values for axis, values in rule.items())


def _check_distinct(cells: Sequence[Cell], file: Path) -> None:
    """InputError where there are no cells, or two of them are the same."""
    require(bool(cells), f"{file}: the skip rules leave no cell of the grid")
    for told in ([c.name for c in cells], [shown(c.levels) for c in cells]):
        twice = next((c for c, t in zip(cells, told, strict=True) if told.count(t) > 1), None)
        if twice is not None:
            raise InputError(
                f"{file}: two cells are the same: {shown(twice.levels)}; an axis "
                f"lists a level twice"
            )


def _override_study(tree: dict[str, Any], own: Sequence[str]) -> list[str]:
    """Change a study's tree by the overrides of its own keys.

    Returns:
        Those below `set`, as the experiment's, with whose types they are read.
    """
    settings = []
    for item in own:
        key, value = parted(item)
        section, _, rest = key.partition(".")
        if section == "set" and rest:
            settings.append(f"{rest}={value}")
            continue
        parsed = text_value(value) if key in ("question", "experiment") else _plain(value, item)
        tree[section] = {**(tree.get(section) or {}), rest: parsed} if rest else parsed
    return settings


def _check_free(change: str, grid: Mapping[str, Any]) -> None:
    """InputError where a study does not keep what a change sets: an axis, or more, replaces it."""
    key = parted(change)[0]
    for axis in grid:
        if names(change, axis):
            raise InputError(
                f"{key} is set by the axis {axis} in every cell; change its levels: grid.{axis}=[…]"
            )
    if key == "seeds":
        raise InputError("a study runs each cell once; make seeds an axis: grid.seed=[0, 1, 2]")


def _check_axes(grid: Mapping[str, list[Any]]) -> None:
    """Refuse axes that do not make cells of their own.

    Raises:
        InputError: where one axis replaces what another one sets, or cells would differ in the
            place of their data.
    """
    axes = list(grid)
    for inner, outer in itertools.permutations(axes, 2):
        if not inner.startswith(f"{outer}."):
            continue
        first = axes.index(inner) < axes.index(outer)  # changes are made in the order of the axes
        if first or any(names(override((outer, level)), inner) for level in grid[outer]):
            raise InputError(
                f"of the axes {inner} and {outer} one replaces what the other sets; "
                f"make them one axis"
            )
    if moved := [a for a in axes if a in PLACES]:
        raise InputError(
            f"the axis {moved[0]} makes no other training; for other data make "
            f"{TEST}data.root an axis"
        )


def _plain(value: str, item: str) -> Any:
    try:
        return OmegaConf.to_container(OmegaConf.create({"v": yaml_value(value)}))["v"]  # type: ignore[index,call-overload]
    except Exception as error:  # what is no YAML makes OmegaConf raise almost anything
        raise InputError(
            f"override {item!r:.200} is not YAML ({' '.join(str(error).split())[:200]})"
        ) from None


def _file(path: Path) -> Path:
    if path.is_file():
        return path
    folder = experiments_dir() / "ablations"
    name = path.name if path.suffix == ".yaml" else f"{path.name}.yaml"
    if not (folder / name).is_file():
        raise unknown("study", str(path), [p.name for p in folder.glob("*.yaml")])
    return folder / name


def _cell(
    base: Experiment, combination: Mapping[str, Any], known: dict[tuple[str, ...], Experiment]
) -> Cell:
    """known: the experiment of each training that was read before."""
    trained = tuple(override(item) for item in combination.items() if not item[0].startswith(TEST))
    changes = tuple(
        override((a.removeprefix(TEST), v)) for a, v in combination.items() if a.startswith(TEST)
    )
    levels = {axis: label(value) for axis, value in combination.items()}
    try:
        if trained not in known:
            known[trained] = base.changed(*trained)
        experiment = known[trained]
        evaluated = experiment.changed(*changes) if changes else experiment
        episodes = evaluated.evaluation.episodes
        if episodes < 2:
            raise InputError(
                f"a comparison needs evaluation.episodes of at least 2, not {episodes}"
            )
    except InputError as error:
        raise InputError(f"cell {shown(levels)}: {error}") from None
    return Cell(levels, experiment, changes)


def _skip_rules(
    rules: Any, grid: Mapping[str, list[Any]], file: Path
) -> list[dict[str, list[Any]]]:
    if not isinstance(rules, list) or not all(isinstance(r, Mapping) and r for r in rules):
        raise InputError(f"{file}: skip must be a list of {{axis: level}}, not {rules!r}")
    out = []
    for rule in rules:
        for axis, value in rule.items():
            if axis not in grid:
                raise unknown("axis in skip", axis, grid)
            if missing := [
                v for v in (value if isinstance(value, list) else [value]) if v not in grid[axis]
            ]:
                raise InputError(
                    f"{file}: skip names the level {missing[0]!r}, which axis {axis} does not have"
                )
        out.append({a: v if isinstance(v, list) else [v] for a, v in rule.items()})
    return out


def override(item: tuple[str, Any]) -> str:
    """A key and a value as text, key=value, as on the command line."""
    key, value = item
    if not isinstance(value, str):
        return f"{key}={json.dumps(value)}"
    if re.fullmatch(r"[A-Za-z_][\w./-]*", value) and value.lower() not in _YAML_WORDS:
        return f"{key}={value}"
    escaped = json.dumps(value) != f'"{value}"'  # text is read as it stands, without JSON's escapes
    return f"{key}='{value}'" if escaped else f'{key}="{value}"'


_YAML_WORDS = {"null", "true", "false", "yes", "no", "on", "off", "nan", "inf"}


def label(level: Any) -> str | int | float | None:
    """A level as tables show it.

    {name: protonet, distance: cosine} is "protonet (distance cosine)".
    """
    if isinstance(level, bool):
        return str(level).lower()
    if level is None or isinstance(level, (str, int, float)):
        return level
    if isinstance(level, list):
        return " + ".join(str(label(v)) for v in level) or "none"
    options = ", ".join(
        f"{k} {'none' if v is None else label(v)}" for k, v in level.items() if k != "name"
    )
    return (
        (f"{level['name']} ({options})")
        if "name" in level and options
        else str(level.get("name", options))
    )


def shown(levels: Mapping[str, Any]) -> str:
    """The levels of a cell as text: "axis=level, …"."""
    return ", ".join(f"{a}={'none' if v is None else v}" for a, v in levels.items())
