"""A run directory from a configuration: train, keep the best, evaluate, write results.json."""

from __future__ import annotations

import dataclasses
import json
import platform
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import graphfsl
from graphfsl import config as conf
from graphfsl import data
from graphfsl.adapt import Adapt
from graphfsl.batchnorm import BatchNorm
from graphfsl.checkpoint import load_checkpoint, load_weights, read_json, save_checkpoint, write_json
from graphfsl.data import Episodes, Sampler, Setting, Split, Transform
from graphfsl.data.sampler import keys_of
from graphfsl.errors import InputError
from graphfsl.evaluation import Result, check_protocol, encode_once, encode_split, evaluate, nodes
from graphfsl.learner import Learner, Pipeline
from graphfsl.memory import reuse_freed_memory
from graphfsl.train import Log, Trainer

Say = Callable[[str], None]


@dataclass
class Run:
    """A configuration, its directory, and what was built from them."""

    config: dict[str, Any]
    path: Path
    learner: Learner
    transform: Transform
    shape: tuple[int, ...]
    way: int
    steps: int = 0
    ink: bool = False  # samples are drawings, bright on dark

    @property
    def trainer(self) -> Trainer:
        return conf.make(Trainer, self.config.get("trainer") or {}, "trainer")


def statistics(split: Split) -> dict[str, list[float]]:
    """Mean and standard deviation of each channel over at most 10,000 of the base images, in [0, 1]."""
    x = split.x[:: -(-len(split.x) // 10000)].double() / 255
    return {
        "mean": [round(v, 4) for v in x.mean((0, 2, 3)).tolist()],
        "std": [round(v, 4) for v in x.std((0, 2, 3)).tolist()],
    }


def prepare(config: dict[str, Any], path: Path) -> tuple[Run, Split]:
    """Load the base split, fill in the normalisation, build the learner; `path` then holds config.json.

    A directory that holds another configuration is refused.
    """
    base = conf.load_split(config["data"], conf.base_split(config["data"]))
    if base.x.ndim == 4 and config["data"].get("mean") is None:
        config = {**config, "data": {**config["data"], **statistics(base)}}
    training = conf.setting(config, config.get("train_episode"), "train_episode")
    torch.manual_seed(config.get("seed", 0))
    learner = conf.build(config["learner"], base.shape, training.way)
    run = Run(config, path, learner, conf.transform(config["data"]), base.shape, training.way)
    run.ink = data.is_ink(config["data"]["name"])
    _check_feasible(run, base, training)
    saved = path / "config.json"
    if saved.is_file() and _comparable(read_json(saved)["config"]) != _comparable(config):
        raise InputError(f"{path} holds a run of another configuration; choose another --out, or remove it")
    facts = {"shape": list(base.shape), "way": training.way, "ink": run.ink}
    write_json(saved, {"version": graphfsl.__version__, **facts, "config": config})
    return run, base


def _check_feasible(run: Run, base: Split, training: Setting) -> None:
    """InputError before anything is trained or written, where a split is missing or too small for its setting."""
    config, trains = run.config, any(p.requires_grad for p in run.learner.parameters())
    if run.learner.wants_base and getattr(run.learner, "batch_norm", "running") != "running":
        raise InputError("a part learns from base features, which have no episode; set learner.batch_norm=running")
    options = conf.evaluation(config)
    settings = [conf.setting(config, s) for s in options.settings]
    checks = [(conf.load_split(config["data"], options.split), s) for s in settings]
    if trains:
        run.trainer.fabric()
        checks.append((base, training))
        if conf.base_split(config["data"]) == "train":
            checks.append((conf.load_split(config["data"], "val"), conf.setting(config)))
    for split, setting in checks:
        if split.shape != run.shape:
            raise InputError(f"{base.name} holds samples of shape {run.shape}, but {split.name} {split.shape}")
        Sampler(split, setting)
        check_protocol(run.learner, setting)


def _comparable(config: Mapping[str, Any]) -> dict[str, Any]:
    """What decides the weights: where the data lies, on what it is computed and what is evaluated do not."""
    out = {k: v or {} for k, v in config.items() if k not in ("evaluation", *conf.NOTES)}
    trainer = {k: v for k, v in out.get("trainer", {}).items() if k != "device"}
    return {**out, "data": _rootless(config["data"]), "trainer": trainer}


def _rootless(section: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in section.items() if k != "root"}


def cost(run: Run, train: Split) -> str:
    """One line: what the run is going to take."""
    trainer, s = run.trainer, conf.setting(run.config, run.config.get("train_episode"), "train_episode")
    parameters = sum(p.numel() for p in run.learner.parameters())
    return (
        f"{parameters:,} parameters; {len(train.x):,} samples of {len(train.classes):,} base classes; "
        f"{trainer.steps:,} steps of {trainer.batch * nodes(s):,} samples"
    )


def train(run: Run, base: Split, log: Log | None = None) -> Run:
    """Meta-train on base classes, select on validation classes, fit what needs base features, save the model."""
    reuse_freed_memory()
    config, seed = run.config, run.config.get("seed", 0)
    done = run.path / "model.safetensors"
    if done.is_file():
        return dataclasses.replace(load(run.path), config=config)
    trainer = run.trainer
    if any(p.requires_grad for p in run.learner.parameters()):
        device = trainer.fabric().device
        training = conf.setting(config, config.get("train_episode"), "train_episode")
        episodes = Episodes(base, training, seed, run.transform, device)
        val = None
        if conf.base_split(config["data"]) == "train":
            validation = conf.load_split(config["data"], "val")
            val = Episodes(validation, conf.setting(config), seed, run.transform.plain(), device)
        metrics = trainer.fit(run.learner, episodes, val, run.path, seed, log)
        best = max((m for m in metrics if "val" in m), key=lambda m: m["val"], default=None)
        run.steps = best["step"] if best else trainer.steps
    torch.manual_seed(int(keys_of("fit_base", seed, np.zeros(1))[0] >> np.uint64(1)))
    fit_base(run.learner, base, run.transform)
    save_checkpoint(done, run.learner.state_dict(), {"step": run.steps})
    return run


def fit_base(learner: Learner, base: Split, transform: Transform) -> None:
    """Give base-class features to the parts that learn from them."""
    net = learner.net if isinstance(learner, Adapt) else learner
    if learner.wants_base and isinstance(net, Pipeline):
        features = encode_split(net, base, transform)
        labeled = features.y >= 0
        net.fit_base(features.x[labeled.to(features.x.device)], features.y[labeled].to(features.x.device))


def load(path: str | Path) -> Run:
    """A trained run, from its directory."""
    path = Path(path)
    facts = read_json(path / "config.json")
    try:
        config, shape, way = facts["config"], tuple(facts["shape"]), facts["way"]
    except (KeyError, TypeError):
        raise InputError(f"{path / 'config.json'} is not from a graphfsl run") from None
    if facts.get("version", "0").split(".")[0] != graphfsl.__version__.split(".")[0]:
        raise InputError(f"{path} was written by graphfsl {facts.get('version')}; this is {graphfsl.__version__}")
    conf.check(config)
    learner = conf.build(config["learner"], shape, way)
    file = path / "model.safetensors"
    if not file.is_file() and (path / "best.safetensors").is_file():
        file = path / "best.safetensors"
    tensors, saved = load_checkpoint(file)
    load_weights(learner, tensors, file)
    learner.eval()
    return Run(
        config, path, learner, conf.transform(config["data"]), shape, way, saved.get("step", 0), bool(facts.get("ink"))
    )


def evaluate_run(run: Run, changes: Sequence[str] = (), say: Say | None = None) -> list[dict[str, Any]]:
    """Rows of every setting in the `evaluation` section; `changes` are overrides such as episode.way=20.

    With an override of `episode`, the one setting that it makes is evaluated in place of the listed ones. With one
    of `data.name`, the other options of that data set start from its own defaults. With one of `learner`, the
    trained weights must fit the learner that it makes.
    """
    reuse_freed_memory()
    config = conf.merge(_other_data(run, changes), changes)
    options = conf.evaluation(config)
    one = any(c.startswith("episode.") for c in changes)
    settings = [conf.setting(config, s) for s in ([{}] if one else options.settings)]
    split = conf.load_split(config["data"], options.split)
    if split.shape != run.shape:
        raise InputError(f"the run takes samples of shape {run.shape}, but {split.name} holds {split.shape}")
    learner = run.learner
    if config["learner"] != run.config["learner"]:
        learner = conf.build(config["learner"], run.shape, run.way)
        load_weights(learner, run.learner.state_dict(), run.path)
    # A published number is for its own learner, data set and test split.
    same = config["learner"] == run.config["learner"] and _rootless(config["data"]) == _rootless(run.config["data"])
    published = config.get("published") if same and options.split == "test" else None
    if run.steps and getattr(learner, "batch_norm", None) == "running" and not _has_averages(learner):
        raise InputError("this run stored no BatchNorm averages; set learner.batch_norm=support, apart or joint")
    for s in settings:
        check_protocol(learner, s)
    device = conf.make(Trainer, config.get("trainer") or {}, "trainer").fabric().device
    images = options.episodes * sum(nodes(s) for s in settings)
    learner, split = encode_once(learner.to(device), split, run.transform, images)
    rows = []
    for s in settings:
        result = evaluate(learner, split, s, options.episodes, options.seed, run.transform, options.block, device)
        rows.append(full_row(run, config, result, str(device), published))
        if say:
            say(str(result))
    return rows


def _has_averages(learner: Learner) -> bool:
    norms = [m for m in learner.modules() if isinstance(m, BatchNorm) and m.num_batches_tracked is not None]
    return all(bool(m.num_batches_tracked) for m in norms)


def _other_data(run: Run, changes: Sequence[str]) -> dict[str, Any]:
    """The run's configuration, its data section made ready for another data set where the changes name one."""
    name = next((c.partition("=")[2] for c in changes if c.startswith("data.name=")), None)
    section = run.config["data"]
    if name is None or name == section["name"]:
        return run.config
    kept = {k: section[k] for k in ("mean", "std", "augment") if k in section}
    known = conf.signature(data.loader(name))
    sized = {"size": run.shape[-1], "color": run.shape[0] == 3} if len(run.shape) == 3 else {}
    return {**run.config, "data": kept | {"name": name} | {k: v for k, v in sized.items() if k in known}}


def full_row(
    run: Run, config: Mapping[str, Any], result: Result, device: str, published: list[dict[str, Any]] | None = None
) -> dict[str, Any]:
    """A results row: what was measured, how, and beside which published number."""
    learner = config["learner"]
    named = {k: conf.named(v, k)[0] for k, v in learner.items() if isinstance(v, (str, Mapping)) and k != "batch_norm"}
    paper = find_published(published or [], result.setting)
    row = {"method": " + ".join(named.values()), **result.row()}
    row |= {
        "config": conf.digest(config),
        "commit": commit(),
        "steps": run.steps,
        "paper_steps": (config.get("paper") or {}).get("steps"),
        "device": f"{device} ({platform.processor() or platform.machine()}, {torch.get_num_threads()} threads)",
        "published": paper.get("accuracy"),
        "source": paper.get("source"),
        "difference": round(row["accuracy"] - paper["accuracy"], 2) if paper else None,
        "accuracies": [round(a, 6) for a in result.accuracies.tolist()],
    }
    return row


def find_published(published: list[dict[str, Any]], setting: Setting) -> dict[str, Any]:
    """The published number of this very setting, or {}; the number of queries may differ."""
    keys = [f.name for f in dataclasses.fields(Setting) if f.name not in ("query", "label_seed")]
    return next((p for p in published if all(p.get(k, _DEFAULT[k]) == getattr(setting, k) for k in keys)), {})


_DEFAULT = dataclasses.asdict(Setting())


def commit() -> str | None:
    """The commit of the checkout that the code runs from, with + where files differ; None where it is installed."""
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return None
    command = ["git", "describe", "--always", "--abbrev=10", "--dirty=+", "--exclude=*"]
    try:
        return subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def results(run: Run, rows: list[dict[str, Any]], seconds: float) -> None:
    """results.json: rows, configuration, wall time (of this command, and of all training) and where it ran."""
    trained = history(run.path)
    value = {
        "rows": rows,
        "config": run.config,
        "seconds": round(seconds, 1),
        "training_seconds": trained[-1]["seconds"] if trained else 0.0,
        "when": time.strftime("%Y-%m-%d %H:%M:%S"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "graphfsl": graphfsl.__version__,
    }
    write_json(run.path / "results.json", value)


def history(path: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl."""
    file = path / "metrics.jsonl"
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.is_file() else []
