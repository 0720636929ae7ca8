"""A paper's row trained and evaluated again, published beside ours; and the README's tables from
committed results.
"""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from graphfsl.core.task import Task
from graphfsl.data.tasks import as_task
from graphfsl.experiment import runner
from graphfsl.experiment.experiment import Experiment, Notes
from graphfsl.experiment.results import history, seed_runs
from graphfsl.io.checkpoint import read_json
from graphfsl.io.errors import InputError, unknown
from graphfsl.io.package_data import experiments_dir, find_experiments
from graphfsl.loops.row import Row
from graphfsl.report.tables import SETTINGS

PLACE = ("data.root", "data.download", "trainer.device", "trainer.logger")  # say where, not what


def reproduce(paper: str, overrides: Sequence[str], out: Path | None, console: Console) -> None:
    """Run the experiments of a paper (a finished one is measured only) and print published against
    ours.
    """
    files = [Path(paper)] if paper.endswith(".yaml") else find_experiments(paper)
    experiments = [Experiment.read(file, overrides) for file in files]
    changed = [f"override {o}" for o in overrides if o.partition("=")[0] not in PLACE]
    for file, experiment in zip(files, experiments, strict=True):
        path = (out or Path("runs")) / f"{file.stem}-{experiment.digest()}"
        rows = runner.run(experiment, path, console)
        if rows:  # under torchrun only the first process has them
            histories = [history(p) for p in seed_runs(path) or [path]]
            _show(file.stem, experiment.notes, rows, histories, changed, console)


def _show(
    name: str,
    notes: Notes,
    rows: Sequence[Row],
    histories: Sequence[Sequence[Mapping[str, Any]]],
    changed: Sequence[str],
    console: Console,
) -> None:
    """The table of an experiment. histories: the metrics of each seed. changed: deviations beside
    the listed ones.
    """
    grid = Table(
        "setting",
        "published",
        "ours",
        "difference",
        "source",
        title=f"{name}: {notes.paper.get('title', '')}",
    )
    for row in rows:
        grid.add_row(
            f"{column(row)}, {row.data}, {row.setting}",
            "none" if row.published is None else f"{row.published:.2f}",
            row.value.number,
            "" if row.difference is None else f"{row.difference:+.2f}",
            row.source or "",
        )
    console.print(grid)
    last = [lines[-1] for lines in histories if lines]
    minutes = sum(line["seconds"] for line in last) / 60
    steps = f"{max((line['step'] for line in last), default=0):,}"
    steps += f" for each of {len(histories)} seeds" if len(histories) > 1 else ""
    known = notes.paper.get("steps")
    theirs = f"{known:,}" if isinstance(known, int) else "not stated"
    console.print(
        f"steps: {steps} (paper: {theirs}); training: {minutes:.1f} minutes on {rows[0].device}"
    )
    for deviation in [*notes.deviations, *changed] or ["none are known"]:
        console.print(f"deviation: {deviation}", markup=False)


@dataclass(frozen=True)
class Measured:
    """The rows of one evaluation of a committed run.

    Args:
        pretrained: by which objective its encoder was, if it was. file: where the rows are.
        changes: what the evaluation changed, in words.
    """

    rows: Sequence[Row]
    published: Sequence[Mapping[str, Any]]
    task: Task
    pretrained: str | None
    file: str
    changes: str


def table(name: str, folder: Path | None = None) -> str:
    """The committed results on a data set as Markdown, each kind of setting in a table of its own;
    or those of a study.

    folder: what holds the run directories and STUDY.csv; experiments/results where it is not given.
    """
    folder = folder or experiments_dir() / "results"
    if (file := folder / f"{name}.csv").is_file():
        return _study(file)
    runs = {p.parent: read_json(p) for p in sorted(folder.glob("*/results.json"))}
    if not runs:
        raise InputError(
            f"{folder} holds no results; they are in the repository, not in an installed package"
        )
    data = {path: str(facts["rows"][0]["data"]) for path, facts in runs.items() if facts["rows"]}
    own = [path for path in data if data[path].startswith(name)]
    if not own:
        sets = {d.split("/")[0] for d in data.values()}
        raise unknown("table", name, sets | {p.stem for p in folder.glob("*.csv")})
    measured = [m for path in own for m in _measured(path, runs[path], name)]
    parts = []
    kinds = {row.setting for m in measured for row in m.rows}
    for kind in sorted(kinds, key=list(SETTINGS).index):
        shown = [row for m in measured for row in m.rows if row.setting == kind]
        heads = [head for *_, head in sorted({(*group(row), column(row)) for row in shown})]
        lines = [["", *heads]]
        for m in measured:
            rows = {column(row): row for row in m.rows if row.setting == kind}
            # A paper's numbers stand there once, however many of its rows were measured.
            lines += [line for line in _lines(m, rows, heads) if line not in lines]
        parts.append(_markdown(kind, lines))
    return "\n\n".join(parts) + "\n"


def _study(file: Path) -> str:
    """The cells of a study: its first axis downwards, the others across; seeds are averaged."""
    with file.open(newline="") as lines:
        cells = list(csv.DictReader(lines))
    names = list(cells[0])
    first, *rest = (n for n in names[: names.index("setting")] if not n.endswith("seed"))
    found: dict[str, dict[str, dict[str, list[Mapping[str, str]]]]] = {}
    for cell in cells:
        across = (
            ", ".join(f"{n.rpartition('.')[2]} {cell[n] or 'none'}" for n in rest) or "accuracy"
        )
        rows = found.setdefault(cell["setting"], {}).setdefault(cell[first] or "none", {})
        rows.setdefault(across, []).append(cell)
    parts = []
    for kind in sorted(found, key=list(SETTINGS).index):
        heads = list(dict.fromkeys(h for row in found[kind].values() for h in row))
        body = [
            [row, *(_mean(of[h]) if h in of else "" for h in heads)]
            for row, of in found[kind].items()
        ]
        parts.append(_markdown(kind, [[first.rpartition(".")[2], *heads], *body]))
    return "\n\n".join(parts) + "\n"


def _markdown(kind: str, lines: Sequence[Sequence[str]]) -> str:
    head, *body = (f"| {' | '.join(line)} |" for line in lines)
    return "\n".join(
        [f"{kind.capitalize()}:\n", head, f"| {' | '.join('---' for _ in lines[0])} |", *body]
    )


def _mean(cells: Sequence[Mapping[str, str]]) -> str:
    """The mean over seeds, which share their test episodes: the mean of their intervals is wide
    enough.
    """
    accuracy, half = (sum(float(c[k]) for c in cells) / len(cells) for k in ("accuracy", "ci95"))
    return f"{accuracy:.2f} ± {half:.2f}"


def _measured(path: Path, facts: Mapping[str, Any], name: str) -> Iterator[Measured]:
    """A run's own evaluation, and those that `graphfsl evaluate` left in its folder."""
    experiment = Experiment.of_saved(facts["config"])
    yield from _by_policy(facts["rows"], experiment, f"{path.name}/results.json", "")
    for file in sorted((path / "evaluations").glob("*.json")):
        found = read_json(file)
        rows = [r for r in found["rows"] if str(r["data"]).startswith(name)]
        where, changes = f"{path.name}/evaluations/{file.name}", " ".join(found["overrides"])
        yield from _by_policy(rows, experiment, where, f", {changes}")


def _by_policy(
    found: Sequence[Mapping[str, Any]], experiment: Experiment, file: str, changes: str
) -> Iterator[Measured]:
    """A run's rows under its own BatchNorm policy, and those under another, which the published
    numbers are not of.
    """
    rows = [Row.from_dict(row) for row in found]
    first = experiment.pretraining
    pretrained = None if first is None else first.objective.name
    published = experiment.notes.published
    for policy in dict.fromkeys(row.batch_norm for row in rows):
        same = [row for row in rows if row.batch_norm == policy]
        numbers, told = published, changes
        if policy != rows[0].batch_norm:
            numbers = [p for p in published if "setting" in p]
            told = f"{changes}, {policy} BatchNorm"
        yield Measured(same, numbers, experiment.task, pretrained, file, told)


def _lines(m: Measured, rows: Mapping[str, Row], heads: Sequence[str]) -> Iterator[list[str]]:
    """Numbers of a run, and below them the published ones."""
    if not rows:
        return
    first = next(iter(rows.values()))
    split = first.data.partition("/")[2]
    where = "" if split == "test" else f", *{split}* classes"
    start = f" from {m.pretrained}" if m.pretrained else ""
    label = f"{first.method}{start}{m.changes}{where} ([run](experiments/results/{m.file}))"
    yield [label, *(rows[h].value.number if h in rows else "" for h in heads)]
    numbers = {}
    for entry in m.published:
        if entry.get("setting", first.setting) == first.setting:
            fields = {k: v for k, v in entry.items() if k in first.asked}
            numbers[_title(dataclasses.replace(m.task, **fields))] = entry
    stated = {h: entry for h, entry in numbers.items() if h in rows}
    if stated:
        on = "" if split == "test" else " on the test classes"
        source = next(iter(stated.values())).get("source", "")
        values = (str(stated[h][rows[h].metric]) if h in stated else "" for h in heads)
        yield [f"published{on}: {source}", *values]


def column(row: Row) -> str:
    """5-way 1-shot, 5 unlabeled, 5 distractors"""
    return _title(as_task({"task": row.task, **row.asked}))


def _title(task: Task) -> str:
    return ", ".join([task.title, *task.details])


def group(row: Row) -> tuple[Any, ...]:
    """What columns are sorted by."""
    return tuple(as_task({"task": row.task, **row.asked}).size)
