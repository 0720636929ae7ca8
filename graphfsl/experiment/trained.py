"""The trained learner of a run directory, from its configuration and its checkpoint."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from graphfsl.core.learner import Learner
from graphfsl.core.pipeline import Pipeline
from graphfsl.experiment.builder import build_learner, comes_complete, learned_by_rule
from graphfsl.experiment.encoders import brings_weights
from graphfsl.experiment.experiment import Experiment
from graphfsl.experiment.learner_spec import LearnerSpec
from graphfsl.experiment.results import history
from graphfsl.io.checkpoint import load_checkpoint, load_weights
from graphfsl.io.errors import InputError, require
from graphfsl.loops.training_state import kept_files, validations
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
    learner = _seeded(experiment, shape, way, path / "model.safetensors")
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
    _take(learner, tensors, file)
    return learner.eval(), saved.get("step", 0)


def kept_learners(
    path: Path, experiment: Experiment, shape: tuple[int, ...], way: int
) -> list[tuple[Learner, int]]:
    """The learners of a run's best validations in evaluation mode, each with its training steps.

    There are as many as the run kept, see `trainer.keep_best`; one or none make no ensemble. None
    are given where files of them are missing: results may be kept without them.

    Args:
        path: the directory.
        experiment: as it was run.
        shape: of a sample.
        way: the number of classes that it was built for.

    Raises:
        InputError: where one is damaged.
    """
    files = kept_files(path)
    if len(files) < min(experiment.trainer.keep_best, len(validations(history(path)))):
        return []
    found = []
    for file in files:
        learner = _seeded(experiment, shape, way, file)
        tensors, saved = load_checkpoint(file)
        _take(learner, tensors, file)
        found.append((learner.eval(), int(saved["step"])))
    return found


def _seeded(experiment: Experiment, shape: tuple[int, ...], way: int, file: Path) -> Learner:
    """The learner as its training began; `file` holds weights, for where others are gone."""
    with torch.random.fork_rng(devices=[]):
        # a frozen encoder without pretrained weights is what the seed makes
        torch.manual_seed(experiment.seed)
        return _rebuilt(experiment.learner, shape, way, file)


def _take(learner: Learner, tensors: dict[str, Tensor], file: Path) -> None:
    """Load weights of a training, which may have seen the features of a frozen encoder only."""
    if isinstance(learner, Pipeline) and learner.frozen:
        own = learner.state_dict()
        tensors = {k: v for k, v in own.items() if k.startswith("encoder.")} | tensors
    load_weights(learner, tensors, file)


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


def take_weights(
    learner: Learner, trained: Learner, where: Path, untrained_rule: bool = False
) -> int:
    """Give a learner the weights of a trained one, which may have another inner loop or none.

    All weights of the network must be there and fit. A rule's own go with them where both inner
    loops are of one kind.

    Args:
        learner: what takes them.
        trained: whose they are.
        where: the run, for messages.
        untrained_rule: leave the rule of `learner` as it was made.

    Returns:
        How many numbers the rule of `trained` learned that `learner` does not take.

    Raises:
        InputError: for weights that do not fit, and for a rule that nobody trained, unless that is
            asked for.
    """
    given, own = trained.state_dict(), learner.state_dict()
    same_kind = type(learner) is type(trained)
    if same_kind and not untrained_rule:
        load_weights(learner, given, where)
        return 0
    left_out, as_made = learned_by_rule(trained), learned_by_rule(learner)
    require(
        untrained_rule or not as_made,
        f"the rule of {type(learner).__name__} learns, and this run did not train it; set "
        "evaluation.untrained_rule=true to take it as a training would begin, or choose a rule "
        "that does not learn, such as that of maml",
    )
    network = {_inside(name, trained): t for name, t in given.items() if name not in left_out}
    names = {_inside(name, learner): name for name in own if name not in as_made}
    for loop, inside in ((trained, network), (learner, names)):
        around = next((name for name in inside if name in loop.state_dict()), None)
        require(
            same_kind or not loop.adapts or around is None,
            f"{type(loop).__name__} reads {around!r} in place of weights of the network, which no "
            "other inner loop does; evaluate with the one that was trained",
        )
    taken = {names.get(name, name): tensor for name, tensor in network.items()}
    load_weights(learner, taken | {name: own[name] for name in as_made}, where)
    return sum(given[name].numel() for name in left_out)


def _inside(name: str, learner: Learner) -> str:
    """A tensor's name in the innermost learner; that of one around it stays as it is."""
    modules = learner.named_modules()
    prefix = next(f"{path}." for path, module in modules if module is learner.innermost)
    return name.removeprefix(prefix)
