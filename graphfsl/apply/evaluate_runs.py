"""`graphfsl evaluate`: runs, and further learners of a run, on the same episodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphfsl.data import takes_root
from graphfsl.experiment import run as runs
from graphfsl.experiment.experiment import digest
from graphfsl.experiment.measure import Say, measure_policies
from graphfsl.experiment.overrides import names
from graphfsl.io.errors import InputError, require
from graphfsl.loops.attack import PGD
from graphfsl.loops.corruption import Corruption
from graphfsl.loops.image_change import ImageChange
from graphfsl.loops.row import Row
from graphfsl.report.pairs import pairs_table


@dataclass(frozen=True)
class Question:
    """What is asked, and of whom.

    Attributes:
        runs: directories of runs, one at least.
        changes: overrides such as episode.way=20, of all of them.
        on: names of data sets; none asks about each run's own.
        episodes: a list that `graphfsl episodes` wrote.
        against: further learners of the first run, each as overrides with ; between.
        attacks: changes of pixels that make answers wrong.
        attack_from: the run whose gradients they follow; None takes each run's own.
        corruptions: changes of pixels as bad cameras make them.
    """

    runs: Sequence[Path]
    changes: Sequence[str] = ()
    on: Sequence[str] = ()
    episodes: Path | None = None
    against: Sequence[str] = ()
    attacks: Sequence[PGD] = ()
    attack_from: Path | None = None
    corruptions: Sequence[Corruption] = ()

    def __post_init__(self) -> None:
        named = next((change for change in self.changes if names(change, "data.name")), None)
        if self.on and named:
            raise InputError(f"--on names the data sets; leave {named} out")
        if self.attacks and self.corruptions:
            raise InputError("--attack and --corrupt change the same images; ask for one of them")
        _check_once([name for name, _, _ in self.learners], "name each run and learner once")
        _check_once(self.on, "name each data set once")
        # they are told apart by what they are called, in a table as in the name of a file
        done = [str(one) for one in (*self.attacks, *self.corruptions)]
        _check_once(done, "name each attack and corruption once, each eps by three digits")

    @property
    def has_clean_images(self) -> bool:
        """Whether answers to images as they are stand beside those to changed ones."""
        return bool(self.corruptions) or len(self.attacks) > 1

    @property
    def is_compared(self) -> bool:
        """Whether the answer is a table with a column for each learner."""
        return len(self.learners) > 1 or self.has_clean_images

    @property
    def image_changes(self) -> list[ImageChange | None]:
        """What is done to the images, one after the other."""
        clean = [None] if self.has_clean_images else []
        return [*clean, *self.attacks, *self.corruptions] or [None]

    @property
    def learners(self) -> list[tuple[str, Path, list[str]]]:
        """Name, run and own overrides of each learner."""
        plain: list[tuple[str, Path, list[str]]] = [(str(path), path, []) for path in self.runs]
        return plain + [(text, self.runs[0], text.split(";")) for text in self.against]

    def changes_on(self, data_set: str) -> list[str]:
        """The overrides on one of the data sets, or on "", a run's own."""
        if not data_set:
            return list(self.changes)
        # One root for several sets: it says nothing to those that need no files.
        own = [c for c in self.changes if takes_root(data_set) or not c.startswith("data.root=")]
        return [f"data.name={data_set}", *own]

    @property
    def file(self) -> Path:
        """Where the answer is kept, a name that is a function of the question."""
        told: dict[str, Any] = {"changes": self.changes}
        if self.on:
            told["on"] = ",".join(self.on)
        if self.episodes:
            told["episodes"] = str(self.episodes)
        if self.attacks:
            told["attack"] = "; ".join(map(str, self.attacks))
            told["from"] = str(self.attack_from)
        if self.corruptions:
            told["corruptions"] = [str(one) for one in self.corruptions]
        if self.is_compared:
            told["runs"] = [str(path) for path in self.runs]
        if self.against:
            told["against"] = self.against
        return self.runs[0] / "evaluations" / f"{digest(told)}.json"


def _check_once(names: Sequence[str], right: str) -> None:
    """InputError for a name that stands there twice."""
    twice = next((name for name in names if names.count(name) > 1), None)
    require(twice is None, f"{twice} is named twice; {right}")


@dataclass(frozen=True)
class Answers:
    """The rows of each learner.

    Attributes:
        question: that was asked.
        of_learners: name -> rows, in the same order of data sets, settings and images for all.
        images: of each row of a learner, what was done to its images, where something was.
    """

    question: Question
    of_learners: dict[str, list[Row]]
    images: list[str]

    @property
    def rows(self) -> list[Row]:
        """All rows; of several learners each says whose it is."""
        named = self.question.is_compared
        return [
            row.replace(run=name) if named else row
            for name, own in self.of_learners.items()
            for row in own
        ]

    def table(self) -> list[dict[str, str]]:
        """A line for each learner, with gains over the first (`pairs_table`)."""
        short = {
            name if name in self.question.against else Path(name).name: own
            for name, own in self.of_learners.items()
        }
        clear = len(short) == len(self.of_learners)
        return pairs_table(short if clear else self.of_learners, self.images)


def evaluate_runs(question: Question, say: Say | None = None) -> Answers:
    """Ask each learner, on each data set, about images as they are and changed ones.

    Args:
        question: what is asked.
        say: called with lines that tell how it goes.

    Raises:
        InputError: where a run cannot be asked that.
    """
    of_learners: dict[str, list[Row]] = {}
    images: list[str] = []
    for name, path, own in question.learners:
        trained = runs.load(path)
        found = of_learners.setdefault(name, [])
        for data_set in question.on or [""]:
            changes = question.changes_on(data_set) + own
            for change in question.image_changes:
                rows = measure_policies(trained, changes, say, question.episodes, change)
                found += rows
                if len(of_learners) == 1:
                    images += ["" if change is None else str(change)] * len(rows)
        if name in question.against:
            _check_same_episodes(name, found, of_learners[str(question.runs[0])])
    return Answers(question, of_learners, images)


def _check_same_episodes(name: str, rows: Sequence[Row], of_run: Sequence[Row]) -> None:
    """InputError where a learner is asked other episodes than the run that it stands beside."""
    for row, first in zip(rows, of_run, strict=False):  # of unequal length no table is made
        own, its = ((one.data, one.asked, one.seed, len(one.values)) for one in (row, first))
        require(
            own == its,
            f"--against {name} is asked other episodes than the run, so that neither a gain nor a "
            "rank would mean anything; put what is asked behind the run, and the learner there",
        )
