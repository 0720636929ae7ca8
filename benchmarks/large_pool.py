"""A synthetic pool in shards: labelled by one process, and by two workers of Ray of which one dies.

`python -m benchmarks.large_pool --nodes 100000` writes features (64 numbers, 20 classes with 5
labels each) in shards, labels them both ways, kills a worker while neighbours are sought, and says
whether the labels are equal, which shards were done twice, how long it took and how much memory
each process held at the most. `--save FILE` adds the rows to a Markdown table.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any
from unittest.mock import patch

import numpy as np

from benchmarks.__main__ import processor
from benchmarks.peak_memory import peak_memory
from graphfsl.apply.label.shards import label_shards as label_module
from graphfsl.apply.label.shards.label_shards import label_shards
from graphfsl.apply.label.shards.shard_files import (
    open_shards,
    read_shard,
    shard_facts,
    write_features,
    write_manifest,
)
from graphfsl.apply.label.shards.workers import Task, Work, workers
from graphfsl.functional.neighbors import silent

DIM, CLASSES, SHOTS, SHARDS = 64, 20, 5, 20
WORKERS = 2
KILLED_IN = "finding neighbours"  # the stage in which a worker is killed
HEADER = (
    "samples",
    "who",
    "seconds",
    "CPU seconds",
    "CPU s of neighbours",
    "CPU s of propagation",
    "MiB of the first process",
    "MiB of a worker",
    "GB on disk",
    "cells searched",
    "neighbours found",
    "labels right",
    "labels",
)


def write_pool(folder: Path, n: int) -> np.ndarray:
    """Gaussian classes whose j-th variance falls as 1/j, in shards; the classes (n,)."""
    spread = np.arange(1, DIM + 1, dtype=np.float32) ** -0.5
    means = np.random.default_rng(0).standard_normal((CLASSES, DIM), np.float32) * spread
    truth = []
    write_manifest(folder, f"synthetic-{DIM}", str(n), SHARDS)
    for shard, members in enumerate(np.array_split(np.arange(n), SHARDS)):
        rng = np.random.default_rng([1, shard])
        y = rng.integers(0, CLASSES, len(members))
        x = means[y] + spread * rng.standard_normal((len(y), DIM), np.float32)
        write_features(folder, shard, x, f"synthetic-{DIM}")
        truth.append(y)
    return np.concatenate(truth)


@dataclass(frozen=True)
class Recorded:
    """A task that writes down when it began and ended, where, and the memory that it took."""

    task: Task
    log: Path

    @property
    def what(self) -> str:
        return self.task.what

    def is_done(self, shard: int) -> bool:
        return self.task.is_done(shard)

    def __call__(self, shard: int) -> None:
        self._say("began", shard)
        spent = time.process_time()
        self.task(shard)
        self._say("ended", shard, cpu=time.process_time() - spent, peak=peak_memory())

    def _say(self, event: str, shard: int, **facts: float) -> None:
        line = {"event": event, "what": self.what, "shard": shard, "pid": os.getpid(), **facts}
        with self.log.open("a") as file:
            file.write(json.dumps(line) + "\n")


def recorded(work: Work, log: Path, spent: list[float]) -> Work:
    """The same, with the processor time of this process after every stage in `spent`."""

    def do(task: Task, shards: Sequence[int]) -> None:
        work(Recorded(task, log), shards)
        spent.append(time.process_time())

    return do


def lines_of(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def kill_one(log: Path) -> None:
    """End the worker that began the third shard of a stage, in the middle of it."""
    while True:
        begun = [x for x in lines_of(log) if (x["what"], x["event"]) == (KILLED_IN, "began")]
        if len(begun) >= 3 and begun[2]["pid"] != os.getpid():
            time.sleep(0.3)
            os.kill(begun[2]["pid"], signal.SIGKILL)
            return
        time.sleep(0.05)


def cell(folder: Path, ray: str | None) -> dict[str, Any]:
    """What labelling a folder of shards takes, in this process or on a cluster that it starts."""
    log = folder / "tasks.jsonl"
    truth = np.load(folder / "truth.npy")
    rng = np.random.default_rng(1)
    support = np.concatenate(
        [rng.choice(np.flatnonzero(truth == c), SHOTS, replace=False) for c in range(CLASSES)]
    )
    if ray is not None:
        Thread(target=kill_one, args=(log,), daemon=True).start()
    start, stages = time.perf_counter(), [time.process_time()]
    with workers(ray, silent) as work:
        pool = open_shards(folder)[0]
        found = label_shards(pool, support, truth[support], work=recorded(work, log, stages))
    seconds, end = time.perf_counter() - start, time.process_time()
    lines = lines_of(log)
    ended = [line for line in lines if line["event"] == "ended"]
    elsewhere = [line for line in ended if line["pid"] != os.getpid()]
    neighbours = [line["cpu"] for line in ended if line["what"] == KILLED_IN]
    begun = Counter((x["what"], x["shard"]) for x in lines if x["event"] == "began")
    asked, centers = ~found.given, folder / "cells" / "centers.safetensors"
    return {
        "seconds": seconds,
        "cpu": end - stages[0] + sum(line["cpu"] for line in elsewhere),
        "neighbours": sum(neighbours),
        "propagation": end - stages[-1],
        "peak": peak_memory(),
        "worker": max((line["peak"] for line in elsewhere), default=0.0),
        "disk": sum(f.stat().st_size for f in folder.rglob("*.safetensors")) / 1e9,
        "cells": len(read_shard(centers)["centers"]),
        "probes": (shard_facts(centers) or {})["probes"],
        "recall": found.facts["recall"],
        "right": float((found.label == truth)[asked].mean()),
        "labels": hashlib.sha256(found.label.tobytes()).hexdigest()[:12],
        "twice": [f"{what} {shard}" for (what, shard), count in begun.items() if count > 1],
        "tasks": len(begun),
    }


def measured(folder: Path, *options: str) -> dict[str, Any]:
    """`cell` in a process of its own, since it reports memory."""
    code = [sys.executable, "-W", "ignore", "-m", "benchmarks.large_pool", "--cell", str(folder)]
    words = [*code, *options]
    done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def row(n: int, who: str, found: dict[str, Any]) -> list[str]:
    return [
        f"{n:,}",
        who,
        f"{found['seconds']:.0f}",
        f"{found['cpu']:.0f}",
        f"{found['neighbours']:.0f}",
        f"{found['propagation']:.0f}",
        f"{found['peak']:.0f}",
        f"{found['worker']:.0f}" if found["worker"] else "",
        f"{found['disk']:.2f}",
        f"{found['probes']} of {found['cells']:,}",
        f"{100 * found['recall']:.1f} %",
        f"{100 * found['right']:.2f} %",
        found["labels"],
    ]


def line(words: Sequence[str]) -> str:
    return "| " + " | ".join(words) + " |"


def written(rows: Sequence[Sequence[str]]) -> list[str]:
    """A table whose columns are the runs: there are more measures than fit beside each other."""
    measures = [line(words) for words in zip(HEADER, *rows, strict=True)]
    return [measures[0], "| --- " * (1 + len(rows)) + "|", *measures[1:]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, nargs="*", default=[100_000])
    parser.add_argument(
        "--codes", action="store_true", help="one process, which compares by codes all the same"
    )
    parser.add_argument("--save", type=Path)
    parser.add_argument("--cell", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--ray", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.cell:
        as_if_large = patch.object(label_module, "is_coded", lambda _: True)
        with as_if_large if options.codes else nullcontext():
            print(json.dumps(cell(options.cell, options.ray)))
        return
    rows: list[list[str]] = []
    notes = []

    def add(n: int, who: str, found: dict[str, Any]) -> None:
        rows.append(row(n, who, found))
        print(line(rows[-1]), flush=True)

    print(line(HEADER), "| --- " * len(HEADER) + "|", sep="\n", flush=True)
    for n in options.nodes:
        with tempfile.TemporaryDirectory() as folder:
            one, two = Path(folder, "one"), Path(folder, "two")
            np.save(Path(folder, "truth.npy"), write_pool(one, n))
            shutil.copy(Path(folder, "truth.npy"), one)
            if options.codes:
                add(n, "one process, by codes", measured(one, "--codes"))
                continue
            shutil.copytree(one, two)
            alone = measured(one)
            add(n, "one process", alone)
            shutil.rmtree(one)
            both = measured(two, "--ray", "local")
        add(n, f"{WORKERS} workers, one killed", both)
        same = "equal" if alone["labels"] == both["labels"] else "NOT EQUAL"
        twice = ", ".join(both["twice"]) or "none"
        notes.append(f"{n:,} samples: labels {same}; of {both['tasks']} tasks done twice: {twice}.")
        print(notes[-1], flush=True)
    if options.save:
        head = f"Measured on {os.cpu_count()} shared cores of {processor()}, one thread a process:"
        listed = [f"- {note}" for note in notes]
        text = "\n".join([head, "", *written(rows), "", *listed]) + "\n"
        options.save.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
