"""What was measured: rows with all that a reader needs to trust them, results.json, the lines of
metrics.jsonl.
"""

from __future__ import annotations

import dataclasses
import json
import platform
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import graphfsl
from graphfsl.core.schema import make
from graphfsl.data import Setting
from graphfsl.experiment import config as conf
from graphfsl.experiment import pretraining
from graphfsl.experiment.builder import named
from graphfsl.functional.statistics import mean_and_ci95
from graphfsl.io.checkpoint import read_json, read_lines, write_json
from graphfsl.io.lock import held
from graphfsl.loops.evaluation import Result, percent
from graphfsl.loops.protocol import kind_of
from graphfsl.loops.trainer import Trainer


def full_row(
    config: Mapping[str, Any],
    result: Result,
    device: str,
    steps: int = 0,
    published: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """A results row: what was measured after `steps` of training, how, and beside which published
    number.
    """
    paper = find_published(published or [], result.setting, kind_of(result.learner, result.setting))
    row = {"method": method_name(config["learner"]), **result.row()}
    row |= {
        "config": conf.digest(config),
        "commit": commit(),
        "steps": steps,
        "paper_steps": (config.get("paper") or {}).get("steps"),
        "device": f"{device} ({platform.processor() or platform.machine()}, "
        f"{torch.get_num_threads()} threads)",
        "published": paper.get("accuracy"),
        "source": paper.get("source"),
        "difference": round(row["accuracy"] - paper["accuracy"], 2) if paper else None,
        "command": command_line(),
        "environment": environment(),
        "accuracies": [round(a, 6) for a in result.accuracies.tolist()],
    }
    return row


def method_name(learner: Mapping[str, Any]) -> str:
    """The parts of a `learner` section by name: "conv4 + protonet + soft_kmeans"."""
    entries = [
        (k, e) for k, v in learner.items() for e in (v if isinstance(v, (list, tuple)) else [v])
    ]
    return " + ".join(
        named(e, k)[0] for k, e in entries if isinstance(e, (str, Mapping)) and k != "batch_norm"
    )


def command_line() -> str | None:
    """The `graphfsl` command that this process runs; None in another program."""
    name = Path(sys.argv[0]).name
    return (
        shlex.join(["graphfsl", *sys.argv[1:]])
        if name in ("graphfsl", "graphfsl.exe", "cli.py")
        else None
    )


def environment() -> dict[str, str]:
    """What a number may depend on beside its configuration and commit."""
    versions = {
        "graphfsl": graphfsl.__version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
    }
    return {**versions, "platform": platform.platform(terse=True)}


def find_published(published: list[dict[str, Any]], setting: Setting, kind: str) -> dict[str, Any]:
    """The published number of this very setting, or {}; the number of queries may differ.

    kind: of the learner, as `kind_of` tells it; a number may be for one of them only.
    """
    keys = [f.name for f in dataclasses.fields(Setting) if f.name not in ("query", "label_seed")]
    own = [p for p in published if p.get("setting", kind) == kind]
    return next(
        (p for p in own if all(p.get(k, _DEFAULT[k]) == getattr(setting, k) for k in keys)), {}
    )


_DEFAULT = dataclasses.asdict(Setting())


def commit() -> str | None:
    """The commit of the checkout that the code runs from, with + where files differ; None where it
    is installed.
    """
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    command = ["git", "describe", "--always", "--abbrev=10", "--dirty=+", "--exclude=*"]
    try:
        return subprocess.run(
            command, cwd=root, capture_output=True, text=True, timeout=10, check=True
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def over_seeds(rows: Sequence[Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """The rows of several runs that differ in their seed -> one row a setting.

    accuracy: the mean over seeds, whose own accuracies are `seed_accuracies` and whose standard
        deviation is `spread`.
    ci95: of that mean over the episodes, which all seeds share; it says nothing of other seeds, as
        `spread` does.
    """
    out = []
    for same in zip(*rows, strict=True):
        each = [r["accuracy"] for r in same]
        per_episode = torch.tensor([r["accuracies"] for r in same], dtype=torch.float64).mean(0)
        row = {**same[0], **percent(*mean_and_ci95(per_episode))}
        if row["published"] is not None:
            row["difference"] = round(row["accuracy"] - row["published"], 2)
        row |= {
            "seeds": len(same),
            "spread": round(statistics.stdev(each), 3) if len(each) > 1 else None,
        }
        row |= {"seed_accuracies": each, "accuracies": [round(a, 6) for a in per_episode.tolist()]}
        out.append(row)
    return out


def write_results(
    path: Path, config: Mapping[str, Any], rows: list[dict[str, Any]], seconds: float
) -> None:
    """results.json: rows, configuration, wall time (of this command, and of all training) and where
    it ran.
    """
    trained = [lines[-1]["seconds"] for p in seed_runs(path) or [path] if (lines := history(p))]
    data = read_json(path / "data.json") if (path / "data.json").is_file() else {}
    before = pretraining.seconds(config, path.parent, data)
    value = {
        "rows": rows,
        "config": config,
        "seconds": round(seconds, 1),
        "training_seconds": round(sum(trained), 2),
        **({"pretraining_seconds": before} if before else {}),
        "when": time.strftime("%Y-%m-%d %H:%M:%S"),
        **environment(),
    }
    write_json(path / "results.json", value, new_folder=False)


def seed_runs(path: Path) -> list[Path]:
    """The run directories below that of `seeds=`, in the order of the seeds; none below that of one
    run.
    """
    found = [
        p.parent
        for p in path.glob("seed-*/config.json")
        if p.parent.name.removeprefix("seed-").isdigit()
    ]
    return sorted(found, key=lambda p: int(p.name.removeprefix("seed-")))


def history(path: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl; none where nothing was trained."""
    return read_lines(path / "metrics.jsonl")


def progress_of(path: Path, config: Mapping[str, Any]) -> str | None:
    """How far a run is whose training has not ended, and whether a process works on it; None where
    it has ended.
    """
    if any((path / name).is_file() for name in ("model.safetensors", "results.json")):
        return None
    state = (
        ("a process works on it")
        if held(path)
        else "it was interrupted, and the same `graphfsl run` goes on"
    )
    return (
        f"step {steps_so_far(path):,} of "
        f"{make(Trainer, config.get('trainer') or {}, 'trainer').steps:,}; {state}"
    )


def steps_so_far(path: Path) -> int:
    """The step that a training has reached by its metrics; 0 where they say nothing yet."""
    try:
        return int(
            json.loads((path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1])[
                "step"
            ]
        )
    except (OSError, IndexError, ValueError, KeyError):
        return 0
