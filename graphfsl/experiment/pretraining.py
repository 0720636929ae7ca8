"""Pretraining of an encoder on base classes, before episodes.

It is done once for all runs in a folder that share it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from graphfsl.core.learner import Objective
from graphfsl.core.pretrainer import Pretrainer
from graphfsl.data import Episodes, Split
from graphfsl.data.batches import Batches, partly_labeled
from graphfsl.data.identity import Identity, class_names, identity
from graphfsl.data.identity import digest as identity_digest
from graphfsl.experiment.builder import build_pretrainer
from graphfsl.experiment.experiment import Experiment, digest
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

Say = Callable[[str], None]


def folder(experiment: Experiment, runs: Path, data: Mapping[str, Identity] | None = None) -> Path:
    """Where a pretraining lies among the runs: the same for all configurations that share it.

    Args:
        experiment: with a section `pretrain`.
        runs: the folder of the runs.
        data: the identity of each split that decides, by name; None for a folder of before they
            were looked at.
    """
    what = experiment.pretraining_facts()
    if data is not None:
        source = experiment.data
        splits = (source.base, *(["val"] if experiment.selects else []))
        what["identity"] = [identity_digest(data[split]) for split in splits]
    assert experiment.learner.encoder is not None
    return runs / f"pretrain-{experiment.learner.encoder.name}-{digest(what)}"


def place(experiment: Experiment, runs: Path, data: Mapping[str, Identity]) -> Path:
    """The folder of a pretraining: `folder`, or one of an earlier version.

    That does not say on what data it was trained; it is taken where its classes are these.
    """
    new, old = folder(experiment, runs, data), folder(experiment, runs)
    if new.is_dir() or not (old / "statistics.safetensors").is_file():
        return new
    classes = json.loads(load_checkpoint(old / "statistics.safetensors")[1].get("classes", "null"))
    return old if classes == class_names(data[experiment.data.base]) else new


def identities(experiment: Experiment, base: Split) -> dict[str, dict[str, Any]]:
    """The identity of each split that decides the weights of a training.

    It is the base split, and that which selects.
    """
    source = experiment.data
    found = {source.base: identity(base)}
    return found | {"val": identity(source.split("val"))} if experiment.selects else found


def shown(experiment: Experiment, base: Split) -> str:
    """What an encoder was pretrained by and on, in words."""
    assert experiment.learner.encoder is not None and experiment.pretraining is not None
    return (
        f"{experiment.learner.encoder.name} by {experiment.pretraining.objective.name} on "
        f"{base.name} ({len(base.y):,} samples of {len(base.classes):,} classes)"
    )


def check(experiment: Experiment, base: Split) -> None:
    """Refuse a pretraining that the base split does not suffice for, before anything is written.

    Raises:
        InputError: says what it lacks.
    """
    if experiment.pretraining is not None:
        part = _objective(experiment, base)
        Batches(
            base,
            per_class=part.per_class,
            labeled_fraction=part.labeled_fraction,
            label_seed=part.label_seed,
        )
        experiment.pretraining.trainer.fabric()


def _objective(experiment: Experiment, base: Split) -> Objective:
    """The objective, without memory or time."""
    assert experiment.pretraining is not None
    encoder, objective = experiment.learner.encoder, experiment.pretraining.objective
    return build_pretrainer(
        encoder, objective, base.shape, len(base.classes), device="meta"
    ).objective


def visible(experiment: Experiment, base: Split) -> Tensor:
    """The labels of the base split (N,), -1 for those that training must not see.

    Both meta-training and pretraining may hide some.
    """
    asked = experiment.train_task.demands
    y = partly_labeled(base, asked.labeled_fraction, asked.label_seed).y
    if experiment.pretraining is not None:
        part = _objective(experiment, base)
        y = torch.minimum(y, partly_labeled(base, part.labeled_fraction, part.label_seed).y)
    return y


def seconds(experiment: Experiment, runs: Path, data: Mapping[str, Identity]) -> float:
    """The wall time of an experiment's pretraining, of all its generations; 0 without one."""
    if experiment.pretraining is None or experiment.data.base not in data:
        return 0.0
    path = place(experiment, runs, data)
    files = sorted(path.glob("generation-*/metrics.jsonl")) or [path / "metrics.jsonl"]
    total: float = sum(lines[-1]["seconds"] for file in files if (lines := read_lines(file)))
    return round(total, 2)


def pretrained(
    experiment: Experiment,
    base: Split,
    runs: Path,
    log: Log | None = None,
    say: Say | None = None,
) -> dict[str, Tensor]:
    """The weights of the pretrained encoder, on the CPU.

    It is trained where this has not happened yet, or was interrupted. The folder holds a run
    directory's files, of several generations each in a folder of its own, and
    statistics.safetensors of the base features: `mean` (d,), `class_means` (C, d) and
    `class_covariances` (C, d, d).

    Args:
        experiment: with a section `pretrain`.
        base: the split of base classes.
        runs: the folder that the pretraining's own lies in.
        log: called with each line of metrics.
        say: called with a line that names the folder, if the encoder was trained before.
    """
    reuse_freed_memory()
    options = experiment.pretraining
    assert options is not None
    data = identities(experiment, base)
    path, teacher = place(experiment, runs, data), None
    with locked(path, wait=True):
        # a folder of an earlier version, which did not note its data, stays as it is
        if not distributed.rank() and path == folder(experiment, runs, data):
            write_json(path / "data.json", data)
        for generation in range(1, options.generations + 1):
            own = path / f"generation-{generation}" if options.generations > 1 else path
            last = generation == options.generations
            if say is not None and last and (own / "model.safetensors").is_file():
                say(_found(experiment, base, path))
            model = _train_or_load(experiment, base, own, teacher, log)
            teacher = model.eval()
        _keep_statistics(model, base, experiment, path)
    return {k: v.cpu() for k, v in model.encoder.state_dict().items()}


def _found(experiment: Experiment, base: Split, path: Path) -> str:
    """What is said of a pretraining that was done before."""
    said = f"found the pretraining of {shown(experiment, base)}: {path}"
    if (path / "data.json").is_file():
        return said
    return f"{said}; it does not say on which images, only their classes"


def _train_or_load(
    experiment: Experiment,
    base: Split,
    path: Path,
    teacher: Pretrainer | None,
    log: Log | None,
) -> Pretrainer:
    """One generation of the encoder and its objective, trained unless that is done."""
    options, seed, source = experiment.pretraining, experiment.seed, experiment.data
    assert options is not None
    trainer = options.trainer
    torch.manual_seed(seed)
    encoder, objective = experiment.learner.encoder, options.objective
    model = build_pretrainer(encoder, objective, base.shape, len(base.classes))
    device, done = trainer.fabric().device, path / "model.safetensors"
    model.to(device)
    if teacher is not None:
        model.objective.teacher = teacher.to(device).classify
    if done.is_file():
        load_weights(model, load_checkpoint(done)[0], done)
        return model
    transform = options.data.transform
    part = model.objective
    labels = (part.labeled_fraction, part.label_seed)
    batches = Batches(base, seed, transform, device, part.per_class, part.views, *labels)
    check = None
    if experiment.selects:
        check = Episodes(source.split("val"), experiment.task, seed, transform.plain(), device)
    if not distributed.rank():
        write_json(path / "config.json", experiment.pretraining_facts())
    trainer.fit(model, batches, check, path, seed, log or silent)
    if not distributed.rank():
        save_checkpoint(done, model.state_dict(), {"step": trainer.steps})
    return model


def _keep_statistics(model: Pretrainer, base: Split, experiment: Experiment, path: Path) -> None:
    """What later methods need of the base features."""
    file = path / "statistics.safetensors"
    if file.is_file() or distributed.rank():
        return
    part = model.objective
    base = partly_labeled(base, part.labeled_fraction, part.label_seed)
    features = encode_split(model.eval(), base, experiment.data.transform)
    found = class_statistics(features.x, features.y.to(features.x.device), len(base.classes))
    names = ("mean", "class_means", "class_covariances")
    save_checkpoint(
        file, dict(zip(names, found, strict=True)), {"classes": json.dumps(base.classes)}
    )
