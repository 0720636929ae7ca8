"""A paper's row trained and evaluated again, published beside ours.

The README's tables are made here too, from committed results.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from graphfsl.experiment import runner
from graphfsl.experiment.experiment import Experiment, Notes
from graphfsl.experiment.results import history, seed_runs
from graphfsl.io.checkpoint import read_json
from graphfsl.io.errors import InputError, unknown
from graphfsl.io.package_data import experiments_dir, find_experiments
from graphfsl.loops.row import ACCURACY, Row, text_of
from graphfsl.report.results_csv import EPISODE, column, is_record, read_records, size
from graphfsl.report.tables import SETTINGS, Line, number_of

HEADLINES = "headlines"  # the table of the README
PLACE = ("data.root", "data.download", "trainer.device", "trainer.logger")  # say where, not what


def reproduce(paper: str, overrides: Sequence[str], out: Path | None, console: Console) -> None:
    """Run the experiments of a paper, and print published beside our numbers.

    A finished one is measured only.

    Args:
        paper: such as snell2017, or an experiment file.
        overrides: for every experiment of it.
        out: the folder of the runs; None takes runs/.
        console: where the tables are shown.
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
    """The table of an experiment.

    Args:
        name: of its file.
        notes: what it says of its paper and of deviations.
        rows: what was measured.
        histories: the metrics of each seed.
        changed: deviations beside the listed ones.
        console: where it is shown.
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
            f"{column(row.to_dict())}, {row.data}, {row.setting}",
            "none" if row.published is None else text_of(row.published, row.value.unit),
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


def table(name: str, folder: Path | None = None) -> str:
    """Committed results as Markdown: of a data set, of a study, or the headlines.

    Each kind of setting of a data set is a table of its own.

    Args:
        name: of the data set or study, or `headlines`.
        folder: what holds the records of data sets, STUDY.csv and headlines.json;
            experiments/results where it is not given.

    Raises:
        InputError: for an unknown name, and where there are no results.
    """
    folder = folder or experiments_dir() / "results"
    file = folder / f"{name}.csv"
    if file.is_file() and not is_record(file):
        return _study(file)
    rows = read_records(folder)
    if not rows:
        raise InputError(
            f"{folder} holds no results; they are in the repository, not in an installed package"
        )
    if name == HEADLINES:
        return _headlines(rows, folder / f"{HEADLINES}.json")
    own = [row for row in rows if row["data"].startswith(name)]
    if not own:
        sets = {row["data"].partition("/")[0] for row in rows}
        raise unknown("table", name, sets | {p.stem for p in folder.glob("*.csv")} | {HEADLINES})
    parts = []
    for kind in sorted({row["setting"] for row in own}, key=list(SETTINGS).index):
        same = [row for row in own if row["setting"] == kind]
        columns = sorted({(size(row), column(row)) for row in same})
        heads = [head for _, head in columns]
        lines = [["", *heads]]
        for measured in _measurements(same):
            # A paper's numbers stand there once, however many of its rows were measured.
            lines += [line for line in _lines(measured, heads) if line not in lines]
        parts.append(_markdown(kind, lines))
    return "\n\n".join(parts) + "\n"


def _headlines(rows: Sequence[Line], file: Path) -> str:
    """The rows that headlines.json names by run, data and episode: published beside ours."""
    kinds: dict[str, list[list[str]]] = {}
    for wanted in read_json(file):
        own = [row for row in rows if row["file"] == f"{wanted['run']}/results.json"]
        row = next(row for row in own if size(row) == size(EPISODE | wanted["episode"]))
        label, ours, published = _beside_published(row)
        line = [label, f"{wanted['data']}, {column(row)}", ours, published]
        kinds.setdefault(row["setting"], []).append(line)
    head = ["", "episode", "ours", "published"]
    order = sorted(kinds, key=list(SETTINGS).index)
    return "\n\n".join(_markdown(kind, [head, *kinds[kind]]) for kind in order) + "\n"


def _beside_published(row: Line) -> tuple[str, str, str]:
    """A row's method, its number, and the published one with its source, or ""."""
    episode = column(row)
    (label, ours), *theirs = _lines({episode: row}, [episode])
    if not theirs:
        return label, ours, ""
    source, number = theirs[0]
    return label, ours, f"{number} ({source.removeprefix('published').strip(': ')})"


def _measurements(rows: Sequence[Line]) -> Iterator[dict[str, Line]]:
    """Rows that differ in their column only, by that column: they make one line of a table."""
    found: dict[tuple[str, ...], dict[str, Line]] = {}
    for row in rows:
        found.setdefault((row["file"], row["variant"]), {})[column(row)] = row
    yield from found.values()


def _study(file: Path) -> str:
    """The cells of a study: its first axis downwards, the others across; seeds are averaged."""
    with file.open(newline="") as lines:
        cells = list(csv.DictReader(lines))
    names = list(cells[0])
    metric = names[names.index("setting") + 1]
    first, *rest = (n for n in names[: names.index("setting")] if not n.endswith("seed"))
    found: dict[str, dict[str, dict[str, list[Line]]]] = {}
    for cell in cells:
        across = ", ".join(f"{n.rpartition('.')[2]} {cell[n] or 'none'}" for n in rest) or metric
        rows = found.setdefault(cell["setting"], {}).setdefault(cell[first] or "none", {})
        rows.setdefault(across, []).append(cell)
    parts = []
    for kind in sorted(found, key=list(SETTINGS).index):
        heads = list(dict.fromkeys(h for row in found[kind].values() for h in row))
        body = [
            [row, *(_mean(of[h], metric) if h in of else "" for h in heads)]
            for row, of in found[kind].items()
        ]
        parts.append(_markdown(kind, [[first.rpartition(".")[2], *heads], *body]))
    return "\n\n".join(parts) + "\n"


def _markdown(kind: str, lines: Sequence[Sequence[str]]) -> str:
    head, *body = (f"| {' | '.join(line)} |" for line in lines)
    return "\n".join(
        [f"{kind.capitalize()}:\n", head, f"| {' | '.join('---' for _ in lines[0])} |", *body]
    )


def _mean(cells: Sequence[Line], metric: str) -> str:
    """The mean over seeds, with the mean of their intervals.

    They share their test episodes, so that this is wide enough.
    """
    value, half = (sum(float(c[k]) for c in cells) / len(cells) for k in (metric, "ci95"))
    return f"{value:.2f} ± {half:.2f}" if metric == ACCURACY else f"{value:.4g} ± {half:.4g}"


def _lines(rows: Mapping[str, Line], heads: Sequence[str]) -> Iterator[list[str]]:
    """Numbers of a run by column, and below them the published ones."""
    first = next(iter(rows.values()))
    split = first["data"].partition("/")[2]
    where = "" if split == "test" else f", *{split}* classes"
    start = f" from {first['pretraining']}" if first["pretraining"] else ""
    variant = f", {first['variant']}" if first["variant"] else ""
    run = f"[run](experiments/results/{first['file']})"
    label = f"{first['method']}{start}{variant}{where} ({run})"
    yield [label, *(number_of(rows[h]) if h in rows else "" for h in heads)]
    published = {h: row for h, row in rows.items() if row["published"]}
    if published:
        on = "" if split == "test" else " on the test classes"
        source = next(iter(published.values()))["source"] or ""
        numbers = (str(published[h]["published"]) if h in published else "" for h in heads)
        yield [f"published{on}: {source}", *numbers]
