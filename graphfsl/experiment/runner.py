"""What `graphfsl run` does and shows: training with a progress bar, results, one run or one for
each seed.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich.console import Console

from graphfsl.data import Split
from graphfsl.experiment import config as conf
from graphfsl.experiment import run as runs
from graphfsl.experiment.measure import measure_policies
from graphfsl.experiment.results import over_seeds, seed_runs, write_results
from graphfsl.io import distributed
from graphfsl.io.errors import InputError
from graphfsl.io.lock import locked
from graphfsl.loops.progress_bar import training_bar


def run(config: dict[str, Any], path: Path, console: Console) -> list[dict[str, Any]]:
    """Train, evaluate, write results.json; with `seeds` once for each, in folders of their own, and
    over all.
    """
    start = time.perf_counter()
    config = dict(config)
    seeds, first = config.pop("seeds", 1), config.get("seed", 0)
    _check_folder(path, seeds)
    folders = {s: path / f"seed-{s}" if seeds > 1 else path for s in range(first, first + seeds)}
    each = [
        _one({**config, "seed": s} if seeds > 1 else config, p, console) for s, p in folders.items()
    ]
    # not before: a group that ends and begins again may find its processes apart
    distributed.finish()
    if seeds == 1:
        return each[0]
    rows = over_seeds(each)
    for r in rows:
        accuracies = ", ".join(f"{a:.2f}" for a in r["seed_accuracies"])
        mean = f"{r['accuracy']:.2f} %, standard deviation {r['spread']:.2f}"
        console.print(
            f"{r['way']}-way {r['shot']}-shot ({r['setting']}) over {seeds} seeds: "
            f"{mean} ({accuracies})"
        )
    if not distributed.rank():
        write_results(path, {**config, "seeds": seeds}, rows, time.perf_counter() - start)
        console.print(f"results: {path / 'results.json'}")
    return rows


def _check_folder(path: Path, seeds: int) -> None:
    """InputError where the results of one run would replace those of several seeds, or the other
    way round, or stand in the folder of a study."""
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


def _one(config: dict[str, Any], path: Path, console: Console) -> list[dict[str, Any]]:
    start = time.perf_counter()
    with locked(path):
        built, base = runs.prepare(config, path)
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
        write_results(path, built.config, rows, time.perf_counter() - start)
        console.print(f"results: {path / 'results.json'}")
    return rows


def _forget_unbegun(path: Path) -> None:
    """Remove what `run.prepare` wrote where no step was taken: a run that fails at once is not to
    refuse another.
    """
    wrote = {"config.json", "data.json"}
    with suppress(OSError):  # the folder may be what is gone
        if {file.name for file in path.iterdir() if file.name != ".lock"} <= wrote:
            for name in wrote:
                (path / name).unlink(missing_ok=True)


def pretrain(config: dict[str, Any], folder: Path, console: Console) -> None:
    """Only the pretraining of an experiment, into `folder`."""
    if config.get("pretrain") is None:
        raise InputError(
            "this experiment has no section `pretrain`; add one, such as "
            "pretrain.objective=cross_entropy"
        )
    trainer = conf.pretrainer(config)
    with training_bar(console, "pretraining", trainer.steps, trainer.batch, "images") as log:
        path = runs.pretrain_alone(config, folder, log, console.print)
    distributed.finish()
    console.print(f"pretrained encoder: {path}")


def train(run: runs.Run, base: Split, console: Console) -> runs.Run:
    """`run.pretrain` and `run.train` with loss, validation accuracy, samples per second and time
    left.
    """
    if run.config.get("pretrain") is not None:
        trainer = conf.pretrainer(run.config)
        with training_bar(console, "pretraining", trainer.steps, trainer.batch, "images") as log:
            runs.pretrain(run, base, log, console.print)
    if not run.trains:
        return runs.train(run, base)
    trainer = run.trainer
    with training_bar(console, "training", trainer.steps, trainer.batch, "episodes") as log:
        return runs.train(run, base, log)
