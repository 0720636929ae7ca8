"""A paper's row trained and evaluated again, published beside ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from graphfsl.experiment import runner
from graphfsl.experiment.experiment import Experiment, Notes
from graphfsl.experiment.results import history, seed_runs
from graphfsl.io.package_data import find_experiments
from graphfsl.loops.row import Row, text_of
from graphfsl.report.results_csv import column

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
        title=f"{name}: {notes.title}",
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
    theirs = "not stated" if notes.steps is None else f"{notes.steps:,}"
    console.print(
        f"steps: {steps} (paper: {theirs}); training: {minutes:.1f} minutes on {rows[0].device}"
    )
    for deviation in [*notes.deviations, *changed] or ["none are known"]:
        console.print(f"deviation: {deviation}", markup=False)
