"""What `graphfsl export` makes of encoders, small and large: bytes, milliseconds, memory, accuracy.

`python -m benchmarks.export --data ROOT` prints a table; `--save FILE` keeps it as Markdown.
Latency is the median of 200 calls with one image on one thread, as processor time, in a process
that holds onnxruntime and no torch; PyTorch's own is beside it. Memory is that process's most, and
how much of it the graph takes. Accuracy is that of the run on 600 episodes of validation classes,
the same for floats and integers. An encoder without a run has random weights, whose time and size
are those of trained ones; `--run NAME=DIRECTORY` gives it one, such as a run of the experiment
wang2019_cifarfs_resnet12_5w1s, whose weights are too large to be kept here.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import graphfsl as gf
from benchmarks.__main__ import processor
from benchmarks.onnx_calls import CALLS, WARMING
from graphfsl import data
from graphfsl.apply.export.graphs import encoder_graph
from graphfsl.apply.export.quantize import Cost, cost, quantized
from graphfsl.apply.predict import open_run
from graphfsl.core.compute import of_an_image
from graphfsl.core.pipeline import Pipeline
from graphfsl.data import Split, Transform

RESULTS = Path(__file__).parents[1] / "experiments/results"
RUNS = {
    "Conv4, Omniglot": "snell2017_omniglot_20w1s",
    "Conv4, CIFAR-FS": "snell2017_cifarfs_5w1s",
    "EfficientNet-Lite0 at 112, CIFAR-FS": "wang2019_cifarfs_efficientnet_5w1s",
    "timm lcnet_035 at 64, CIFAR-FS": "wang2019_cifarfs_lcnet_5w1s",
}
UNTRAINED: dict[str, Any] = {"ResNet-12, CIFAR-FS": "resnet12"}
PHOTOGRAPHS = (3, 32, 32)
HEADER = (
    "encoder",
    "numbers",
    "multiply-adds",
    "file, kB",
    "ms an image",
    "PyTorch, ms",
    "peak memory, MiB",
    "accuracy",
    "int8 less fp32",
)


@dataclass(frozen=True)
class Candidate:
    """An encoder, with the base images that calibrate its integers, and its run where there is one.

    pipeline: in evaluation mode. shape: of an image.
    """

    name: str
    pipeline: Pipeline
    shape: tuple[int, ...]
    base: Split
    transform: Transform
    run: Any = None

    def cost(self, integers: bytes) -> Cost | None:
        return cost(self.run, self.pipeline, integers) if self.run is not None else None


def candidates(root: str | None, more: dict[str, Path]) -> Iterator[Candidate]:
    for name, folder in ({name: RESULTS / run for name, run in RUNS.items()} | more).items():
        run = open_run(folder, ()).run
        pipeline = run.learner.innermost
        assert isinstance(pipeline, Pipeline)
        base = run.experiment.data.base_split()
        yield Candidate(name, pipeline.eval(), run.shape, base, run.transform, run)
    photographs = data.load("cifar_fs", "train", root=root)
    halves = Transform([0.5] * 3, [0.5] * 3)
    for name in UNTRAINED.keys() - more.keys():
        encoder = UNTRAINED[name]
        torch.manual_seed(0)
        pipeline = gf.build({"encoder": encoder, "head": "protonet"}, PHOTOGRAPHS, 5).eval()
        assert isinstance(pipeline, Pipeline)
        yield Candidate(name, pipeline, PHOTOGRAPHS, photographs, halves)


def on_device(model: bytes, shape: tuple[int, ...]) -> dict[str, float]:
    """What `benchmarks.onnx_calls` says of a graph."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "encoder.onnx")
        file.write_bytes(model)
        code = [sys.executable, "-W", "ignore", "-m", "benchmarks.onnx_calls", str(file)]
        words = [*code, *map(str, shape)]
        done = subprocess.run(words, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


@torch.no_grad()
def eager_ms(pipeline: Pipeline, shape: tuple[int, ...]) -> float:
    image, times = torch.randn(1, *shape), []
    for _ in range(WARMING + CALLS):
        start = time.process_time()
        pipeline.readout(pipeline.encoder(image))
        times.append(1000 * (time.process_time() - start))
    return statistics.median(times[WARMING:])


def rows(candidate: Candidate) -> Iterator[list[str]]:
    """One line for floats, one for integers."""
    encoder, shape = candidate.pipeline.encoder, candidate.shape
    floats = encoder_graph(candidate.pipeline, shape)
    integers = quantized(floats, candidate.base, candidate.transform)
    lost = candidate.cost(integers)
    accuracies = {"fp32": "no run", "int8": "no run"}
    if lost is not None:
        accuracies = {"fp32": f"{lost.before:.2f}", "int8": f"{lost.after:.2f}"}
    for kind, model in (("fp32", floats), ("int8", integers)):
        found = on_device(model, shape)
        both = lost is not None and kind == "int8"
        yield [
            candidate.name,
            kind,
            f"{of_an_image(encoder, shape) / 1e6:,.1f} M",
            f"{len(model) / 1000:,.0f}",
            f"{found['ms']:.2f}",
            f"{eager_ms(candidate.pipeline, shape):.2f}" if kind == "fp32" else "",
            f"{found['peak']:.0f} ({found['peak'] - found['before']:+.0f})",
            accuracies[kind],
            f"{-lost.lost:+.2f} ± {lost.within:.2f}" if both and lost is not None else "",
        ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default=os.environ.get("GRAPHFSL_DATA"), metavar="ROOT")
    parser.add_argument("--run", action="append", default=[], metavar="NAME=DIRECTORY")
    parser.add_argument("--save", type=Path, help="a Markdown file that keeps the table")
    options = parser.parse_args()
    if options.data:
        os.environ["GRAPHFSL_DATA"] = options.data
    torch.set_num_threads(1)
    lines = ["| " + " | ".join(HEADER) + " |", "| --- " * len(HEADER) + "|"]
    print("\n".join(lines))
    more = {name: Path(folder) for name, _, folder in (word.partition("=") for word in options.run)}
    for candidate in candidates(options.data, more):
        for row in rows(candidate):
            lines.append("| " + " | ".join(row) + " |")
            print(lines[-1], flush=True)
    if options.save:
        head = f"Measured on one thread of {processor()}, torch {torch.__version__}:"
        options.save.write_text("\n".join([head, "", *lines]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
