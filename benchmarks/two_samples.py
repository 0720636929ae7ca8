"""Which generators draw what a classifier cannot tell from real samples: those of a finished study.

    graphfsl ablate cifarfs_generators --out runs/generators
    python -m benchmarks.two_samples runs/generators --data ROOT

measures each generator that the study has trained as `graphfsl generate RUN --measure` does, under
the same conditions, on classes that none of them has seen. `--out FILE` writes the table.
"""

from __future__ import annotations

import argparse
import csv
import os
from collections.abc import Iterator
from dataclasses import astuple, replace
from pathlib import Path

from graphfsl.apply.generate import generator_of
from graphfsl.apply.generator_quality import Quality, measure
from graphfsl.experiment import run as runs
from graphfsl.io.errors import require

MEASURED = tuple(Quality.__dataclass_fields__)[1:]
UNTOLD = ("weight", "samples")  # options that change no draw


def called(run: runs.Run) -> str:
    """The last part of the slot `augment`, with its options: "prototype_vae, delta true"."""
    own = run.experiment.learner.augment[-1]
    told = [f"{key} {value}" for key, value in own.options.items() if key not in UNTOLD]
    return ", ".join([own.name, *told]).lower()


def measured(study: Path, split: str, count: int) -> Iterator[Quality]:
    """Real samples, the study's generators in the order of their names, and the Gaussian."""
    found = {}
    beside: list[Quality] = []
    for path in sorted((study / "runs").iterdir()):
        run = runs.load(path)
        if not generator_of(run.learner).samples:
            continue
        real, own, *gaussian = measure(path, [f"evaluation.split={split}"], count)
        found[called(run)] = own
        beside = [real, *gaussian]
    require(beside, f"{study} has no generator that draws; name the folder of a finished study")
    yield beside[0]
    for name in sorted(found):
        yield replace(found[name], name=name)
    for simplest in beside[1:]:
        yield replace(simplest, name=f"the simplest: {simplest.name}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", type=Path, help="the folder of a finished study")
    parser.add_argument("--data", default=os.environ.get("GRAPHFSL_DATA"), metavar="ROOT")
    parser.add_argument("--split", default="val")
    parser.add_argument("--count", type=int, default=2000, help="conditions")
    parser.add_argument("--out", type=Path, help="a CSV of the table")
    asked = parser.parse_args()
    if asked.data:
        os.environ["GRAPHFSL_DATA"] = asked.data
    lines = [["drawn by", *MEASURED]]
    for quality in measured(asked.study, asked.split, asked.count):
        name, *values = astuple(quality)
        lines.append([name, *(f"{value:.3f}" for value in values)])
    for line in lines:
        print("  ".join([f"{line[0]:48}", *(f"{cell:>9}" for cell in line[1:])]))
    if asked.out:
        with asked.out.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows(lines)


if __name__ == "__main__":
    main()
