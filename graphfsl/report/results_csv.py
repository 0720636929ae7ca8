"""The record of committed results: one CSV for each data set.

It is written from the runs' results.json.
"""

from __future__ import annotations

import csv
import dataclasses
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from graphfsl import data
from graphfsl.core.task import Task
from graphfsl.data.tasks import DEFAULT, get, name_of
from graphfsl.experiment.experiment import Experiment, Published
from graphfsl.experiment.results import read_experiment, read_results
from graphfsl.io.checkpoint import read_json, write_atomically
from graphfsl.io.plain_text import unguarded
from graphfsl.report.tables import Line, metric_of, to_csv

ONLY_HERE = "file"  # a column that no table of a study has
# columns of text, of which some looks like numbers (a digest, a commit)
TEXT_COLUMNS = {
    *("method", "task", "data", "setting", "batch_norm", "metric", "unit", "groups", "source"),
    *("run", "config", "commit", "device", "command", "file", "variant", "pretraining"),
    *("unfinished", "setting_from"),
}
EPISODE = {"way": 5, "shot": 1, "unlabeled": 0, "distractors": 0}  # what most episodes are


def task_of_line(line: Line) -> Task:
    """The task that a row was asked."""
    kind = get(line.get("task") or DEFAULT)
    given = {f.name: line.get(f.name) for f in dataclasses.fields(kind)}
    return kind(**{name: value for name, value in given.items() if value is not None})


def size(line: Line) -> tuple[float, ...]:
    """The numbers that columns are sorted by: way, shot, unlabeled samples and distractors."""
    return tuple(task_of_line(line).size)


def column(line: Line) -> str:
    """What heads a row's column, such as "5-way 1-shot, 5 unlabeled, 5 distractors"."""
    return _title(task_of_line(line))


def _title(task: Task) -> str:
    return ", ".join([task.title, *task.details])


def records(folder: Path) -> dict[str, str]:
    """The record of each data set that runs in a folder were measured on, as CSV, by its name.

    Where a data set was asked classes and something else too, what that measured is a record of its
    own, such as "glyphs_functions".
    """
    found: dict[tuple[str, str], list[Line]] = {}
    for file in sorted(folder.glob("*/results.json")):
        for row in _rows_of_run(file.parent):
            asked = data_set(str(row["data"])), str(row.get("task") or DEFAULT)
            found.setdefault(asked, []).append(row)

    named: dict[str, list[Line]] = {}
    for (name, task), rows in found.items():
        apart = task != DEFAULT and (name, DEFAULT) in found
        named.setdefault(f"{name}_{task}" if apart else name, []).extend(rows)
    return {name: to_csv(rows) for name, rows in sorted(named.items())}


def write_records(folder: Path) -> list[Path]:
    """Write the record of each data set beside the runs, and return the files."""
    written = []
    for name, text in records(folder).items():
        file = folder / f"{name}.csv"
        write_atomically(file, text.encode())
        written.append(file)
    return written


def read_records(folder: Path) -> list[dict[str, Any]]:
    """The rows of every record in a folder."""
    files = [file for file in sorted(folder.glob("*.csv")) if is_record(file)]
    return [row for file in files for row in read_record(file)]


def read_record(file: Path) -> list[dict[str, Any]]:
    """The rows of one record."""
    with file.open(newline="", encoding="utf-8") as lines:
        return [_row_of_cells(cells) for cells in csv.DictReader(lines)]


def is_record(file: Path) -> bool:
    """Whether a CSV is the record of a data set, not the table of a study."""
    with file.open(newline="", encoding="utf-8") as lines:
        return ONLY_HERE in next(csv.reader(lines), [])


def data_set(split: str) -> str:
    """The data set that a split is of.

    It is omniglot of "omniglot-vinyals-rotations/test"; a set of the user's own goes by its own
    name.
    """
    own = split.partition("/")[0].replace("-", "_")
    known = [name for name in data.names() if own.startswith(name)]
    return max(known, key=len, default=own)


def _rows_of_run(path: Path) -> Iterator[Line]:
    """A run's own evaluation, and those that `graphfsl evaluate` left in its folder."""
    file = path / "results.json"
    experiment = read_experiment(file)
    yield from _rows_of_file(path, "results.json", read_results(file).rows, experiment, [])
    for file in sorted((path / "evaluations").glob("*.json")):
        found = read_json(file)
        name = f"evaluations/{file.name}"
        yield from _rows_of_file(path, name, found["rows"], experiment, found["overrides"])


def _rows_of_file(
    path: Path, name: str, rows: Sequence[Line], experiment: Experiment, overrides: Sequence[str]
) -> Iterator[Line]:
    """The rows of a file with what its name, its run's configuration and its overrides say."""
    first = experiment.pretraining
    objective = None if first is None else first.objective.name
    rows_of = Counter((row.get("method"), column(row), row.get("batch_norm")) for row in rows)
    trained_on, asked = name_of(experiment.train_task), name_of(experiment.task)
    for row in rows:
        variant = [" ".join(overrides)] if overrides else []
        if trained_on != asked:
            variant.append(f"trained on {trained_on}")
        if experiment.data.clusters is not None:
            variant.append("trained on clusters")
        policy = row.get("batch_norm")
        own_policy = policy == rows[0].get("batch_norm")
        if not own_policy:
            variant.append(f"{policy} BatchNorm")
        # they differ in their queries, which no column tells
        if rows_of[row.get("method"), column(row), policy] > 1:
            variant.append(f"query {row.get('query')}")
        published = _published(experiment, row, own_policy)
        other = published is not None and published.metric != metric_of(row)
        yield {
            **row,
            "run": path.name,
            "file": f"{path.name}/{name}",
            "variant": ", ".join(variant),
            "pretraining": objective,
            "published": None if other or published is None else published.value,
            "source": None if published is None else published.source,
        }


def _published(experiment: Experiment, row: Line, own_policy: bool) -> Published | None:
    """The paper's number in the setting of a row; of several that fit, the last one.

    own_policy: the row is of the run's own BatchNorm policy; under another one only a number counts
        that says what kind of setting it is of.
    """
    for number in reversed(experiment.notes.published):
        kind = number.setting or (row["setting"] if own_policy else None)
        asked = dataclasses.replace(experiment.task, **number.asked)
        if kind == row["setting"] and _title(asked) == column(row):
            return number
    return None


def _row_of_cells(cells: Mapping[str, str]) -> dict[str, Any]:
    """A line of a record with its values as results.json holds them; an empty cell is None."""
    fields = dataclasses.fields(get(cells.get("task") or DEFAULT))
    texts = TEXT_COLUMNS | {field.name for field in fields if isinstance(field.default, str)}
    row: dict[str, Any] = {}
    for key, cell in cells.items():
        if not cell:
            row[key] = None
        else:
            row[key] = unguarded(cell) if key in texts else json.loads(cell)
    return row
