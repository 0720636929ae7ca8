"""What `graphfsl ablate` does and shows.

There is a live table while cells are made, then findings and a report.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from graphfsl.experiment.results import history
from graphfsl.io.checkpoint import write_atomically, write_json
from graphfsl.io.errors import InputError
from graphfsl.io.lock import locked
from graphfsl.loops.row import Row, text_of
from graphfsl.report.tables import DIVERGES
from graphfsl.report.write import write_report
from graphfsl.study.all_metrics import metric_sections
from graphfsl.study.cells import (
    Done,
    Failure,
    Unit,
    cell_file,
    check_cells,
    check_data,
    check_folder,
    in_processes,
    on_ray,
    rows_of,
    steps_of,
    units,
    work,
)
from graphfsl.study.findings import findings, table
from graphfsl.study.gains import gains, sections
from graphfsl.study.grid import Study, shown

SHOWN = 20  # lines of the live table


def ablate(
    study: Study, out: Path, console: Console, processes: int = 1, ray: str | None = None
) -> list[Path]:
    """Make the cells of a study that are missing, and write its report.

    Every cell is checked first. `out` then holds cells.csv, study.json and the report.

    Args:
        study: what is compared.
        out: its folder.
        console: where it is shown.
        processes: cells at once on this machine.
        ray: the address of a Ray cluster that makes them instead.

    Returns:
        The files of the report.

    Raises:
        InputError: for a folder of another study, for a cell that its data do not suffice for, and
            where every cell failed, after the report is written; and while another process
            works in `out`, whose cells would fail here because their runs are taken.
    """
    with locked(out):
        return _ablate(study, out, console, processes, ray)


def _ablate(
    study: Study, out: Path, console: Console, processes: int, ray: str | None
) -> list[Path]:
    start = time.perf_counter()
    check_folder(study, out)
    trainings = {c.training: c.experiment for c in study.cells}
    weights = {
        name: digest
        for name, experiment in trainings.items()
        if (digest := experiment.weights_digest) is not None
    }
    checked = check_cells(study, console)
    check_data(out, checked.identities, weights)
    todo = units(study, out)
    missing = sum(len(u.cells) for u in todo)
    console.print(
        f"{study.name}: {len(study.cells)} cells, {len({c.training for c in study.cells})} "
        f"trainings; "
        f"{len(study.cells) - missing} cells are done already"
    )
    failed = _make(study, out, console, todo, processes, ray)
    rows = [
        row and row.replace(data=row.data + checked.numbers[cell.name])
        for cell, row in zip(study.cells, rows_of(study, out), strict=True)
    ]
    outcomes = [
        failed.get(cell_file(cell, out)) if row is None else row
        for cell, row in zip(study.cells, rows, strict=True)
    ]
    write_atomically(out / "cells.csv", table(study, outcomes).encode())
    finished = []
    for cell, row in zip(study.cells, rows, strict=True):
        if row is not None:
            run = str(out / "runs" / cell.training)
            command = shlex.join(["graphfsl", "evaluate", run, *cell.changes])
            finished.append(row.replace(cell=cell.levels, command=command))
    found = findings(study, finished)
    for text in found.sentences:
        console.print(f"• {text}", markup=False)
    failures = [
        (shown(cell.levels), made)
        for cell, made in zip(study.cells, outcomes, strict=True)
        if isinstance(made, Failure)
    ]
    for name, failure in failures:
        line = f"{failure.verdict}: {name}: {failure.error}"
        console.print(line, markup=False, style="yellow" if failure.diverged else "red")
    told = [(name, failure.error) for name, failure in failures]
    facts = {
        "study": study.name,
        "question": study.question,
        "findings": found.sentences,
        "effects": found.effects,
    }
    if found.areas:
        facts["areas"] = found.areas
    gained = gains(study.against, finished)
    for metric in study.also:
        gained += gains(study.against, [row.under(metric) for row in finished])
    if study.against:
        facts["gains"] = [gain.to_dict() for gain in gained]
    write_json(
        out / "study.json",
        {**facts, "failures": told, "seconds": round(time.perf_counter() - start, 1)},
    )
    histories = {shown(c.levels): history(out / "runs" / c.training) for c in study.cells}
    distinct = {c.training: shown(c.levels) for c in reversed(study.cells)}
    files = write_report(
        out,
        study.question,
        [r.replace(best=b) for r, b in zip(finished, found.best, strict=True)],
        {name: lines for name, lines in histories.items() if lines and name in distinct.values()},
        notes=[_note(study, finished, failures)],
        findings=found.sentences,
        effects=found.effects,
        failures=told,
        sections=[*sections(gained), *metric_sections(finished)],
    )
    console.print(
        f"{time.perf_counter() - start:.0f} s; table: {out / 'cells.csv'}; report: {files[0]}"
    )
    if all(isinstance(made, Failure) and not made.diverged for made in outcomes):
        raise InputError(f"{study.name}: every cell failed; the first: {told[0][1]}")
    return files


def _note(study: Study, finished: Sequence[Row], failures: Sequence[tuple[str, Failure]]) -> str:
    """How many cells have a number, and in how many there can be none."""
    note = f"Study `{study.name}`: {len(finished)} of {len(study.cells)} cells"
    diverged = sum(failure.diverged is not None for _, failure in failures)
    return f"{note}; in {diverged} the inner loop diverges." if diverged else f"{note}."


def _make(
    study: Study, out: Path, console: Console, todo: list[Unit], processes: int, ray: str | None
) -> dict[Path, Failure]:
    """Work through the units with a live table; the cells that failed."""
    done: Done = {}
    total = sum(len(u.cells) for u in todo)

    def show() -> None:
        live.update(_live_table(study, out, todo, done))

    results = (
        on_ray(todo, ray)
        if ray
        else in_processes(todo, processes)
        if processes > 1
        else _serial(todo, show)
    )
    with Live(console=console, refresh_per_second=4, transient=True) as live, closing(results):
        for result in results:
            done |= result
            for file, row in result.items():
                if isinstance(row, Row):
                    # a machine of a cluster that shares no disk with this one
                    if not file.is_file():
                        write_json(file, row.to_dict())
                    if not console.is_terminal:
                        cell = next(c for c in study.cells if cell_file(c, out) == file)
                        number = text_of(row.value.value, row.value.unit)
                        console.print(
                            f"{len(done)}/{total} {shown(cell.levels)}: {number}",
                            markup=False,
                        )
            show()
    return {file: row for file, row in done.items() if isinstance(row, Failure)}


def _serial(todo: list[Unit], show: Any) -> Generator[Done, None, None]:
    for unit in todo:
        yield work(unit, lambda line: show(), show)


def _live_table(study: Study, out: Path, todo: list[Unit], done: Done) -> Table:
    """The cells that were finished or begun last, and how many there are of each sort."""
    unit_of = {file: unit for unit in todo for file, _ in unit.cells}
    states: list[tuple[str, list[str]]] = []
    for cell in study.cells:
        file = cell_file(cell, out)
        row = done.get(file)
        if isinstance(row, Failure):
            state, text = row.verdict, row.error[:60]
        elif row is not None or file.is_file():
            state, text = "done", str(row.value) if row is not None else "done"
        elif unit_of[file].path.is_dir():
            steps = unit_of[file].experiment.trainer.steps
            state, text = "running", f"step {steps_of(unit_of[file]):,} of {steps:,}"
        else:
            state, text = "waiting", ""
        states.append((state, [*map(str, cell.levels.values()), text]))
    count = {
        s: sum(state == s for state, _ in states)
        for s in ("done", "running", "waiting", DIVERGES, "failed")
    }
    grid = Table(
        *study.axes,
        "result",
        title=", ".join(f"{n} {s}" for s, n in count.items() if n),
        box=None,
    )
    begun = [line for state, line in states if state != "waiting"]
    for line in begun[-SHOWN:]:
        grid.add_row(*line)
    return grid
