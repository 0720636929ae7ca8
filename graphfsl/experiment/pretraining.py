"""Pretraining of an encoder on base classes, before episodes: done once for all runs in a folder
that share it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from graphfsl.core.pretrainer import Pretrainer
from graphfsl.data import Episodes, Split
from graphfsl.data.batches import Batches, partly_labeled
from graphfsl.data.identity import Identity, class_names, digest, identity
from graphfsl.experiment import config as conf
from graphfsl.experiment.builder import build_pretrainer, named
from graphfsl.functional.statistics import class_statistics
from graphfsl.io import distributed
from graphfsl.io.allocator import reuse_freed_memory
from graphfsl.io.checkpoint import (
    load_checkpoint,
    load_weights,
    read_lines,
    save_checkpoint,
    write_json,
)
from graphfsl.io.lock import locked
from graphfsl.loops.encode import encode_split
from graphfsl.loops.progress_bar import Log, silent
from graphfsl.loops.trainer import Trainer

Say = Callable[[str], None]


def decides(config: Mapping[str, Any]) -> dict[str, Any]:
    """What decides the weights of a pretraining, and nothing else."""
    entry, trainer = config["learner"]["encoder"], config.get("trainer") or {}
    data = conf.rootless(conf.pretraining_data(config))
    encoder = (
        {"name": entry}
        if isinstance(entry, str)
        else {k: v for k, v in entry.items() if k != "frozen"}
    )
    own = {k: v for k, v in config["pretrain"].items() if k != "augment"}
    precision = {k: v for k, v in trainer.items() if k == "precision"}
    found = {
        "data": data,
        "encoder": encoder,
        "pretrain": own,
        "seed": config.get("seed", 0),
        **precision,
    }
    weights = conf.weights_of(config)  # that it starts from
    return found if weights is None else {**found, "weights": weights}


def folder(
    config: Mapping[str, Any], runs: Path, data: Mapping[str, Identity] | None = None
) -> Path:
    """Where a pretraining lies among the runs: the same for all configurations that share it.

    data: the identity of each split that decides, by name; None for a folder of before they were
        looked at.
    """
    name = named(config["learner"]["encoder"], "learner.encoder")[0]
    what = decides(config)
    if data is not None:
        base = conf.base_split(config["data"])
        what["identity"] = [
            digest(data[split]) for split in (base, *(["val"] if base == "train" else []))
        ]
    return runs / f"pretrain-{name}-{conf.digest(what)}"


def place(config: Mapping[str, Any], runs: Path, data: Mapping[str, Identity]) -> Path:
    """`folder`; or one of before that does not say on what data it was trained, where its classes
    are these.
    """
    new, old = folder(config, runs, data), folder(config, runs)
    if new.is_dir() or not (old / "statistics.safetensors").is_file():
        return new
    classes = json.loads(load_checkpoint(old / "statistics.safetensors")[1].get("classes", "null"))
    return old if classes == class_names(data[conf.base_split(config["data"])]) else new


def identities(config: Mapping[str, Any], base: Split) -> dict[str, dict[str, Any]]:
    """The identity of each split that decides the weights of a training: the base split, and that
    which selects.
    """
    name = conf.base_split(config["data"])
    found = {name: identity(base)}
    return (
        found | {"val": identity(conf.load_split(config["data"], "val"))}
        if name == "train"
        else found
    )


def shown(config: Mapping[str, Any], base: Split) -> str:
    """The encoder, its objective and what it was trained on, in words."""
    encoder = named(config["learner"]["encoder"], "learner.encoder")[0]
    objective = named(config["pretrain"]["objective"], "pretrain.objective")[0]
    return (
        f"{encoder} by {objective} on {base.name} ({len(base.y):,} samples of "
        f"{len(base.classes):,} classes)"
    )


def check(config: Mapping[str, Any], base: Split) -> None:
    """InputError where the base split does not suffice, before anything is trained or written."""
    options = conf.pretraining(config)
    if options is not None:
        encoder = config["learner"].get("encoder")
        part = build_pretrainer(
            encoder, options.objective, base.shape, len(base.classes), device="meta"
        ).objective
        Batches(
            base,
            per_class=part.per_class,
            labeled_fraction=part.labeled_fraction,
            label_seed=part.label_seed,
        )
        conf.pretrainer(config).fabric()


def visible(config: Mapping[str, Any], base: Split) -> Tensor:
    """The labels of the base split (N,), -1 for those that either meta-training or pretraining must
    not see.
    """
    training = conf.setting(config, config.get("train_episode"), "train_episode")
    y = partly_labeled(base, training.labeled_fraction, training.label_seed).y
    if (options := conf.pretraining(config)) is not None:
        encoder = config["learner"].get("encoder")
        part = build_pretrainer(
            encoder, options.objective, base.shape, len(base.classes), device="meta"
        ).objective
        y = torch.minimum(y, partly_labeled(base, part.labeled_fraction, part.label_seed).y)
    return y


def seconds(config: Mapping[str, Any], runs: Path, data: Mapping[str, Identity]) -> float:
    """The wall time of a configuration's pretraining, of all its generations; 0 where there is
    none.
    """
    if config.get("pretrain") is None or conf.base_split(config["data"]) not in data:
        return 0.0
    path = place(config, runs, data)
    files = sorted(path.glob("generation-*/metrics.jsonl")) or [path / "metrics.jsonl"]
    return round(sum(lines[-1]["seconds"] for file in files if (lines := read_lines(file))), 2)


def pretrained(
    config: Mapping[str, Any],
    base: Split,
    runs: Path,
    log: Log | None = None,
    say: Say | None = None,
) -> dict[str, Tensor]:
    """The weights of the pretrained encoder; trained where this has not happened yet, or was
    interrupted.

    say: is told where they were found.
    The folder holds a run directory's files (of each generation) and statistics.safetensors, what
    later methods need of the base features: `mean` (d,), `class_means` (C, d) and
    `class_covariances` (C, d, d).
    """
    reuse_freed_memory()
    options = conf.pretraining(config)
    assert options is not None
    data = identities(config, base)
    path, trainer, teacher = place(config, runs, data), conf.pretrainer(config), None
    with locked(path, wait=True):
        if not distributed.rank() and path == folder(config, runs, data):
            write_json(path / "data.json", data)
        for generation in range(1, options.generations + 1):
            own = path / f"generation-{generation}" if options.generations > 1 else path
            if (
                say is not None
                and generation == options.generations
                and (own / "model.safetensors").is_file()
            ):
                unknown = (
                    ""
                    if (path / "data.json").is_file()
                    else "; it does not say on which images, only their classes"
                )
                say(f"found the pretraining of {shown(config, base)}: {path}{unknown}")
            model = _generation(config, base, own, trainer, teacher, log)
            teacher = model.eval()
        _keep_statistics(model, base, config, path)
    return {k: v.cpu() for k, v in model.encoder.state_dict().items()}


def _generation(
    config: Mapping[str, Any],
    base: Split,
    path: Path,
    trainer: Trainer,
    teacher: Pretrainer | None,
    log: Log | None,
) -> Pretrainer:
    seed = config.get("seed", 0)
    torch.manual_seed(seed)
    encoder, objective = config["learner"]["encoder"], config["pretrain"]["objective"]
    model = build_pretrainer(encoder, objective, base.shape, len(base.classes))
    device, done = trainer.fabric().device, path / "model.safetensors"
    model.to(device)
    if teacher is not None:
        model.objective.teacher = teacher.to(device).classify
    if done.is_file():
        load_weights(model, load_checkpoint(done)[0], done)
        return model
    transform = conf.transform(conf.pretraining_data(config))
    part = model.objective
    labels = (part.labeled_fraction, part.label_seed)
    batches = Batches(base, seed, transform, device, part.per_class, part.views, *labels)
    check = None
    if conf.base_split(config["data"]) == "train":
        val = conf.load_split(config["data"], "val")
        check = Episodes(val, conf.setting(config), seed, transform.plain(), device)
    if not distributed.rank():
        write_json(path / "config.json", decides(config))
    trainer.fit(model, batches, check, path, seed, log or silent)
    if not distributed.rank():
        save_checkpoint(done, model.state_dict(), {"step": trainer.steps})
    return model


def _keep_statistics(model: Pretrainer, base: Split, config: Mapping[str, Any], path: Path) -> None:
    file = path / "statistics.safetensors"
    if file.is_file() or distributed.rank():
        return
    part = model.objective
    base = partly_labeled(base, part.labeled_fraction, part.label_seed)
    features = encode_split(model.eval(), base, conf.transform(config["data"]))
    found = class_statistics(features.x, features.y.to(features.x.device), len(base.classes))
    names = ("mean", "class_means", "class_covariances")
    save_checkpoint(
        file, dict(zip(names, found, strict=True)), {"classes": json.dumps(base.classes)}
    )
