"""What was measured: rows with all that a reader needs to trust them.

They stand in results.json, beside the lines of metrics.jsonl.
"""

from __future__ import annotations

import dataclasses
import json
import platform
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import graphfsl
from graphfsl.core.task import Task
from graphfsl.experiment import pretraining
from graphfsl.experiment.experiment import Experiment, Published
from graphfsl.functional.statistics import mean_and_ci95
from graphfsl.io.checkpoint import read_json, read_lines, write_json
from graphfsl.io.errors import InputError
from graphfsl.io.lock import held
from graphfsl.loops.evaluation import Result
from graphfsl.loops.row import MetricValue, Row, rounded, shown_of, task_of
from graphfsl.loops.training_state import left_out

VERSIONS = ("graphfsl", "torch", "python")
RUN_FILES = ("config.json", "data.json", "results.json")  # a run's own, beside its weights


def full_row(experiment: Experiment, result: Result, device: str, steps: int = 0) -> Row:
    """A results row: what was measured of a learner after `steps` of training, and how.

    Args:
        experiment: as it was run.
        result: what was measured.
        device: on which.
        steps: of training.
    """
    return result.row().replace(
        method=experiment.learner.method_name,
        config=experiment.digest(),
        commit=commit(),
        steps=steps,
        paper_steps=experiment.notes.steps,
        device=f"{device} ({platform.processor() or platform.machine()}, "
        f"{torch.get_num_threads()} threads)",
        command=command_line(),
        environment=environment(),
    )


def beside_published(row: Row, task: Task, published: Sequence[Published]) -> Row:
    """The row with the published number of this very task, if there is one.

    The number of queries may differ. A published number may be for one kind of learner only, as
    `kind_of` tells it.
    """
    own = [p for p in published if p.setting in (None, row.setting)]
    measured = [p for p in own if p.metric == row.metric]
    paper = next((p for p in measured if task.is_published_as(p.asked)), None)
    if paper is None:
        return row
    difference = _difference(row, paper.value)
    return row.replace(published=paper.value, source=paper.source, difference=difference)


def command_line() -> str | None:
    """The `graphfsl` command that this process runs; None in another program."""
    name = Path(sys.argv[0]).name
    return (
        shlex.join(["graphfsl", *sys.argv[1:]])
        if name in ("graphfsl", "graphfsl.exe", "main.py")
        else None
    )


def environment() -> dict[str, str]:
    """The machine and the versions that a number may depend on."""
    versions = {
        "graphfsl": graphfsl.__version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
    }
    return {**versions, "platform": platform.platform(terse=True)}


def commit() -> str | None:
    """The commit of the checkout that the code runs from, with + where files differ.

    It is None where graphfsl is installed.
    """
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    command = ["git", "describe", "--always", "--abbrev=10", "--dirty=+", "--exclude=*"]
    try:
        return subprocess.run(
            command, cwd=root, capture_output=True, text=True, timeout=10, check=True
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def over_seeds(rows: Sequence[Sequence[Row]]) -> list[Row]:
    """One row a task of the rows of several runs that differ in their seed.

    Its value is the mean over seeds, whose own values are `seed_values` and whose standard
    deviation is `spread`; its interval is of that mean over the episodes, which all seeds share, so
    that it says nothing of other seeds, as `spread` does.
    """
    out = []
    for same in zip(*rows, strict=True):
        first = same[0]
        unit, each = first.value.unit, [r.value.value for r in same]
        metrics = {name: _mean([r.metrics[name] for r in same]) for name in first.metrics}
        values = torch.tensor([r.values for r in same], dtype=torch.float64).mean(0)
        mean, half = mean_and_ci95(values)
        own = metrics[first.metric]
        if task_of(first).metrics[first.metric].ratio is None:  # a ratio is no mean of its units
            own = dataclasses.replace(own, value=shown_of(mean, unit))
        own = dataclasses.replace(own, ci95=None if half is None else shown_of(half, unit))
        row = first.replace(
            metrics=metrics | {first.metric: own},
            values=values.tolist(),
            seeds=len(same),
            spread=rounded(statistics.stdev(each), unit) if len(each) > 1 else None,
            seed_values=each,
        )
        if row.published is not None:
            row = row.replace(difference=_difference(row, row.published))
        out.append(row)
    return out


def _mean(values: Sequence[MetricValue]) -> MetricValue:
    """The mean over seeds, with the mean of their intervals.

    That is wide enough, since they are of the same episodes.
    """
    unit, halves = values[0].unit, [v.ci95 for v in values if v.ci95 is not None]
    half = rounded(statistics.fmean(halves), unit) if len(halves) == len(values) else None
    value = rounded(statistics.fmean(v.value for v in values), unit)
    return dataclasses.replace(values[0], value=value, ci95=half)


def _difference(row: Row, published: float) -> float:
    """How far a row is from a published number."""
    difference = row.value.value - published
    return round(difference, 2) if row.value.unit == "%" else float(f"{difference:.6g}")


def write_results(path: Path, experiment: Experiment, rows: Sequence[Row], seconds: float) -> None:
    """Write results.json: rows, configuration, wall times and where it ran.

    Where steps of the training counted for nothing, it says how many.

    `seconds` is the time of this command; that of all training is read from its metrics.

    Args:
        path: the run's directory.
        experiment: as it was run.
        rows: what was measured.
        seconds: the time of this command.
    """
    histories = [history(run) for run in seed_runs(path) or [path]]
    trained = [lines[-1]["seconds"] for lines in histories if lines]
    value = {
        "rows": [row.to_dict() for row in rows],
        "config": experiment.to_dict(),
        "seconds": round(seconds, 1),
        "training_seconds": round(sum(trained), 2),
    }
    if unused := sum(map(left_out, histories)):
        value["steps_left_out"] = unused
    data_file = path / "data.json"
    data = read_json(data_file) if data_file.is_file() else {}
    before = pretraining.seconds(experiment, path.parent, data)
    if before:
        value["pretraining_seconds"] = before
    value["when"] = time.strftime("%Y-%m-%d %H:%M:%S")
    value |= environment()
    write_json(path / "results.json", value, new_folder=False)


@dataclass(frozen=True)
class Results:
    """What results.json of a run says, but for its configuration.

    Args:
        rows: as the file holds them.
        deviations: from the paper.
        made_with: the versions and the time that it names.
    """

    rows: Sequence[Mapping[str, Any]]
    deviations: Sequence[str]
    made_with: Sequence[str]


def read_results(file: Path) -> Results:
    """The results of a run. Raises InputError where the file is damaged."""
    facts = read_json(file)
    try:
        config = facts.get("config") or {}
        deviations = [str(deviation) for deviation in config.get("deviations") or []]
        rows = facts["rows"]
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{file} is damaged ({error!r}); run it again") from None
    made_with = [f"{k} {facts[k]}" for k in (*VERSIONS, "when") if facts.get(k)]
    return Results(rows, deviations, made_with)


def read_experiment(file: Path) -> Experiment:
    """The experiment that results.json of a run is of."""
    return Experiment.of_saved(read_json(file)["config"])


def seed_runs(path: Path) -> list[Path]:
    """The run directories below that of `seeds=`, by seed; none below that of one run."""
    found = [
        p.parent
        for p in path.glob("seed-*/config.json")
        if p.parent.name.removeprefix("seed-").isdigit()
    ]
    return sorted(found, key=lambda p: int(p.name.removeprefix("seed-")))


def history(path: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl; none where nothing was trained."""
    return read_lines(path / "metrics.jsonl")


def progress_of(path: Path, steps: int) -> str | None:
    """How far a training of so many steps is, and whether a process works on it.

    It is None where the training has ended.
    """
    if any((path / name).is_file() for name in ("model.safetensors", "results.json")):
        return None
    state = (
        ("a process works on it")
        if held(path)
        else "it was interrupted, and the same `graphfsl run` goes on"
    )
    return f"step {steps_so_far(path):,} of {steps:,}; {state}"


def steps_so_far(path: Path) -> int:
    """The step that a training has reached by its metrics; 0 where they say nothing yet."""
    try:
        return int(
            json.loads((path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1])[
                "step"
            ]
        )
    except (OSError, IndexError, ValueError, KeyError):
        return 0
