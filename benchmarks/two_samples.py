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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

from graphfsl.apply.generate import generator_of
from graphfsl.apply.generator_quality import Quality, measure
from graphfsl.core import registry
from graphfsl.core.generator import Generator
from graphfsl.experiment import run as runs
from graphfsl.io.errors import require

MEASURED = tuple(Quality.__dataclass_fields__)[1:]
UNTOLD = ("weight", "samples")  # options that change no draw


def called(run: runs.Run) -> str:
    """The run's generator with its options: "prototype_vae, delta true"."""
    parts = run.experiment.learner.augment
    (own,) = [p for p in parts if issubclass(registry.get("augment", p.name), Generator)]
    return with_options(own.name, own.options, UNTOLD).lower()


def encoder_of(run: runs.Run) -> str:
    """What tells the run's encoder from others: the run of its weights, and its options."""
    encoder = run.experiment.learner.encoder
    if encoder is None:
        return "features"
    weights = encoder.options.get("weights")
    origin = encoder.name if weights is None else Path(weights).parent.name
    return with_options(origin, encoder.options, ("weights", "frozen"))


def with_options(name: str, options: Mapping[str, Any], untold: Sequence[str]) -> str:
    """A name and the options that are told: "prototype_vae, delta true"."""
    told = [f"{key} {value}" for key, value in options.items() if key not in untold]
    return ", ".join([name, *told])


def measured(study: Path, split: str, count: int) -> Iterator[Quality]:
    """With each encoder real samples, the study's generators in the order of their names, and the
    simplest one.
    """
    found: dict[str, dict[str, Quality]] = {}
    beside: dict[str, list[Quality]] = {}
    for path in sorted((study / "runs").iterdir()):
        run = runs.load(path)
        if not generator_of(run.learner).samples:
            continue
        encoder = encoder_of(run)
        real, own, *simplest = measure(path, [f"evaluation.split={split}"], count)
        found.setdefault(encoder, {})[called(run)] = own
        if simplest or encoder not in beside:  # beside itself the simplest has none
            told = [replace(s, name=f"the simplest: {s.name}") for s in simplest]
            beside[encoder] = [real, *told]
    require(found, f"{study} has no generator that draws; name the folder of a finished study")
    for encoder in sorted(found):
        after = f", {encoder}" if len(found) > 1 else ""
        real, *simplest = beside[encoder]
        drawn = [replace(quality, name=name) for name, quality in sorted(found[encoder].items())]
        for quality in [real, *drawn, *simplest]:
            yield replace(quality, name=quality.name + after)


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
