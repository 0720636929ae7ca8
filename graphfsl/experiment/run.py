"""A run directory from an experiment: train, keep the best, evaluate, write results.json."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import graphfsl
from graphfsl import data
from graphfsl.core.arguments import A_FOLDER, check_kind
from graphfsl.core.batchnorm import BatchNorm, lacks_averages
from graphfsl.core.compute import of_an_image
from graphfsl.core.display import block
from graphfsl.core.encoder import own_normalisation
from graphfsl.core.learner import Augment, Learner, Part
from graphfsl.core.pipeline import Pipeline
from graphfsl.core.protocol import check_protocol
from graphfsl.core.registry import snake
from graphfsl.core.saving import FILE, Training
from graphfsl.core.schema import check_options
from graphfsl.core.task import Metric, Task
from graphfsl.data import Episodes, Split, Transform, channel_statistics
from graphfsl.data.streams import keys_of
from graphfsl.experiment.builder import build_learner, warn_of_untrained
from graphfsl.experiment.data_source import Splits
from graphfsl.experiment.experiment import Experiment
from graphfsl.experiment.pretraining import Say, identities, pretrained, visible
from graphfsl.experiment.pretraining import check as check_pretraining
from graphfsl.experiment.pretraining import place as pretraining_place
from graphfsl.experiment.results import progress_of, seed_runs
from graphfsl.experiment.same_run import check_same, check_weights, identities_of
from graphfsl.experiment.trained import saved_learner, trained_learner
from graphfsl.io import distributed
from graphfsl.io.allocator import reuse_freed_memory
from graphfsl.io.checkpoint import (
    FORMAT,
    check_format,
    read_json,
    save_checkpoint,
    write_json,
)
from graphfsl.io.errors import InputError, require
from graphfsl.loops.encode import encode_split, encoding_device
from graphfsl.loops.feature_cache import cached_features
from graphfsl.loops.progress_bar import Log, silent
from graphfsl.loops.trainer import Trainer
from graphfsl.loops.training_state import validations


@dataclass
class Run:
    """An experiment, its directory, and what was built from them.

    Args:
        experiment: as it is run.
        path: the directory.
        learner: built by the experiment.
        shape: of a sample.
        way: classes of a training episode.
        steps: of the training that is done.
        ink: whether samples are drawings, bright on dark.
        unfinished: how far its training is, where that has not ended.
        classes: the names of the base classes, where they were saved with a learner.
    """

    experiment: Experiment
    path: Path
    learner: Learner
    shape: tuple[int, ...]
    way: int
    steps: int = 0
    ink: bool = False
    unfinished: str | None = None
    classes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        facts = {
            "data": self.experiment.data.name,
            "samples": self.shape,
            "trained": f"{self.steps:,} steps of {self.way}-way episodes" if self.steps else "",
            "so far": self.unfinished,
        }
        return f"{block(f'Run {self.path}', facts)}\n{self.learner!r}"

    @property
    def transform(self) -> Transform:
        """Normalisation and training augmentation."""
        return self.experiment.data.transform

    @property
    def trainer(self) -> Trainer:
        """The options of its training."""
        return self.experiment.trainer

    @property
    def trains(self) -> bool:
        """Whether there is anything that training would change."""
        return any(p.requires_grad for p in self.learner.parameters())

    @property
    def has_averages(self) -> bool:
        """Whether images can be encoded alone: BatchNorm's averages are of the trained weights."""
        if isinstance(self.learner, Pipeline) and self.learner.frozen:
            return not lacks_averages(self.learner.encoder)
        if self.trains and self.learner.batch_norm != "running":
            return not any(isinstance(m, BatchNorm) for m in self.learner.modules())
        return not lacks_averages(self.learner)


def normalised(experiment: Experiment, learner: Learner, base: Split) -> Experiment:
    """The experiment with the normalisation of images filled in.

    It is the encoder's own, or that of the base images. A warning tells where `data` names another
    one than the encoder's.
    """
    if base.x.ndim != 4:
        return experiment
    own = own_normalisation(learner)
    if not experiment.data.is_normalised:
        return experiment.normalised(**(own or channel_statistics(base)))
    transform = experiment.data.transform
    named = {"mean": list(transform.mean or []), "std": list(transform.std or [])}
    if own is not None and named != own:
        warnings.warn(
            f"data normalises images by mean={named['mean']}, std={named['std']}, but the encoder "
            f"was pretrained with mean={own['mean']}, std={own['std']}; data.mean=null and "
            "data.std=null take its own",
            stacklevel=2,
        )
    return experiment


def prepare(experiment: Experiment, path: Path) -> tuple[Run, Split]:
    """Load the base split, fill in the normalisation, build the learner.

    `path` then holds config.json and data.json.

    Raises:
        InputError: for a directory that holds another configuration, and for a task that the data
            do not suffice for.
    """
    splits = Splits()
    base = splits.get(experiment.data, experiment.data.base)
    training = experiment.train_task
    shape, way = training.sample_shape(base), training.demands.way
    torch.manual_seed(experiment.seed)
    learner = build_learner(experiment.learner, shape, way)
    experiment = normalised(experiment, learner, base)
    run = Run(experiment, path, learner, shape, way)
    run.transform(base.x[:1])  # refuses a normalisation for another number of channels
    assert experiment.data.name is not None
    run.ink = data.is_ink(experiment.data.name)
    _check_feasible(experiment, learner, base, splits)
    if experiment.pretraining is None:
        warn_of_untrained(experiment.learner, learner)
    saved = path / "config.json"
    known = identities_of(experiment, base, run.trains, splits)
    weights = experiment.weights_digest
    if saved.is_file():
        before = read_facts(path)
        known = check_same(path, before.experiment, experiment, known)
        check_weights(path, before.weights, weights)
    facts = {"format": FORMAT, "shape": list(shape), "way": way, "ink": run.ink}
    facts |= {} if weights is None else {"weights": weights}
    if not distributed.rank():
        config = experiment.to_dict()
        write_json(saved, {"version": graphfsl.__version__, **facts, "config": config})
        write_json(path / "data.json", known)
    return run, base


def check(experiment: Experiment, splits: Splits) -> None:
    """Refuse what `prepare` would refuse, at no cost but loading.

    `splits` keeps the splits that were loaded.

    Raises:
        InputError: says what does not fit.
    """
    base = splits.get(experiment.data, experiment.data.base)
    training = experiment.train_task
    shape, way = training.sample_shape(base), training.demands.way
    learner = build_learner(experiment.learner, shape, way, device="meta")
    _check_feasible(experiment, learner, base, splits)


def _check_feasible(experiment: Experiment, learner: Learner, base: Split, splits: Splits) -> None:
    """Refuse, before anything is trained or written, data that do not suffice for a task.

    Raises:
        InputError: where a split is missing or too small.
    """
    if _of_features(learner) and getattr(learner, "batch_norm", "running") != "running":
        raise InputError(
            "a part learns from base features, which have no episode; set "
            "learner.batch_norm=running"
        )
    pieces = not experiment.train_task.nodes_are_samples
    if pieces and (learner.wants_base or experiment.pretraining is not None):
        raise InputError(
            f"nodes of the task {experiment.train_task.title} are no whole samples, of which "
            "pretraining, and parts that learn from base features, learn"
        )
    require(
        experiment.train_task.uses_labels or not learner.wants_base,
        f"a part learns from base classes, and the task {experiment.train_task.title} has no "
        "labels of them; leave it out, or train on episodes with labels",
    )
    trains = any(p.requires_grad for p in learner.parameters())
    if experiment.pretraining is not None:
        check_pretraining(experiment, base)
    elif trains:
        learner.check_averages()
    if learner.asks and experiment.train_task.demands.labeled_fraction < 1:
        raise InputError(
            "this learner asks for labels that labeled_fraction withholds; set it "
            "to 1 in train_episode"
        )
    options, source = experiment.evaluation, experiment.data
    evaluated = splits.get(source, options.split)
    for i, task in enumerate(options.tasks):
        where = f"evaluation.settings[{i}]: " if options.listed else ""
        _check_task(where, learner, base, evaluated, task, options.unbalanced)
    if experiment.trainer.keep_best > 1:
        _check_keeps(experiment, learner)
    if trains:
        experiment.trainer.fabric()
        where = "train_episode: " if experiment.train_task != experiment.task else ""
        _check_task(where, learner, base, base, experiment.train_task)
    if experiment.selects and (trains or experiment.pretraining is not None):
        _check_task("", learner, base, splits.get(source, "val"), experiment.task)
    net = learner.innermost
    if isinstance(net, Pipeline) and net.wants_base:
        labels = visible(experiment, base)
        net.check_base_labels(labels[labels >= 0], base.classes)


def _of_features(learner: Learner) -> list[Part]:
    """The parts that learn from base features."""
    parts = getattr(learner.innermost, "parts", [])
    return [part for part in parts if part.wants_base and not part.of_images]


def _check_keeps(experiment: Experiment, learner: Learner) -> None:
    """Refuse to keep several of the best weights where they make no ensemble.

    Raises:
        InputError: says why.
    """
    start = f"trainer.keep_best={experiment.trainer.keep_best}"
    trains = any(p.requires_grad for p in learner.parameters())
    require(
        trains and experiment.selects,
        f"{start} keeps weights of the best validations, and this run has none; leave it out",
    )
    require(
        not learner.asks,
        f"{start}: learners that ask for labels make no ensemble, as each would ask for other "
        "ones; leave it out",
    )
    require(
        not learner.wants_base,
        f"{start}: a part learns from base features once the training has ended, from those of "
        "the best weights alone; leave it out",
    )


def _check_task(
    where: str, learner: Learner, base: Split, split: Split, task: Task, unbalanced: bool = False
) -> None:
    """InputError where a split does not suffice for a task, or the learner cannot be asked it.

    where: the section that names it, for what is wrong speaks of `episode`.
    """
    if split.shape != base.shape:
        raise InputError(
            f"{base.name} holds samples of shape {base.shape}, but {split.name} {split.shape}"
        )
    try:
        task.check(split)
        check_protocol(learner, task, unbalanced)
    except InputError as error:
        raise InputError(f"{where}{error}") from None


def cost(run: Run, train: Split) -> str:
    """What a run is going to take, in one line."""
    parameters = sum(p.numel() for p in run.learner.parameters())
    held = f"{len(train.x):,} samples of {len(train.classes):,} base classes"
    parts = [
        f"{parameters:,} parameters{_of_encoder(run)}",
        held if train.functions is None else f"functions of {train.name}",
    ]
    net = run.learner.innermost
    if isinstance(net, Pipeline) and net.wants_base:
        learning = [snake(type(part).__name__) for part in net.parts if part.wants_base]
        parts.append(f"{', '.join(learning)} learn{'s' * (len(learning) == 1)} from them, once")
    if run.experiment.pretraining is not None:
        first = run.experiment.pretraining.trainer
        parts.append(f"{first.steps:,} steps of {first.batch:,} samples before episodes")
    if run.trains:
        task = run.experiment.train_task
        nodes = run.trainer.batch * task.demands.nodes
        what = "samples" if task.nodes_are_samples else "nodes"
        parts.append(f"{run.trainer.steps:,} steps of {nodes:,} {what}")
    if len(parts) == 2:
        parts.append("nothing to train")
    return "; ".join(parts)


def _of_encoder(run: Run) -> str:
    """What the encoder computes for one image, in words; nothing for features."""
    encoder = getattr(run.learner.innermost, "encoder", None)
    if len(run.shape) != 3 or encoder is None or not list(encoder.parameters()):
        return ""
    try:
        count = of_an_image(encoder, run.shape)
    except InputError:  # a BatchNorm without averages answers in episodes alone
        return ""
    return f", {count:,} multiply-adds an image"


def pretrain(run: Run, base: Split, log: Log | None = None, say: Say | None = None) -> None:
    """Give the run its pretrained encoder, where its experiment has a `pretrain` section.

    Nothing is done where the run is trained already.

    Args:
        run: whose encoder it is.
        base: the split of base classes.
        log: called with each line of metrics.
        say: called with a line that names the folder, if the encoder was trained before.
    """
    options = run.experiment.pretraining
    if options is None or (run.path / "model.safetensors").is_file():
        return
    net: Any = run.learner.innermost
    net.encoder.load_state_dict(pretrained(run.experiment, base, run.path.parent, log, say))
    run.steps = options.trainer.steps * options.generations


def pretrain_alone(
    experiment: Experiment, runs: Path, log: Log | None = None, say: Say | None = None
) -> Path:
    """Do only the pretraining of an experiment, for all runs in the folder `runs` to come.

    Args:
        experiment: with a section `pretrain`.
        runs: the folder of the runs to come.
        log: called with each line of metrics.
        say: called with a line that names the folder, if the encoder was trained before.

    Returns:
        Its directory.
    """
    base = experiment.data.base_split()
    way = experiment.task.demands.way
    learner = build_learner(experiment.learner, base.shape, way, device="meta")
    experiment = normalised(experiment, learner, base)
    check_pretraining(experiment, base)
    pretrained(experiment, base, runs, log, say)
    return pretraining_place(experiment, runs, identities(experiment, base))


def train(run: Run, base: Split, log: Log | None = None) -> Run:
    """Train a run, and save its model.

    It is meta-trained on base classes and selected on validation classes; then what needs base
    features is fitted. What can be is fitted before, so that what is trained meets it as it will
    be: augment parts that work on images, and all where the encoder is frozen. A run that is
    trained already is loaded.
    """
    reuse_freed_memory()
    done, seed = run.path / "model.safetensors", run.experiment.seed
    if done.is_file():
        learner, steps = trained_learner(run.path, run.experiment, run.shape, run.way, None)
        return _noted(dataclasses.replace(run, learner=learner, steps=steps))
    known = visible(run.experiment, base)
    net = run.learner.innermost
    before: list[Part] = []
    if run.trains and isinstance(net, Pipeline):
        augment = [part for part in net.parts if isinstance(part, Augment)]
        before = [part for part in augment if net.frozen or part.of_images]
    if before and not (run.path / "last.safetensors").is_file():  # which holds what they learned
        assert isinstance(net, Pipeline)
        run.learner.to(run.trainer.fabric().device)
        others = [part for part in net.parts if not any(part is early for early in before)]
        _seed_fit(seed)
        fit_base(run.learner, base, run.transform, known, skip=others)
    if run.trains:
        run.steps += _meta_train(run, base, log)
    _seed_fit(seed)
    fit_base(run.learner, base, run.transform, known, skip=before)
    if not distributed.rank():
        save_checkpoint(done, run.learner.state_dict(), {"step": run.steps})
    return run


def _seed_fit(seed: int) -> None:
    torch.manual_seed(int(keys_of("fit_base", seed, np.zeros(1))[0] >> np.uint64(1)))


def _meta_train(run: Run, base: Split, log: Log | None) -> int:
    """Train the run's learner on episodes; the step of the weights that it holds then."""
    experiment, transform, seed = run.experiment, run.transform, run.experiment.seed
    device = run.trainer.fabric().device
    learner = run.learner.to(device)
    val = experiment.data.split("val") if experiment.selects else None
    if _sees_features(learner, experiment, transform):
        assert isinstance(learner, Pipeline)
        base = cached_features(learner, base, transform)
        val = cached_features(learner, val, transform) if val is not None else None
        learner = learner.on_features()  # its parts are the same objects
    episodes = Episodes(base, experiment.train_task, seed, transform, device)
    check = None
    if val is not None:
        check = Episodes(val, experiment.task, seed, transform.plain(), device)
    lines = run.trainer.fit(learner, episodes, check, run.path, seed, log or silent)
    best = best_line(lines, experiment.task.metric[1])
    return run.trainer.steps if best is None else int(best["step"])


def _sees_features(learner: Learner, experiment: Experiment, transform: Transform) -> bool:
    """Whether training may see the features of a frozen encoder in place of images."""
    frozen = isinstance(learner, Pipeline) and learner.frozen and learner.fixed
    once = experiment.task.encodes_once and experiment.train_task.encodes_once
    return frozen and not transform.augments and once


def best_line(lines: Sequence[Mapping[str, Any]], metric: Metric) -> Mapping[str, Any] | None:
    """The line of metrics with the best validation, the first of equals; None without one."""
    sign = 1 if metric.more_is_better else -1
    return max(validations(lines), key=lambda line: sign * line["val"], default=None)


def fit_base(
    learner: Learner, base: Split, transform: Transform, y: Tensor, skip: Collection[Part] = ()
) -> None:
    """Give base-class features to the parts that learn from them.

    They get those whose label y (N,) is not negative.

    Args:
        learner: whose parts learn.
        base: the split of base classes.
        transform: the normalisation of images.
        y: (N,) the labels that may be seen.
        skip: parts that do not learn now.
    """
    net = learner.innermost
    if not isinstance(net, Pipeline):
        return
    learning = [part for part in net.parts if part.wants_base]
    learning = [part for part in learning if not any(part is other for other in skip)]
    if learning:
        labeled, device = y >= 0, encoding_device(net, None)
        x = images = None
        if not all(part.of_images for part in learning):
            once = net.frozen and net.fixed and not net.wants_maps
            features = (cached_features if once else encode_split)(net, base, transform)
            x = features.x[labeled.to(features.x.device)].to(device)
        if any(part.of_images for part in learning):
            images = transform.plain()(base.x[labeled].to(device))
        net.fit_base(x, y[labeled].to(device), skip, images, base.classes)


@dataclass(frozen=True)
class Facts:
    """What config.json in a run directory says.

    Attributes:
        experiment: as it was run.
        shape: of a sample.
        way: the number of classes that the learner was built for.
        ink: whether samples are drawings, ink bright on dark.
        weights: a digest of the file that the encoder began with.
    """

    experiment: Experiment
    shape: tuple[int, ...]
    way: int
    ink: bool
    weights: str | None


def read_facts(path: Path) -> Facts:
    """What a run directory says of itself.

    Raises:
        InputError: where it is damaged, newer than this graphfsl, or holds a run for each seed.
    """
    file = path / "config.json"
    if not file.is_file() and (seeds := seed_runs(path)):
        raise InputError(
            f"{path} holds a run for each of {len(seeds)} seeds; name one: "
            f"{', '.join(map(str, seeds))}"
        )
    facts = read_json(file)
    if not isinstance(facts, dict):
        raise InputError(f"{file} is not from a graphfsl run; choose the directory of one")
    check_format(facts.get("format", FORMAT), file)
    kinds = {"config": Mapping[str, Any], "shape": list[int], "way": int}
    check_options(
        {k: (kind, True) for k, kind in kinds.items()},
        {k: facts[k] for k in kinds if k in facts},
        str(file),
    )
    experiment = Experiment.of(facts["config"])
    shape, ink = tuple(facts["shape"]), bool(facts.get("ink"))
    return Facts(experiment, shape, facts["way"], ink, facts.get("weights"))


def load(path: str | Path, learner: Learner | None = None) -> Run:
    """A trained run, from its directory.

    Of one whose training has not ended it has the best weights so far, with a warning. A directory
    of `Learner.save` is as good as one.

    Args:
        path: the directory.
        learner: takes the weights of a learner that was put together in Python.

    Raises:
        InputError: where there are no weights, they are damaged, or the directory holds a run for
            each seed.
    """
    check_kind(path, (str, Path), "a run", A_FOLDER)
    path = Path(path)
    if (path / FILE).is_file():
        return _saved(path, learner)
    if learner is not None:
        raise InputError(
            f"{path} holds no learner that was saved by itself, so that learner=... means nothing"
        )
    facts = read_facts(path)
    experiment = facts.experiment
    unfinished = progress_of(path, experiment.trainer.steps)
    # where there is no checkpoint, which would hold them
    if facts.weights is not None and not (path / "model.safetensors").is_file():
        check_weights(path, facts.weights, experiment.weights_digest)
    built, steps = trained_learner(path, experiment, facts.shape, facts.way, unfinished)
    run = Run(experiment, path, built, facts.shape, facts.way, steps, facts.ink, unfinished)
    return _noted(run)


def _noted(run: Run) -> Run:
    """The run, whose learner knows by itself how its images are normalised.

    So it knows wherever it goes from here.
    """
    run.learner.training_data = Training(
        run.shape, run.transform.mean, run.transform.std, run.classes, run.ink, run.steps
    )
    return run


def _saved(path: Path, given: Learner | None) -> Run:
    """A learner of `Learner.save` as a run without a data set of its own."""
    learner, experiment, facts = saved_learner(path / FILE, given)
    run = Run(experiment, path, learner, tuple(facts["shape"]), facts["way"] or 0)
    run.steps, run.ink, run.classes = facts["step"], facts["ink"], tuple(facts["classes"])
    return _noted(run)
