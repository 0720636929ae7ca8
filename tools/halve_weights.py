"""Store the weights of committed runs as float16, where their accuracy stays.

    GRAPHFSL_DATA=FOLDER python tools/halve_weights.py [RUN ...]

RUN: names of folders below experiments/results; all of them where none is named, the quickest
first. Each is evaluated again with the halved weights, in the settings and on the episodes of its
results.json and of each file in `evaluations`. The halved weights replace the others where

- the mean accuracy of every row is within MOST points of the stored one, and
- each of its first FIRST episodes, which the tests measure again, is within one query.

Otherwise the weights stay float32. Either way results.json gets a note, `weights`: how they are
stored, and `moved`, the largest change of a row's mean in points of accuracy. Its rows stay as they
are. A run that has the note is passed over, so the same command goes on where it was stopped. Runs
that are measured by another metric than accuracy keep their weights, which a line says.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from graphfsl.core.learner import Learner
from graphfsl.experiment import run as runs
from graphfsl.experiment.data_source import Splits
from graphfsl.experiment.measure import asked_of
from graphfsl.io.checkpoint import load_checkpoint, read_json, save_halved, write_json
from graphfsl.io.errors import InputError
from graphfsl.loops.evaluation import encode_once, evaluate

RESULTS = Path(__file__).resolve().parents[1] / "experiments" / "results"
MODEL = "model.safetensors"
MOST = 0.05  # points of accuracy that a row's mean may move by
FIRST = 5  # episodes that tests/project/test_committed.py measures again


@dataclass(frozen=True)
class Change:
    """What another storage of the weights does to one row.

    moved: the change of its mean, in points of accuracy. flipped: the most queries that were
        answered otherwise in one of its first episodes.
    """

    moved: float
    flipped: float

    @property
    def stays(self) -> bool:
        return abs(self.moved) <= MOST and self.flipped <= 1.01


def files_of(run: Path) -> list[Path]:
    """The files with the rows of a run: its own results, and other evaluations of it."""
    return [run / "results.json", *sorted((run / "evaluations").glob("*.json"))]


def seconds(run: Path) -> float:
    """How long the evaluations of a run took."""
    return sum(row["seconds"] for file in files_of(run) for row in read_json(file)["rows"])


def with_halved_weights(run: Path, folder: Path) -> runs.Run:
    """The run as it is read when its weights are stored as float16; it is written to `folder`.

    Its section `evaluation` is that of results.json: a run may have been measured otherwise later.
    """
    tensors, facts = load_checkpoint(run / MODEL)
    save_halved(folder / MODEL, tensors, facts)
    trained = read_json(run / "config.json")
    measured = read_json(run / "results.json")["config"]
    if "evaluation" in measured:
        trained["config"]["evaluation"] = measured["evaluation"]
    write_json(folder / "config.json", trained)
    return runs.load(folder)


def accuracies(run: runs.Run, overrides: Sequence[str], splits: Splits) -> list[Tensor]:
    """The accuracies (episodes,) in each setting that `graphfsl evaluate RUN OVERRIDES` measures.

    Where an image's features do not depend on its episode, each image is encoded once for all
    settings.
    """
    asked = asked_of(run, overrides)
    options = asked.experiment.evaluation
    split = splits.get(asked.experiment.data, options.split)
    images = options.episodes * sum(task.demands.nodes for task in asked.tasks)
    answering: Learner
    answering, features = encode_once(asked.learner, split, run.transform, images)
    found = []
    for setting in asked.tasks:
        result = evaluate(
            answering,
            features,
            setting,
            options.episodes,
            options.seed,
            run.transform,
            options.block,
            unbalanced=options.unbalanced,
        )
        found.append(result.accuracies)
    return found


def change(row: Mapping[str, Any], now: Tensor) -> Change:
    """How the accuracies of a stored row changed."""
    before, now = torch.tensor(row["accuracies"], dtype=torch.float64), now.double()
    moved = 100 * (now.mean() - before.mean()).item()
    first = (now[:FIRST] - before[:FIRST]).abs().max().item()
    return Change(moved, first * row["way"] * row["query"])


def changes(run: Path, splits: Splits) -> list[Change]:
    """What halved weights do to every row of a run."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        halved = with_halved_weights(run, Path(folder))
        for file in files_of(run):
            facts = read_json(file)
            overrides = facts.get("overrides", [])
            now = accuracies(halved, overrides, splits)
            # the weights of an ensemble are not stored: its rows stay as they are
            own = [row for row in facts["rows"] if row["method"] == facts["rows"][0]["method"]]
            if len(now) < len(own):  # the same tasks under statistics of the support
                now += accuracies(halved, [*overrides, "learner.batch_norm=support"], splits)
            for row, values in zip(own, now, strict=True):
                found.append(change(row, values))
    return found


def convert(run: Path, splits: Splits) -> str:
    """Halve the weights of a run where its accuracies stay, note it; what was found, in words."""
    rows = [row for file in files_of(run) for row in read_json(file)["rows"]]
    if not all("accuracies" in row for row in rows):
        return "left as it is, for only accuracies are compared and it has other rows"
    found = changes(run, splits)
    moved = max((abs(c.moved) for c in found), default=0.0)
    stays = all(c.stays for c in found)
    if stays:
        tensors, facts = load_checkpoint(run / MODEL)
        save_halved(run / MODEL, tensors, facts)
    note = {"stored": "float16" if stays else "float32", "moved": round(moved, 4)}
    results = read_json(run / "results.json")
    write_json(run / "results.json", results | {"weights": note})
    flipped = max((c.flipped for c in found), default=0.0)
    return f"{note['stored']}, moved by {moved:.4f} points, {flipped:.0f} in a first episode"


def is_open(run: Path) -> bool:
    """Whether a run has float32 weights of its own that nobody tried to halve."""
    if not (run / MODEL).is_file() or "weights" in read_json(run / "results.json"):
        return False
    tensors, _ = load_checkpoint(run / MODEL)
    return any(tensor.dtype == torch.float32 for tensor in tensors.values())


def main(names: Sequence[str]) -> int:
    named = [RESULTS / name for name in names]
    everything = [file.parent for file in RESULTS.glob("*/results.json")]
    failed = 0
    splits = Splits()
    for run in sorted(filter(is_open, named or everything), key=seconds):
        start = time.perf_counter()
        try:
            told = convert(run, splits)
        except InputError as error:
            failed = 1
            told = f"not tried: {error}"
        print(f"{run.name}: {told} ({time.perf_counter() - start:.0f} s)", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
