"""`graphfsl sessions`: how runs fare whose classes come one session after another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from graphfsl.core.episode import Episode, Target
from graphfsl.core.task import Metric
from graphfsl.data import Episodes
from graphfsl.data.session_lists import read_session_list
from graphfsl.data.tasks.sessions import Sessions
from graphfsl.experiment import run as runs
from graphfsl.experiment.measure import asked_of, measure
from graphfsl.experiment.overrides import names
from graphfsl.functional.bootstrap import bootstrap_interval, resampled_counts
from graphfsl.io.checkpoint import write_atomically
from graphfsl.io.errors import require
from graphfsl.io.plain_text import csv_table
from graphfsl.loops.evaluation import encode_once, measured
from graphfsl.loops.row import Row
from graphfsl.report.write import write_report

RESAMPLES = 10_000
SUMMARY = ("accuracy", "performance drop", "base accuracy", "novel accuracy", "harmonic mean")
HARMONIC = "harmonic mean"


@dataclass(frozen=True)
class Measured:
    """What was measured of a learner.

    Args:
        name: what it is called in the table.
        row: its results row.
        right, asked: (2, C) right answers and queries of each class after the last session, where
            it came in the base session and where it came later. With repeats a class may do both.
    """

    name: str
    row: Row
    right: Tensor
    asked: Tensor

    def harmonic_means(self, counts: Tensor) -> Tensor:
        """The harmonic means (R,) where classes are drawn as often as counts (R, C) say."""
        base, novel = (counts @ self.right.mT / (counts @ self.asked.mT)).unbind(1)
        mean: Tensor = 2 * base * novel / (base + novel).clamp_min(1e-12)
        return mean

    @property
    def roles(self) -> Tensor:
        """(C,) a number for base classes, for later ones, for those that were both, and neither."""
        was_base, was_novel = (self.asked > 0).long().unbind()
        return 2 * was_base + was_novel

    def is_asked_as(self, other: Measured) -> bool:
        """Whether both went through the same sessions."""
        own, its = (
            (one.row.data, one.row.asked, one.row.seed, one.asked.tolist()) for one in (self, other)
        )
        return own == its


def sessions(
    paths: Sequence[Path],
    changes: Sequence[str] = (),
    order: str | None = None,
    against: Sequence[str] = (),
    repeats: int = 1,
    out: Path | None = None,
) -> tuple[list[dict[str, str]], list[str], list[Path]]:
    """Measure runs over sessions, and write a table and a report with curves and matrices.

    Args:
        paths: directories of trained runs.
        changes: overrides of all of them, such as episode.way=10.
        order: a list of sessions, whose sizes become those of the task; None takes the task of the
            run, which must be `sessions`, or what `changes` makes of it.
        against: for each further learner of the first run its overrides, separated by semicolons.
        repeats: how often the sessions are gone through, with other samples or in other orders.
        out: the folder; None takes one in the first run's directory.

    Returns:
        The lines of the table, sentences on the harmonic mean beside the first learner's, and the
        files.

    Raises:
        InputError: for a run whose task is another one, and for what the task, the list or the data
            refuse.
    """
    every: list[tuple[Path, str, tuple[str, ...]]] = [(path, path.name, ()) for path in paths]
    every += [(paths[0], text, tuple(text.split(";"))) for text in against]
    called = [name for _, name, _ in every]
    twice = next((name for name in called if called.count(name) > 1), None)
    require(twice is None, f"{twice} is named twice; name each run and learner once")
    task = [] if order is None else _task_of(order)
    measured_of = [
        _measure(path, name, [*task, *changes, *own], repeats) for path, name, own in every
    ]
    compared = _beside_first(measured_of)
    lines = [_line(one, own) for one, own in zip(measured_of, compared, strict=True)]
    told = [str(one) for one in compared]
    folder = out or paths[0] / "sessions"
    table = csv_table(list(lines[0]), [list(line.values()) for line in lines])
    write_atomically(folder / "sessions.csv", table.encode())
    rows = [one.row.replace(run=one.name) for one in measured_of]
    files = write_report(folder, f"Sessions of {rows[0].data}", rows, findings=told)
    return lines, told, [folder / "sessions.csv", *files]


def _task_of(order: str) -> list[str]:
    """The override that makes the task one of a list of sessions, with the list's own sizes."""
    found = read_session_list(order)
    base, later, way = found.sizes
    fields: dict[str, Any] = {"task": "sessions", "order": order}
    fields |= {"base": base, "sessions": later, "way": way}
    queries = found.queries
    if queries is not None:
        fields["query"] = queries
    return [f"episode={{{', '.join(f'{key}: {value}' for key, value in fields.items())}}}"]


def _measure(path: Path, name: str, changes: Sequence[str], repeats: int) -> Measured:
    """What a run answers; the episodes are as many as `repeats` units have."""
    run = runs.load(path)
    tasks = asked_of(run, changes).tasks
    task = tasks[0]
    require(
        len(tasks) == 1 and isinstance(task, Sessions),
        f"{path} asks for {', '.join(t.title for t in tasks)}, and not for sessions of one kind; "
        "give --order=…, or 'episode={task: sessions, …}'",
    )
    require(
        not any(names(change, "evaluation.episodes") for change in changes),
        "--repeats says how many sessions there are; leave evaluation.episodes out",
    )
    asked = [*changes, f"evaluation.episodes={repeats * task.unit}"]
    (row,) = measure(run, asked)
    return Measured(name, row, *_by_class(run, asked))


def _by_class(run: runs.Run, changes: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Right answers, and queries, (2, C) of each class after the last session, see `Measured`."""
    asked = asked_of(run, changes)
    (task,) = asked.tasks
    assert isinstance(task, Sessions)
    options = asked.experiment.evaluation
    device = asked.experiment.trainer.fabric().device
    split = asked.experiment.data.split(options.split)
    answering, split = encode_once(
        asked.learner.to(device), split, run.transform.plain(), len(split.x) + 1
    )
    loader = Episodes(split, task, options.seed, run.transform.plain(), device)
    classes = len(split.classes)
    counted = Metric(partial(_counted, base=task.base, classes=classes))
    total = torch.zeros(4 * classes, dtype=torch.float64)
    for unit in range(options.episodes // task.unit):
        last = (unit + 1) * task.unit - 1
        found = measured(answering, loader, range(last, last + 1), {"classes": counted})
        total += found["classes"][0]
    right, queries = total.view(2, 2, classes)
    return right, queries


def _counted(scores: Tensor, target: Target, episode: Episode, base: int, classes: int) -> Tensor:
    """Right and all answers (B, 4 C): of the split's classes as base ones, then as later ones."""
    real = target.query >= 0
    right = (scores.argmax(-1) == target.query) & real
    number = target.classes.gather(1, target.query.clamp_min(0)).clamp_min(0)
    number = number + classes * (target.query >= base)  # the first columns are the base session's
    empty = torch.zeros(len(number), 2 * classes, dtype=torch.float64, device=number.device)
    parts = [empty.scatter_add(1, number, counted.double()) for counted in (right, real)]
    return torch.cat(parts, 1)


@dataclass(frozen=True)
class Compared:
    """A learner's harmonic mean, with an interval over classes, in percent.

    Args:
        name: of the learner.
        number: its harmonic mean.
        low, high: the 95% interval, of the harmonic mean or, beside another learner, of the gain.
        gain: over the other learner; None where there is none.
        other: its name.
    """

    name: str
    number: str
    low: float
    high: float
    gain: float | None = None
    other: str = ""

    @property
    def cell(self) -> str:
        """The gain with its interval, as a table has it; without a gain the interval."""
        if self.gain is None:
            return f"{self.low:.2f} to {self.high:.2f}"
        return f"{self.gain:+.2f} ({self.low:+.2f} to {self.high:+.2f})"

    def __str__(self) -> str:
        if self.gain is None:
            found, within = "", self.cell
        else:
            found = f", {self.gain:+.2f} points beside {self.other}"
            within = f"{self.low:+.2f} to {self.high:+.2f}"
        return (
            f"{self.name}: harmonic mean {self.number} %{found} "
            f"(95% interval over classes {within})"
        )


def _line(one: Measured, compared: Compared) -> dict[str, str]:
    """A learner's line of the table: the summary, then the accuracy after each session."""
    found = {"learner": one.name}
    for name in SUMMARY:
        found[name] = one.row.metrics[name].number
    found["gain in it (95% interval over classes)"] = compared.cell
    for name in ("backward transfer", "forgetting"):
        found[name] = one.row.metrics[name].number
    curve = one.row.diagnosis["curve"]
    for session, value in zip(curve["x"], curve["y"], strict=True):
        found[f"s{session}"] = f"{value:.1f}"
    return found


def _beside_first(every: Sequence[Measured]) -> list[Compared]:
    """The harmonic mean of each learner beside that of the first, with intervals over classes."""
    first = every[0]
    counts = resampled_counts(first.roles, RESAMPLES)
    of_first = first.harmonic_means(counts)
    low, high = bootstrap_interval(100 * of_first)
    compared = [Compared(first.name, first.row.metrics[HARMONIC].number, low, high)]
    for one in every[1:]:
        require(
            one.is_asked_as(first),
            f"{one.name} is asked other sessions than {first.name}, so that no class stands beside "
            "itself; give them the same --order, data and seed",
        )
        low, high = bootstrap_interval(100 * (one.harmonic_means(counts) - of_first))
        ones = torch.ones(1, len(counts[0]), dtype=torch.float64)
        gain = 100 * float(one.harmonic_means(ones) - first.harmonic_means(ones))
        number = one.row.metrics[HARMONIC].number
        compared.append(Compared(one.name, number, low, high, gain, first.name))
    return compared
