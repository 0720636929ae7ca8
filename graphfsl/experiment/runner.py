"""What `graphfsl run` does and shows: training with a progress bar, and results.

There is one run, or one for each seed.
"""

from __future__ import annotations

import os
import time
from contextlib import AbstractContextManager, suppress
from pathlib import Path

from rich.console import Console

from graphfsl.core.task import Metric
from graphfsl.data import Split
from graphfsl.experiment import run as runs
from graphfsl.experiment.experiment import Experiment
from graphfsl.experiment.measure import measure_policies
from graphfsl.experiment.results import over_seeds, seed_runs, write_results
from graphfsl.io import distributed
from graphfsl.io.errors import InputError
from graphfsl.io.lock import locked
from graphfsl.loops.progress_bar import Log, training_bar
from graphfsl.loops.row import Row, text_of, title_of
from graphfsl.loops.trainer import Trainer


def run(experiment: Experiment, path: Path, console: Console) -> list[Row]:
    """Train, evaluate and write results.json.

    With `seeds` that is done once for each, in folders of their own, and over all.

    Returns:
        The rows; none in the further processes of torchrun.
    """
    start = time.perf_counter()
    seeds, first = experiment.seeds, experiment.seed
    _check_folder(path, seeds)
    if seeds == 1:
        rows = _one(experiment.without_seeds(), path, console)
        distributed.finish()
        return rows
    each = [
        _one(experiment.with_seed(seed), path / f"seed-{seed}", console)
        for seed in range(first, first + seeds)
    ]
    # not before: a group that ends and begins again may find its processes apart
    distributed.finish()
    rows = over_seeds(each)
    for row in rows:
        unit = row.value.unit
        values = ", ".join(text_of(v, unit) for v in row.seed_values or ())
        spread = f"standard deviation {text_of(row.spread or 0.0, unit)}"
        mean = f"{text_of(row.value.value, unit)} {unit}".rstrip() + f", {spread}"
        console.print(f"{title_of(row)} ({row.setting}) over {seeds} seeds: {mean} ({values})")
    if not distributed.rank():
        write_results(path, experiment, rows, time.perf_counter() - start)
        console.print(f"results: {path / 'results.json'}")
    return rows


def _check_folder(path: Path, seeds: int) -> None:
    """Refuse a folder in which results would be lost or mixed up.

    Raises:
        InputError: where the results of one run would replace those of several seeds, or the other
            way round, or stand in the folder of a study.
    """
    if not os.path.isdir(path):  # unlike Path.is_dir it says so of a name that is too long
        return
    if seeds == 1 and (own := seed_runs(path)):
        raise InputError(
            f"{path} holds a run for each of {len(own)} seeds; choose another --out, or set seeds"
        )
    if seeds > 1 and (path / "config.json").is_file():
        raise InputError(f"{path} holds one run; choose another --out for {seeds} seeds")
    if (path / "cells").is_dir():
        raise InputError(
            f"{path} holds a study, which would not go on beside a run; choose another --out"
        )


def _one(experiment: Experiment, path: Path, console: Console) -> list[Row]:
    start = time.perf_counter()
    with locked(path):
        built, base = runs.prepare(experiment, path)
        console.print(f"{path}: {runs.cost(built, base)}")
        try:
            built = train(built, base, console)
        except Exception:
            if not distributed.rank():
                _forget_unbegun(path)
            raise
        if distributed.rank():
            return []
        rows = measure_policies(built, say=console.print)
        write_results(path, built.experiment, rows, time.perf_counter() - start)
        console.print(f"results: {path / 'results.json'}")
    return rows


def _forget_unbegun(path: Path) -> None:
    """Remove what `run.prepare` wrote where no step was taken.

    A run that fails at once is not to refuse another.
    """
    wrote = {"config.json", "data.json"}
    with suppress(OSError):  # the folder may be what is gone
        if {file.name for file in path.iterdir() if file.name != ".lock"} <= wrote:
            for name in wrote:
                (path / name).unlink(missing_ok=True)


def pretrain(experiment: Experiment, folder: Path, console: Console) -> None:
    """Do only the pretraining of an experiment, into `folder`."""
    if experiment.pretraining is None:
        raise InputError(
            "this experiment has no section `pretrain`; add one, such as "
            "pretrain.objective=cross_entropy"
        )
    trainer = experiment.pretraining.trainer
    with _pretraining_bar(console, trainer, experiment.task.metric[1]) as log:
        path = runs.pretrain_alone(experiment, folder, log, console.print)
    distributed.finish()
    console.print(f"pretrained encoder: {path}")


def train(run: runs.Run, base: Split, console: Console) -> runs.Run:
    """Train a run, with loss, validation, samples per second and time left on the terminal."""
    metric = run.experiment.task.metric[1]
    if run.experiment.pretraining is not None:
        with _pretraining_bar(console, run.experiment.pretraining.trainer, metric) as log:
            runs.pretrain(run, base, log, console.print)
    if not run.trains:
        return runs.train(run, base)
    steps, batch = run.trainer.steps, run.trainer.batch
    with training_bar(console, "training", steps, batch, "episodes", metric) as log:
        return runs.train(run, base, log)


def _pretraining_bar(
    console: Console, trainer: Trainer, metric: Metric
) -> AbstractContextManager[Log]:
    return training_bar(console, "pretraining", trainer.steps, trainer.batch, "images", metric)
