"""The trained learner of a run directory, from its configuration and its checkpoint."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch

from graphfsl.core.learner import Learner
from graphfsl.core.pipeline import Pipeline
from graphfsl.experiment.builder import build_learner, comes_complete
from graphfsl.experiment.encoders import brings_weights
from graphfsl.experiment.experiment import Experiment
from graphfsl.experiment.learner_spec import LearnerSpec
from graphfsl.io.checkpoint import load_checkpoint, load_weights
from graphfsl.io.errors import InputError
from graphfsl.nn.weights import without_reading


def trained_learner(
    path: Path, experiment: Experiment, shape: tuple[int, ...], way: int, unfinished: str | None
) -> tuple[Learner, int]:
    """The learner of a run in evaluation mode, and the training steps of its weights.

    Args:
        path: the directory.
        experiment: as it was run.
        shape: of a sample.
        way: the number of classes that it was built for.
        unfinished: how far its training is, where it has not ended; then these are its best weights
            so far, with a warning.

    Raises:
        InputError: where there are no weights, or they are damaged.
    """
    with torch.random.fork_rng(devices=[]):
        # a frozen encoder without pretrained weights is what the seed makes
        torch.manual_seed(experiment.seed)
        learner = _rebuilt(experiment.learner, shape, way, path / "model.safetensors")
    file = path / "model.safetensors"
    complete = (
        not file.is_file()
        and experiment.pretraining is None
        and comes_complete(experiment.learner, learner)
    )
    if not file.is_file() and (path / "best.safetensors").is_file():
        file = path / "best.safetensors"
    elif unfinished is not None and not complete:
        raise InputError(
            f"the training of {path} has not ended, and there are no weights yet ({unfinished})"
        )
    tensors, saved = (learner.state_dict(), {}) if complete else load_checkpoint(file)
    if unfinished is not None and not complete:
        warnings.warn(
            f"the training of {path} has not ended ({unfinished}): these are its best weights so "
            f"far, of step "
            f"{saved.get('step', 0):,}",
            stacklevel=3,
        )
    if isinstance(learner, Pipeline) and learner.frozen:  # training may have seen its features only
        tensors = {
            k: v for k, v in learner.state_dict().items() if k.startswith("encoder.")
        } | tensors
    load_weights(learner, tensors, file)
    return learner.eval(), saved.get("step", 0)


def saved_learner(
    file: Path, learner: Learner | None
) -> tuple[Learner, Experiment, dict[str, Any]]:
    """Read a learner that `Learner.save` wrote.

    It comes in evaluation mode, with what is known of its experiment and the facts beside its
    weights.

    Args:
        file: that it wrote.
        learner: what takes the weights, for a learner that `graphfsl.build` did not make.

    Raises:
        InputError: where a learner is needed, where one is given that is not, where the weights do
            not fit, and where the file is damaged.
    """
    tensors, facts = load_checkpoint(file)
    section, shape, way = facts["learner"], tuple(facts["shape"]), facts["way"]
    if section is None and learner is None:
        raise InputError(
            f"the learner in {file.parent} was put together in Python; put another together in "
            f"the same way, and load "
            "it with graphfsl.load(directory, learner=...)"
        )
    data = {"name": None, "mean": facts["mean"], "std": facts["std"]}
    experiment = Experiment.of_saved({"data": data, "learner": section or {}}, shape, way)
    if learner is None:
        learner = _rebuilt(experiment.learner, shape, way, file)
    load_weights(learner, tensors, file)
    return learner.eval(), experiment, facts


def _rebuilt(spec: LearnerSpec, shape: tuple[int, ...], way: int, file: Path) -> Learner:
    """The learner, even where what it came with is gone.

    A file of weights, or the hub, may be, where the checkpoint holds all of it.
    """
    try:
        return build_learner(spec, shape, way)
    except InputError:
        if not file.is_file() or not brings_weights(spec.encoder):
            raise
        with without_reading():
            learner = build_learner(spec, shape, way)
        if not learner.state_dict().keys() <= load_checkpoint(file)[0].keys():
            raise
        return learner
