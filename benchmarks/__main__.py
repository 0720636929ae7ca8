"""`make bench`: ratios measured in one run, so that the machine's speed cancels. `--device cuda` on
a GPU.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch

from graphfsl.core.pipeline import Pipeline
from graphfsl.data import Episodes, Setting, Split, Transform
from graphfsl.experiment.results import commit
from graphfsl.io.allocator import reuse_freed_memory
from graphfsl.loops.evaluation import measured
from graphfsl.methods.heads.protonet import ProtoNet
from graphfsl.nn import Conv4

EVERYTHING = (
    "import graphfsl.experiment.run, graphfsl.experiment.measure, graphfsl.report.write, "
    "graphfsl.apply.estimator"
)


def images(classes: int = 200, each: int = 20) -> Split:
    x = torch.randint(0, 256, (classes * each, 1, 28, 28), dtype=torch.uint8)
    return Split(
        x,
        torch.arange(classes).repeat_interleave(each),
        tuple(map(str, range(classes))),
        "bench/images",
    )


def features(classes: int = 64, each: int = 600, dim: int = 640, spread: float = 0.1) -> Split:
    y = torch.arange(classes).repeat_interleave(each)
    x = torch.randn(classes, dim)[y] * spread + torch.randn(len(y), dim)
    return Split(x, y, tuple(map(str, range(classes))), "bench/features")


def interleaved(
    tasks: dict[str, Callable[[int], object]], rounds: int, sync: Callable[[], None]
) -> dict[str, float]:
    """Median seconds of each task, taken in turns, so that a disturbance meets all of them."""
    times: dict[str, list[float]] = {name: [] for name in tasks}
    for i in range(rounds + 2):
        for name, task in tasks.items():
            sync()
            start = time.perf_counter()
            task(i)
            sync()
            if i >= 2:  # the first two warm up
                times[name].append(time.perf_counter() - start)
    return {name: float(np.median(t)) for name, t in times.items()}


def training(device: str, sync: Callable[[], None]) -> list[tuple[str, str, str]]:
    """A ProtoNet step, 60-way 1-shot 5-query, beside the bare encoder on the same images."""
    encoder = Conv4().to(device)
    model = Pipeline(encoder, head=ProtoNet()).to(device).train()
    episodes = Episodes(
        images(), Setting(60, 1, 5), transform=Transform((0.1,), (0.3,)), device=device
    )
    fixed, target = episodes.batch([0])
    weights = list(model.parameters())

    def step(i: int) -> None:
        torch.autograd.grad(model.loss(fixed, target), weights)

    def bare(i: int) -> None:
        z = encoder.readout(encoder(fixed.x.flatten(0, 1)))
        torch.autograd.grad(z.square().mean(), weights)

    t = interleaved({"step": step, "bare": bare, "draw": lambda i: episodes.batch([i])}, 15, sync)
    return [
        (
            "ProtoNet training step / bare encoder, 360 images",
            f"{t['step'] / t['bare']:.3f}",
            "at most 1.10",
        ),
        (
            "sampling and gathering / training step",
            f"{100 * t['draw'] / t['step']:.2f} %",
            "at most 5 %",
        ),
        ("ProtoNet training step", f"{1000 * t['step']:.0f} ms", ""),
    ]


def formats(device: str, sync: Callable[[], None]) -> list[tuple[str, str, str]]:
    """What bfloat16 and torch.compile are worth in the same training step."""
    episodes = Episodes(
        images(), Setting(60, 1, 5), transform=Transform((0.1,), (0.3,)), device=device
    )
    fixed, target = episodes.batch([0])
    models = {
        name: Pipeline(Conv4(), head=ProtoNet()).to(device).train()
        for name in ("eager", "bf16", "compiled")
    }
    models["compiled"].encoder.compile()

    def step(name: str) -> Callable[[int], object]:
        model, weights = models[name], list(models[name].parameters())

        def run(i: int) -> None:
            with torch.autocast(device.partition(":")[0], torch.bfloat16, enabled=name == "bf16"):
                loss = model.loss(fixed, target)
            torch.autograd.grad(loss, weights)

        return run

    t = interleaved({name: step(name) for name in models}, 15, sync)
    return [
        (f"ProtoNet training step, {n} / eager", f"{t[n] / t['eager']:.2f}", "")
        for n in ("bf16", "compiled")
    ]


def disk() -> list[tuple[str, str, str]]:
    """A set that is larger than RAM, in a process of its own."""
    if not sys.platform.startswith("linux"):  # elsewhere a file of 16 GB would really be written
        return []
    code = [sys.executable, "-W", "ignore", "-m", "benchmarks.memory_map"]
    found = json.loads(subprocess.run(code, check=True, capture_output=True, text=True).stdout)
    return [
        (
            "drawing from 779,000 images in a file / in RAM",
            f"{found['disk'] / found['ram']:.2f}",
            "at least 0.5",
        ),
        ("... memory held meanwhile", f"{found['gb']:.2f} GB", "at most 2 GB"),
    ]


def evaluation(device: str, sync: Callable[[], None]) -> list[tuple[str, str, str]]:
    """ProtoNet on cached 640-d features, 5-way 1-shot 15-query: ours with sampling, easyfsl's on
    ready episodes.
    """
    from easyfsl.methods import PrototypicalNetworks

    split, count = features().to(device), 2000
    ours, loader = Pipeline(head=ProtoNet()), Episodes(split, Setting(5, 1, 15), device=device)
    theirs = PrototypicalNetworks(torch.nn.Identity()).to(device).eval()
    ready = []
    for i in range(200):
        episode, target = loader.batch([i])
        labels = episode.w[0, episode.support].argmax(-1)
        ready.append(
            (episode.x[0, episode.support], labels, episode.x[0, episode.query], target.query[0])
        )
    found: dict[str, float] = {}

    def run_ours(i: int) -> None:
        name, metric = loader.task.metric
        values = measured(ours, loader, count, {name: metric})[name]
        found["ours"] = float(values[:200].mean())

    def run_theirs(i: int) -> None:
        right = []
        with torch.no_grad():
            for support, labels, query, truth in ready:
                theirs.process_support_set(support, labels)
                right.append((theirs(query).argmax(-1) == truth).float().mean())
        found["theirs"] = float(torch.stack(right).mean())

    t = interleaved({"ours": run_ours, "theirs": run_theirs}, 5, sync)
    rates = {"ours": count / t["ours"], "theirs": len(ready) / t["theirs"]}
    return [
        (
            "ProtoNet evaluation, episodes/s / easyfsl's",
            f"{rates['ours'] / rates['theirs']:.1f}",
            "at least 2",
        ),
        ("ProtoNet evaluation, graphfsl, sampling included", f"{rates['ours']:,.0f} /s", ""),
        ("ProtoNet evaluation, easyfsl, episodes ready", f"{rates['theirs']:,.0f} /s", ""),
        (
            "accuracy on the same 200 episodes",
            f"{found['ours']:.4f} / {found['theirs']:.4f}",
            "equal",
        ),
    ]


def starting() -> list[tuple[str, str, str]]:
    """Seconds from process start to an answer."""

    def seconds(*code: str) -> float:
        times = []
        for _ in range(5):
            start = time.perf_counter()
            subprocess.run([sys.executable, *code], check=True, capture_output=True)
            times.append(time.perf_counter() - start)
        return min(times)

    own, torchs = (
        seconds("-W", "ignore", "-c", f"import {name}") for name in ("graphfsl", "torch")
    )
    return [
        ("graphfsl --help", f"{seconds('-m', 'graphfsl.cli.main', '--help'):.2f} s", "at most 1 s"),
        ("import graphfsl / import torch", f"{own / torchs:.2f}", "at most 1.3"),
        (
            "import of every layer / import torch",
            f"{seconds('-W', 'ignore', '-c', EVERYTHING) / torchs:.2f}",
            "",
        ),
    ]


def machine(device: str) -> dict[str, str]:
    """What the figures were measured on."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    gpu = {"gpu": torch.cuda.get_device_name(device)} if device.startswith("cuda") else {}
    return {
        "processor": processor(),
        "cores": str(
            len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        ),
        "threads": str(torch.get_num_threads()),
        "memory": f"{memory:.0f} GiB",
        **gpu,
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "commit": str(commit()),
        "when": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


def processor() -> str:
    """The processor's name, as the system tells it."""
    told = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.+)", told.read_text()) if told.is_file() else []
    return names[0] if names else platform.processor() or platform.machine()


def write(file: Path, facts: Mapping[str, str], rows: Iterable[tuple[str, str, str]]) -> None:
    """Print each row on a line of its own as soon as it is measured; then write them all, with the
    machine, as CSV.
    """
    print(", ".join(f"{k} {v}" for k, v in facts.items()))
    print(f"\n{'measured':>15}  {'wanted':<12}  what")
    lines = []
    for what, found, wanted in rows:
        print(f"{found:>15}  {wanted:<12}  {what}", flush=True)
        lines.append({"what": what, "measured": found, "wanted": wanted, **facts})
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="", encoding="utf-8") as out:
        writer = csv.DictWriter(out, ["what", "measured", "wanted", *facts], lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
    print(f"\n{file}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/bench.csv"), help="the CSV that is written"
    )
    parser.add_argument(
        "--only", default="", help="parts of the names of what is measured, such as heads,graphs"
    )
    asked = parser.parse_args()
    device = asked.device
    torch.manual_seed(0)
    reuse_freed_memory()
    sync = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    from benchmarks.generators import generators  # which measure with what stands here
    from benchmarks.graphs import graphs
    from benchmarks.heads import heads, refiners
    from benchmarks.maml import maml
    from benchmarks.pool import pools

    on_device = (training, formats, evaluation, heads, refiners, graphs, generators, maml)
    parts: dict[str, Callable[[], Iterable[tuple[str, str, str]]]] = {
        **{part.__name__: partial(part, device, sync) for part in on_device},
        **{part.__name__: part for part in (disk, pools, starting)},
    }
    names = [n for n in parts if not asked.only or any(word in n for word in asked.only.split(","))]
    if not names:
        parser.error(f"--only {asked.only}: nothing is called so; there is {', '.join(parts)}")
    write(asked.out, machine(device), (row for name in names for row in parts[name]()))


if __name__ == "__main__":
    main()
