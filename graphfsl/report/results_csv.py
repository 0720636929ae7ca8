"""The record of committed results: one CSV for each data set, written from the runs' results.json.

The tables of the documentation are printed from these files. They are those of `tables.to_csv`,
with these columns more:

- `file`: the file below experiments/results that holds the row, and the accuracy of each episode.
- `variant`: how the row was measured otherwise than its run says: overrides, BatchNorm policy.
- `pretraining`: the objective that the encoder was pretrained with.
- `published`, `source`: the paper's number in this setting, also where ours is of other classes.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from graphfsl import data
from graphfsl.experiment.builder import named
from graphfsl.io.checkpoint import read_json, write_atomically
from graphfsl.io.plain_text import unguarded
from graphfsl.report.tables import to_csv

Row = Mapping[str, Any]

ONLY_HERE = "file"  # a column that no table of a study has
# columns of words, of which some look like numbers (a digest, a commit)
WORDS = {"method", "data", "groups", "source", "batch_norm", "run", "setting", "config", "commit"}
WORDS |= {"device", "command", "file", "variant", "pretraining", "unfinished", "setting_from"}
EPISODE = {"way": 5, "shot": 1, "unlabeled": 0, "distractors": 0}  # what most episodes are


def size(row: Row) -> tuple[int, int, int, int]:
    """Way, shot, unlabeled samples and distractors of a row's episodes."""
    return (
        int(row["way"]),
        int(row["shot"]),
        int(row.get("unlabeled") or 0),
        int(row.get("distractors") or 0),
    )


def column(row: Row) -> str:
    """5-way 1-shot, 5 unlabeled, 5 distractors"""
    way, shot, unlabeled, distractors = size(row)
    text = f"{way}-way {shot}-shot"
    text += f", {unlabeled} unlabeled" if unlabeled else ""
    text += f", {distractors} distractors" if distractors else ""
    text += f", Dirichlet {row['dirichlet']:g}" if row.get("dirichlet") else ""
    if row.get("pool_dirichlet"):
        text += f", pool of Dirichlet {row['pool_dirichlet']:g}"
    return text


def records(folder: Path) -> dict[str, str]:
    """The name of each data set that runs in a folder were measured on, and its record as CSV."""
    found: dict[str, list[Row]] = {}
    for file in sorted(folder.glob("*/results.json")):
        for row in _rows_of_run(file.parent):
            found.setdefault(data_set(str(row["data"])), []).append(row)
    return {name: to_csv(rows) for name, rows in sorted(found.items())}


def write_records(folder: Path) -> list[Path]:
    """Write the record of each data set beside the runs; the files that were written."""
    written = []
    for name, text in records(folder).items():
        file = folder / f"{name}.csv"
        write_atomically(file, text.encode())
        written.append(file)
    return written


def read_records(folder: Path) -> list[dict[str, Any]]:
    """The rows of every record in a folder."""
    rows = []
    for file in sorted(folder.glob("*.csv")):
        if is_record(file):
            with file.open(newline="", encoding="utf-8") as lines:
                rows += [_row_of_cells(cells) for cells in csv.DictReader(lines)]
    return rows


def is_record(file: Path) -> bool:
    """Whether a CSV is the record of a data set, not the table of a study."""
    with file.open(newline="", encoding="utf-8") as lines:
        return ONLY_HERE in next(csv.reader(lines), [])


def data_set(split: str) -> str:
    """The data set that a split is of: omniglot of "omniglot-vinyals-rotations/test"; a set of the
    user's own goes by its own name.
    """
    own = split.partition("/")[0].replace("-", "_")
    known = [name for name in data.names() if own.startswith(name)]
    return max(known, key=len, default=own)


def _rows_of_run(path: Path) -> Iterator[Row]:
    """A run's own evaluation, and those that `graphfsl evaluate` left in its folder."""
    results = read_json(path / "results.json")
    yield from _rows_of_file(path, "results.json", results["rows"], results["config"], [])
    for file in sorted((path / "evaluations").glob("*.json")):
        found = read_json(file)
        name = f"evaluations/{file.name}"
        yield from _rows_of_file(path, name, found["rows"], results["config"], found["overrides"])


def _rows_of_file(
    path: Path, name: str, rows: Sequence[Row], config: Mapping[str, Any], overrides: Sequence[str]
) -> Iterator[Row]:
    """The rows of a file with what its name, its run's configuration and its overrides say."""
    pretrain = config.get("pretrain")
    objective = named(pretrain["objective"], "pretrain.objective")[0] if pretrain else None
    for row in rows:
        variant = [" ".join(overrides)] if overrides else []
        policy = row.get("batch_norm")
        own_policy = policy == rows[0].get("batch_norm")
        if not own_policy:
            variant.append(f"{policy} BatchNorm")
        published = _published(config, row, own_policy)
        yield {
            **row,
            "run": path.name,
            "file": f"{path.name}/{name}",
            "variant": ", ".join(variant),
            "pretraining": objective,
            "published": published.get("accuracy"),
            "source": published.get("source"),
        }


def _published(config: Mapping[str, Any], row: Row, own_policy: bool) -> Mapping[str, Any]:
    """The paper's number in the setting of a row, or {}; of several that fit, the last one.

    own_policy: the row is of the run's own BatchNorm policy; under another one only a number counts
        that says what kind of setting it is of.
    """
    for number in reversed(config.get("published") or []):
        kind = number.get("setting", row["setting"] if own_policy else None)
        asked = {**EPISODE, **config.get("episode", {}), **number}
        if kind == row["setting"] and column(asked) == column(row):
            return number
    return {}


def _row_of_cells(cells: Mapping[str, str]) -> dict[str, Any]:
    """A line of a record with its values as results.json holds them; an empty cell is None."""
    row: dict[str, Any] = {}
    for key, cell in cells.items():
        row[key] = (unguarded(cell) if key in WORDS else json.loads(cell)) if cell else None
    return row
