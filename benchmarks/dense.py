"""Masks beside the bare encoder: seconds an image, and memory.

`python -m benchmarks.dense` asks `graphfsl segment`'s learner (masked means of frozen features and
propagation over the image's own cells, stride 16) about images of 320 x 320 pixels, and
EfficientNet-Lite0 alone about tensors as large. They take turns in one
process, on one thread, so that a disturbance meets both; memory is each one's own process. The
labeled images are encoded before, once.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch

from benchmarks.peak_memory import peak_memory
from graphfsl.apply.segment.segmenter import Segmenter, learner_of_encoder
from graphfsl.apply.segment.support_masks import SupportMasks
from graphfsl.core.pipeline import Pipeline
from graphfsl.experiment.learner_spec import PartSpec

SIDE = 320  # pixels that the encoder sees
KINDS = ("encoder", "segment")
SPEC = PartSpec("efficientnet_lite0", {"strides": [16]})


def asked(kind: str, shots: int) -> Callable[[], object]:
    """What answers one image: the bare encoder, or the segmenter with so many labeled images."""
    rng = np.random.default_rng(0)
    learner, transform, shape = learner_of_encoder(SPEC, SIDE, 2)
    assert isinstance(learner, Pipeline)
    if kind == "encoder":
        x = torch.randn(1, 3, SIDE, SIDE)
        encoder = learner.eval().encoder

        def encode() -> object:
            with torch.no_grad():
                return encoder(x)

        return encode
    images = [rng.integers(0, 256, (3, SIDE, SIDE), np.uint8) for _ in range(shots + 1)]
    left = np.where(np.arange(SIDE) < 150, 0, -1).astype(np.int16)
    maps = [np.tile(left, (SIDE, 1))]
    paths = [Path(str(i)) for i in range(shots)]
    support = SupportMasks(images[:shots], maps * shots, ("left",), paths, [])
    segmenter = Segmenter(learner, transform, shape, support)
    return lambda: segmenter.find(images[-1])


def seconds(tasks: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median CPU seconds of each, in turns; two rounds warm up."""
    times: dict[str, list[float]] = {name: [] for name in tasks}
    for i in range(rounds + 2):
        for name, task in tasks.items():
            start = time.process_time()
            task()
            if i >= 2:
                times[name].append(time.process_time() - start)
    return {name: median(values) for name, values in times.items()}


def main() -> None:
    """Print the table, or with --memory KIND the MiB that one kind alone has held."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shots", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--memory", choices=KINDS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.memory:
        task = asked(given.memory, given.shots)
        for _ in range(3):
            task()
        print(peak_memory())
        return
    taken = seconds({kind: asked(kind, given.shots) for kind in KINDS}, given.rounds)
    held = {}
    for kind in KINDS:
        command = [sys.executable, "-m", "benchmarks.dense", "--memory", kind]
        command += ["--shots", str(given.shots)]
        told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        held[kind] = float(told)
    print("| | seconds an image | memory, MiB |\n| --- | --: | --: |")
    names = {"encoder": "EfficientNet-Lite0 alone", "segment": "masks: means and propagation"}
    for kind in KINDS:
        print(f"| {names[kind]} | {taken[kind]:.4f} | {held[kind]:.0f} |")
    ratios = [values["segment"] / values["encoder"] for values in (taken, held)]
    print(f"| ratio | {ratios[0]:.2f} | {ratios[1]:.2f} |")


if __name__ == "__main__":
    main()
