"""What a change costs those who do not use it: the same work by two checkouts, in turns.

    git worktree add /tmp/before COMMIT
    python benchmarks/two_commits.py /tmp/before .

One process of each checkout does a piece of work when it is told to, ten times each after two that
do not count, so that a disturbance of the machine meets both. It prints the medians of the seconds
and their ratio, after / before.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

ROUNDS, UNCOUNTED = 10, 2
WORK = {
    "training": "30 steps of ProtoNet, 5-way 5-shot, Conv4",
    "features": "600 episodes of features, 5-way 5-shot",
    "images": "evaluation of images, each encoded once",
    "episodes": "2,000 draws of an episode",
    "command": "graphfsl predict on ten images, a new process",
}

# what a process does: it knows only names that both checkouts have
WORKER = """
import sys, time, torch
from graphfsl.core.pipeline import Pipeline
from graphfsl.data import Episodes, Setting, Split
from graphfsl.loops.evaluation import encode_once, evaluate
from graphfsl.loops.trainer import Trainer
from graphfsl.methods.heads.protonet import ProtoNet
from graphfsl.nn import Conv4

torch.set_num_threads(1)
torch.manual_seed(0)
y = torch.arange(40).repeat_interleave(20)
names = tuple(map(str, range(40)))
images = Split(torch.randint(0, 256, (800, 1, 28, 28), dtype=torch.uint8), y, names, "two/images")
features = Split(torch.randn(800, 640), y, names, "two/features")
setting = Setting(way=5, shot=5)

def learner():
    return Pipeline(Conv4(width=16), head=ProtoNet())

def training():
    Trainer(steps=30, log_every=30, device="cpu").fit(learner(), Episodes(images, setting))

def of_features():
    evaluate(Pipeline(head=ProtoNet()), features, setting, 600)

def of_images():
    model, split = encode_once(learner().eval(), images, None, 10**6)
    evaluate(model, split, setting, 50)

def episodes():
    draws = setting.draws(images, 0)
    for number in range(2000):
        draws.draw([number])

work = {"training": training, "features": of_features, "images": of_images, "episodes": episodes}
print("ready", flush=True)
for line in sys.stdin:
    start = time.perf_counter()
    work[line.strip()]()
    print(time.perf_counter() - start, flush=True)
"""


RUN = "experiments/results/snell2017_glyphs_5w1s"


def write_images(root: Path) -> None:
    """Five classes of two images, which are noise."""
    for name in range(5):
        (root / str(name)).mkdir()
        for number in range(2):
            grey = np.random.default_rng(2 * name + number).integers(0, 256, (28, 28), np.uint8)
            Image.fromarray(grey).save(root / str(name) / f"{number}.png")


class Checkout:
    """A process that works with the package of a folder, and new ones that read the images."""

    def __init__(self, folder: Path, images: Path) -> None:
        read = ["--support", str(images), "--query", str(images / "0")]
        self.command = ["predict", str(folder.resolve() / RUN), *read]
        self.environment = os.environ | {"PYTHONPATH": str(folder.resolve())}
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", WORKER],
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd="/",
        )
        while self._line() != "ready":
            pass

    def _line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the process has ended"
        return line.strip()

    def seconds(self, work: str) -> float:
        """How long it takes to do a piece of work once."""
        if work == "command":
            start = time.perf_counter()
            command = [sys.executable, "-m", "graphfsl", *self.command]
            subprocess.run(
                command, env=self.environment, cwd="/", check=True, stdout=subprocess.DEVNULL
            )
            return time.perf_counter() - start
        assert self.process.stdin is not None
        self.process.stdin.write(f"{work}\n")
        self.process.stdin.flush()
        while True:
            line = self._line()
            if line.replace(".", "").replace("e-", "").isdigit():
                return float(line)


def main(before: str, after: str, images: Path) -> None:
    """Print a line for each piece of work."""
    write_images(images)
    checkouts = [Checkout(Path(folder), images) for folder in (before, after)]
    for work, words in WORK.items():
        times: tuple[list[float], list[float]] = ([], [])
        for number in range(ROUNDS + UNCOUNTED):
            for seconds, checkout in zip(times, checkouts, strict=True):
                seconds.append(checkout.seconds(work))
            if number < UNCOUNTED:
                times = ([], [])
        old, new = map(statistics.median, times)
        line = {"work": words, "before": round(old, 4), "after": round(new, 4)}
        print(json.dumps(line | {"ratio": round(new / old, 3)}), flush=True)
    for checkout in checkouts:
        checkout.process.terminate()


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        main(sys.argv[1], sys.argv[2], Path(folder))
