"""Training with a progress bar."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from graphfsl import run as runs
from graphfsl.data import Split

ESTIMATE_AFTER = 40  # steps until the estimate of the whole time is worth printing


def train(run: runs.Run, base: Split, console: Console) -> runs.Run:
    """`run.train` with loss, validation accuracy, episodes per second and time left."""
    columns = (
        TextColumn("training"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]} val {task.fields[val]} {task.fields[rate]} episodes/s"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    steps = run.trainer.steps
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=steps, loss="…", val="…", rate="…")
        first: list[dict[str, Any]] = []

        def log(line: dict[str, Any]) -> None:
            shown: dict[str, Any] = {"loss": f"{line['loss']:.3f}", "rate": f"{line['episodes_per_s']:.1f}"}
            if "val" in line:
                shown["val"] = f"{100 * line['val']:.2f}%"
                console.print(f"step {line['step']}: loss {shown['loss']}, validation {shown['val']}")
            progress.update(task, completed=line["step"], **shown)
            if not first and line["step"] >= ESTIMATE_AFTER:
                first.append(line)
                left = (steps - line["step"]) * run.trainer.batch / line["episodes_per_s"]
                console.print(f"about {left / 60:.1f} minutes of training, validation not included")

        return runs.train(run, base, log)
