"""`graphfsl label` by the size of the pool: 64 features, 100 classes with 5 labels each; every row
in its own process.

`python -m benchmarks.pool` takes synthetic pools, with `--omniglot ROOT` real ones: ProtoNet's
features (the committed run) of all 6,492 characters and turns, of which 100 are labeled and all
others are none of these; above 129,840 nodes the drawings come again, each warped anew. Time is
that of `label_pool`, memory that of the process.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.peak_memory import peak_memory
from graphfsl import data
from graphfsl.apply.label.label_pool import label_pool
from graphfsl.apply.label.pool_page import accuracies
from graphfsl.core.pipeline import Pipeline
from graphfsl.data.transforms import DRAWS, Transform
from graphfsl.experiment import run
from graphfsl.io.array_cache import cached

SIZES, DIM, CLASSES, SHOTS = (10_000, 100_000, 1_000_000), 64, 100, 5
RUN = Path(__file__).parents[1] / "experiments/results/snell2017_omniglot_20w1s"


def synthetic(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Gaussian classes whose j-th variance falls as 1/j: features (n, 64), classes (n,).

    Those of EfficientNet-Lite0 on CIFAR-FS fall as j^-0.7, of Conv4 on Omniglot as j^-2.
    """
    rng, spread = np.random.default_rng(0), np.arange(1, DIM + 1, dtype=np.float32) ** -0.5
    means, y = rng.standard_normal((CLASSES, DIM), np.float32) * spread, rng.integers(0, CLASSES, n)
    return means[y] + spread * rng.standard_normal((n, DIM), np.float32), y


@torch.no_grad()
def omniglot(n: int, root: str) -> tuple[np.ndarray, np.ndarray]:
    """Drawings in the order of shuffled characters: features (n, 64), classes (n,) with -1 above
    the hundredth.
    """
    splits = [data.load("omniglot", s, root=root) for s in ("train", "val", "test")]
    images = torch.cat([s.x for s in splits])
    order = torch.randperm(len(images) // 20, generator=torch.Generator().manual_seed(0))
    images = images.view(-1, 20, *images.shape[1:])[order].flatten(0, 1)
    trained = run.load(RUN)
    learner, plain = trained.learner.eval(), trained.transform
    assert isinstance(learner, Pipeline)
    warped = Transform(plain.mean, plain.std, rotate=10, translate=0.1, scale=0.15, shear=10)

    def fill(out: np.ndarray) -> None:
        for first in track(range(0, n, 1000), "encoding"):
            rows = torch.arange(first, min(first + 1000, n))
            u = torch.rand(len(rows), DRAWS, generator=torch.Generator().manual_seed(first))
            x = (
                warped(images[rows % len(images)], u)
                if first >= len(images)
                else plain(images[rows % len(images)])
            )
            out[rows.numpy()] = learner.readout(learner.encoder(x))

    y = np.arange(n) % len(images) // 20
    return cached(f"bench-pool-{n}", (n, DIM), np.float32, fill), np.where(y < CLASSES, y, -1)


def cell(kind: str, n: int) -> dict[str, float]:
    x, y = synthetic(n) if kind == "synthetic" else omniglot(n, kind)
    rng = np.random.default_rng(1)
    support = np.concatenate(
        [rng.choice(np.flatnonzero(y == c), SHOTS, replace=False) for c in range(CLASSES)]
    )
    start, spent = time.perf_counter(), time.process_time()
    found = label_pool(x, support, y[support])
    seconds, spent = time.perf_counter() - start, time.process_time() - spent
    quality = accuracies(found, y, ~found.given)
    facts = {
        "recall of neighbours": found.facts["recall"],
        "right of held out": found.facts["right"],
    }
    return {
        "seconds": seconds,
        "CPU seconds": spent,
        "GB": peak_memory() / 1024,
        **facts,
        **quality,
    }


def measured(kind: str, sizes: tuple[int, ...] = SIZES) -> list[dict[str, float]]:
    """A row for each size, each in a process of its own, since it reports memory."""
    code = [sys.executable, "-W", "ignore", "-m", "benchmarks.pool", "--cell", kind]
    runs = (
        subprocess.run([*code, str(n)], check=True, stdout=subprocess.PIPE, text=True)
        for n in sizes
    )
    return [
        {"nodes": n, **json.loads(r.stdout.splitlines()[-1])}
        for n, r in zip(sizes, runs, strict=True)
    ]


def exponent(rows: list[dict[str, float]]) -> float:
    """The slope of log CPU time over log nodes: what else the machine does plays no part."""
    nodes = np.log([row["nodes"] for row in rows])
    seconds = np.log([row["CPU seconds"] for row in rows])
    return float(np.polyfit(nodes, seconds, 1)[0])


def pools() -> list[tuple[str, str, str]]:
    """What `make bench` shows of it: the two smaller sizes."""
    rows = measured("synthetic", SIZES[:2])
    shown = [
        (f"labeling a pool of {r['nodes']:,.0f}", f"{r['seconds']:.0f} s, {r['GB']:.1f} GB", "")
        for r in rows
    ]
    return [*shown, ("... growth exponent of its time", f"{exponent(rows):.2f}", "at most 1.2")]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--omniglot", metavar="ROOT")
    parser.add_argument("--nodes", type=int, nargs="*", default=SIZES)
    parser.add_argument("--cell", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.cell:
        print(json.dumps(cell(options.cell[0], int(options.cell[1]))))
        return
    rows = measured(options.omniglot or "synthetic", tuple(options.nodes))
    name = "Omniglot's" if options.omniglot else "synthetic"
    table = Table(
        title=f"{name} pools, {torch.get_num_threads()} CPU threads, torch {torch.__version__}"
    )
    table.add_column("")
    for r in rows:
        table.add_column(f"{r['nodes']:,} nodes", justify="right")
    for k in [k for k in rows[0] if k != "nodes"]:
        table.add_row(k, *(f"{r[k]:.1f}" if r[k] > 10 else f"{r[k]:.3f}" for r in rows))
    Console().print(table)
    if len(rows) > 1:
        Console().print(f"growth exponent {exponent(rows):.2f} (at most 1.2)")


if __name__ == "__main__":
    main()
