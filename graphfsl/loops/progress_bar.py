"""The progress bar of a training: loss, validation, samples per second and time left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from graphfsl.core.task import Metric
from graphfsl.io import distributed
from graphfsl.loops.row import scale_of, text_of

Log = Callable[[dict[str, Any]], None]  # what each line of metrics is given to
ESTIMATE_AFTER = 40  # steps until the estimate of the whole time is worth printing


def silent(line: dict[str, Any]) -> None:
    """Show nothing of a line of metrics."""


@contextmanager
def training_bar(
    console: Console, name: str, steps: int, batch: int, unit: str, metric: Metric | None = None
) -> Iterator[Log]:
    """A progress bar of a training, and the function that shows each line of metrics in it.

    Args:
        console: where it is shown.
        name: what is trained.
        steps: how many there are.
        batch: samples of a step.
        unit: what a sample is called.
        metric: what validation measures, a share where it is not given.
    """
    kind = "%" if metric is None else metric.unit
    columns = (
        TextColumn(name),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(
            "loss {task.fields[loss]} val {task.fields[val]} {task.fields[rate]} " + unit + "/s"
        ),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=steps, loss="…", val="…", rate="…", visible=False)
        first: list[dict[str, Any]] = []

        def log(line: dict[str, Any]) -> None:
            shown: dict[str, Any] = {
                "loss": f"{line['loss']:.3f}",
                "rate": f"{line['episodes_per_s']:.1f}",
            }
            if "val" in line:
                shown["val"] = text_of(scale_of(kind) * line["val"], kind) + kind
                console.print(
                    f"step {line['step']}: loss {shown['loss']}, validation {shown['val']}"
                )
            progress.update(task, completed=line["step"], visible=True, **shown)
            if not first and line["step"] >= ESTIMATE_AFTER:
                first.append(line)
                left = (steps - line["step"]) * batch / line["episodes_per_s"]
                console.print(f"about {left / 60:.1f} minutes of {name}, validation not included")

        yield log


@contextmanager
def terminal_bar(
    name: str, steps: int, batch: int, unit: str, metric: Metric | None = None
) -> Iterator[Log]:
    """A bar on the terminal that stderr is, of the first process; elsewhere nothing is shown.

    Args:
        name: what is trained.
        steps: how many there are.
        batch: samples of a step.
        unit: what a sample is called.
        metric: what validation measures, a share where it is not given.
    """
    console = Console(stderr=True, highlight=False)
    if console.is_terminal and not distributed.rank():
        with training_bar(console, name, steps, batch, unit, metric) as log:
            yield log
    else:
        yield silent
