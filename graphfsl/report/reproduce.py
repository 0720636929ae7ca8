"""A paper's row trained and evaluated again, published beside ours; and the README's tables from
committed results.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from graphfsl.experiment import config as conf
from graphfsl.experiment import runner
from graphfsl.experiment.results import history, seed_runs
from graphfsl.io.errors import InputError, unknown
from graphfsl.io.package_data import experiments_dir, find_experiments
from graphfsl.loops.evaluation import with_interval
from graphfsl.report.results_csv import column, is_record, read_records, size
from graphfsl.report.tables import SETTINGS

Row = Mapping[str, Any]
PLACE = ("data.root", "data.download", "trainer.device", "trainer.logger")  # say where, not what


def reproduce(paper: str, overrides: Sequence[str], out: Path | None, console: Console) -> None:
    """Run the experiments of a paper (a finished one is measured only) and print published against
    ours.
    """
    files = [Path(paper)] if paper.endswith(".yaml") else find_experiments(paper)
    configs = [conf.read(file, overrides) for file in files]
    changed = [f"override {o}" for o in overrides if o.partition("=")[0] not in PLACE]
    for file, config in zip(files, configs, strict=True):
        path = (out or Path("runs")) / f"{file.stem}-{conf.digest(config)}"
        rows = runner.run(config, path, console)
        if rows:  # under torchrun only the first process has them
            histories = [history(p) for p in seed_runs(path) or [path]]
            _show(file.stem, config, rows, histories, changed, console)


def _show(
    name: str,
    config: Mapping[str, Any],
    rows: Sequence[Row],
    histories: Sequence[Sequence[Row]],
    changed: Sequence[str],
    console: Console,
) -> None:
    """The table of an experiment. histories: the metrics of each seed. changed: deviations beside
    the listed ones.
    """
    paper = config.get("paper") or {}
    grid = Table(
        "setting",
        "published",
        "ours",
        "difference",
        "source",
        title=f"{name}: {paper.get('title', '')}",
    )
    for r in rows:
        published = r.get("published")
        grid.add_row(
            f"{column(r)}, {r['data']}, {r['setting']}",
            "none" if published is None else f"{published:.2f}",
            with_interval(r),
            "" if r.get("difference") is None else f"{r['difference']:+.2f}",
            r.get("source") or "",
        )
    console.print(grid)
    n, last = len(histories), [lines[-1] for lines in histories if lines]
    minutes = sum(line["seconds"] for line in last) / 60
    steps = f"{max((line['step'] for line in last), default=0):,}" + (
        f" for each of {n} seeds" if n > 1 else ""
    )
    theirs = f"{paper['steps']:,}" if isinstance(paper.get("steps"), int) else "not stated"
    console.print(
        f"steps: {steps} (paper: {theirs}); training: {minutes:.1f} minutes on {rows[0]['device']}"
    )
    for deviation in [*(config.get("deviations") or []), *changed] or ["none are known"]:
        console.print(f"deviation: {deviation}", markup=False)


def table(name: str, folder: Path | None = None) -> str:
    """The committed results on a data set as Markdown, each kind of setting in a table of its own;
    or those of a study.

    folder: what holds the records of data sets and STUDY.csv; experiments/results where it is not
        given.
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
    own = [row for row in rows if row["data"].startswith(name)]
    if not own:
        sets = {row["data"].partition("/")[0] for row in rows}
        raise unknown("table", name, sets | {p.stem for p in folder.glob("*.csv")})
    parts = []
    for kind in sorted({row["setting"] for row in own}, key=list(SETTINGS).index):
        same = [row for row in own if row["setting"] == kind]
        heads = [head for *_, head in sorted({(*size(row), column(row)) for row in same})]
        lines = [["", *heads]]
        for measured in _measurements(same):
            # A paper's numbers stand there once, however many of its rows were measured.
            lines += [line for line in _lines(measured, heads) if line not in lines]
        parts.append(_markdown(kind, lines))
    return "\n\n".join(parts) + "\n"


def _measurements(rows: Sequence[Row]) -> Iterator[dict[str, Row]]:
    """Rows that differ in their column only, by that column: they make one line of a table."""
    found: dict[tuple[str, ...], dict[str, Row]] = {}
    for row in rows:
        found.setdefault((row["file"], row["variant"]), {})[column(row)] = row
    yield from found.values()


def _study(file: Path) -> str:
    """The cells of a study: its first axis downwards, the others across; seeds are averaged."""
    with file.open(newline="") as lines:
        cells = list(csv.DictReader(lines))
    names = list(cells[0])
    first, *rest = (n for n in names[: names.index("setting")] if not n.endswith("seed"))
    found: dict[str, dict[str, dict[str, list[Row]]]] = {}
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


def _mean(cells: Sequence[Row]) -> str:
    """The mean over seeds, which share their test episodes: the mean of their intervals is wide
    enough.
    """
    accuracy, half = (sum(float(c[k]) for c in cells) / len(cells) for k in ("accuracy", "ci95"))
    return f"{accuracy:.2f} ± {half:.2f}"


def _lines(rows: Mapping[str, Row], heads: Sequence[str]) -> Iterator[list[str]]:
    """Numbers of a run by column, and below them the published ones."""
    first = next(iter(rows.values()))
    split = first["data"].partition("/")[2]
    where = "" if split == "test" else f", *{split}* classes"
    start = f" from {first['pretraining']}" if first["pretraining"] else ""
    variant = f", {first['variant']}" if first["variant"] else ""
    run = f"[run](experiments/results/{first['file']})"
    label = f"{first['method']}{start}{variant}{where} ({run})"
    yield [label, *(with_interval(rows[h]) if h in rows else "" for h in heads)]
    published = {h: row for h, row in rows.items() if row["published"]}
    if published:
        on = "" if split == "test" else " on the test classes"
        source = next(iter(published.values()))["source"] or ""
        numbers = (str(published[h]["published"]) if h in published else "" for h in heads)
        yield [f"published{on}: {source}", *numbers]
