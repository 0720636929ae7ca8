"""A run directory from a configuration: train, keep the best, evaluate, write results.json."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import graphfsl
from graphfsl import data
from graphfsl.core.adapt import Adapt
from graphfsl.core.arguments import A_FOLDER, check_kind
from graphfsl.core.batchnorm import BatchNorm, lacks_averages
from graphfsl.core.display import block
from graphfsl.core.encoder import own_normalisation
from graphfsl.core.learner import Learner
from graphfsl.core.pipeline import Pipeline
from graphfsl.core.saving import FILE, Training
from graphfsl.core.schema import check_options, make
from graphfsl.data import Episodes, Sampler, Split, Transform, channel_statistics
from graphfsl.data.streams import keys_of
from graphfsl.experiment import config as conf
from graphfsl.experiment.builder import build, warn_of_untrained
from graphfsl.experiment.pretraining import Say, identities, pretrained, visible
from graphfsl.experiment.pretraining import check as check_pretraining
from graphfsl.experiment.pretraining import place as pretraining_place
from graphfsl.experiment.results import progress_of, seed_runs
from graphfsl.experiment.same_run import Load, check_same, check_weights, identities_of, remembering
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
from graphfsl.io.errors import InputError
from graphfsl.loops.encode import encode_split
from graphfsl.loops.feature_cache import cached_features
from graphfsl.loops.progress_bar import Log, silent
from graphfsl.loops.protocol import check_protocol, nodes
from graphfsl.loops.trainer import Trainer


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
    unfinished: str | None = None  # how far its training is, where that has not ended
    # the names of the base classes, where they were saved with a learner
    classes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        facts = {
            "data": self.config["data"]["name"],
            "samples": self.shape,
            "trained": f"{self.steps:,} steps of {self.way}-way episodes" if self.steps else "",
            "so far": self.unfinished,
        }
        return f"{block(f'Run {self.path}', facts)}\n{self.learner!r}"

    @property
    def trainer(self) -> Trainer:
        return make(Trainer, self.config.get("trainer") or {}, "trainer")

    @property
    def trains(self) -> bool:
        """Whether there is anything that training would change."""
        return any(p.requires_grad for p in self.learner.parameters())

    @property
    def has_averages(self) -> bool:
        """Whether the stored BatchNorm averages are of the trained weights, so that images can be
        encoded alone.
        """
        if isinstance(self.learner, Pipeline) and self.learner.frozen:
            return not lacks_averages(self.learner.encoder)
        if self.trains and self.learner.batch_norm != "running":
            return not any(isinstance(m, BatchNorm) for m in self.learner.modules())
        return not lacks_averages(self.learner)


def normalised(config: dict[str, Any], learner: Learner, base: Split) -> dict[str, Any]:
    """The configuration with the normalisation of images filled in: the encoder's own, or that of
    the base images.
    """
    if base.x.ndim != 4 or config["data"].get("mean") is not None:
        return config
    return {
        **config,
        "data": {**config["data"], **(own_normalisation(learner) or channel_statistics(base))},
    }


def prepare(config: dict[str, Any], path: Path) -> tuple[Run, Split]:
    """Load the base split, fill in the normalisation, build the learner; `path` then holds
    config.json.

    A directory that holds another configuration is refused.
    """
    load = remembering({})
    base = load(config["data"], conf.base_split(config["data"]))
    training = conf.setting(config, config.get("train_episode"), "train_episode")
    torch.manual_seed(config.get("seed", 0))
    learner = build(config["learner"], base.shape, training.way)
    config = normalised(config, learner, base)
    run = Run(config, path, learner, conf.transform(config["data"]), base.shape, training.way)
    run.transform(base.x[:1])  # refuses a normalisation for another number of channels
    run.ink = data.is_ink(config["data"]["name"])
    _check_feasible(config, learner, base, load)
    if config.get("pretrain") is None:
        warn_of_untrained(config["learner"], learner)
    saved = path / "config.json"
    known, weights = identities_of(config, base, run.trains, load), conf.weights_of(config)
    if saved.is_file():
        before = read_facts(path)
        known = check_same(path, before["config"], config, known)
        check_weights(path, before.get("weights"), weights)
    facts = {"format": FORMAT, "shape": list(base.shape), "way": training.way, "ink": run.ink}
    facts |= {} if weights is None else {"weights": weights}
    if not distributed.rank():
        write_json(saved, {"version": graphfsl.__version__, **facts, "config": config})
        write_json(path / "data.json", known)
    return run, base


def check(config: Mapping[str, Any], splits: dict[str, Split]) -> None:
    """What `prepare` would refuse, at no cost but loading; `splits` keeps the splits that were
    loaded.
    """
    load = remembering(splits)
    base = load(config["data"], conf.base_split(config["data"]))
    way = conf.setting(config, config.get("train_episode"), "train_episode").way
    _check_feasible(config, build(config["learner"], base.shape, way, device="meta"), base, load)


def _check_feasible(config: Mapping[str, Any], learner: Learner, base: Split, load: Load) -> None:
    """InputError before anything is trained or written, where a split is missing or too small for
    its setting.
    """
    if learner.wants_base and getattr(learner, "batch_norm", "running") != "running":
        raise InputError(
            "a part learns from base features, which have no episode; set "
            "learner.batch_norm=running"
        )
    if config.get("pretrain") is not None:
        check_pretraining(config, base)
    elif isinstance(learner, Adapt) and any(p.requires_grad for p in learner.parameters()):
        learner.check_averages()
    options = conf.evaluation(config)
    training = conf.setting(config, config.get("train_episode"), "train_episode")
    if learner.asks and training.labeled_fraction < 1:
        raise InputError(
            "this learner asks for labels that labeled_fraction withholds; set it "
            "to 1 in train_episode"
        )
    settings = [conf.setting(config, s) for s in options.settings]
    own = "evaluation" in config and "settings" in (config["evaluation"] or {})
    checks = [
        (f"evaluation.settings[{i}]: " if own else "", load(config["data"], options.split), s)
        for i, s in enumerate(settings)
    ]
    if any(p.requires_grad for p in learner.parameters()):
        make(Trainer, config.get("trainer") or {}, "trainer").fabric()
        checks.append(("train_episode: " if config.get("train_episode") else "", base, training))
    if conf.base_split(config["data"]) == "train" and (
        len(checks) > len(settings) or config.get("pretrain")
    ):
        checks.append(("", load(config["data"], "val"), conf.setting(config)))
    for i, (where, split, setting) in enumerate(checks):
        if split.shape != base.shape:
            raise InputError(
                f"{base.name} holds samples of shape {base.shape}, but {split.name} {split.shape}"
            )
        try:
            Sampler(split, setting)
            check_protocol(learner, setting, options.unbalanced and i < len(settings))
        except InputError as error:  # which speaks of `episode`, that other sections override
            raise InputError(f"{where}{error}") from None


def cost(run: Run, train: Split) -> str:
    """One line: what the run is going to take."""
    parameters = sum(p.numel() for p in run.learner.parameters())
    parts = [
        f"{parameters:,} parameters",
        f"{len(train.x):,} samples of {len(train.classes):,} base classes",
    ]
    if run.config.get("pretrain") is not None:
        first = conf.pretrainer(run.config)
        parts.append(f"{first.steps:,} steps of {first.batch:,} samples before episodes")
    if run.trains:
        s = conf.setting(run.config, run.config.get("train_episode"), "train_episode")
        parts.append(f"{run.trainer.steps:,} steps of {run.trainer.batch * nodes(s):,} samples")
    if len(parts) == 2:
        parts.append("nothing to train")
    return "; ".join(parts)


def pretrain(run: Run, base: Split, log: Log | None = None, say: Say | None = None) -> None:
    """Give the run its pretrained encoder, where its configuration has a `pretrain` section and it
    is not done yet.
    """
    if run.config.get("pretrain") is None or (run.path / "model.safetensors").is_file():
        return
    net = run.learner.net if isinstance(run.learner, Adapt) else run.learner
    net.encoder.load_state_dict(pretrained(run.config, base, run.path.parent, log, say))  # type: ignore[union-attr]
    run.steps = conf.pretrainer(run.config).steps * run.config["pretrain"].get("generations", 1)


def pretrain_alone(
    config: dict[str, Any], runs: Path, log: Log | None = None, say: Say | None = None
) -> Path:
    """Only the pretraining of a configuration, for all runs in the folder `runs` to come; its
    directory.
    """
    base = conf.load_split(config["data"], conf.base_split(config["data"]))
    config = normalised(
        config, build(config["learner"], base.shape, conf.setting(config).way, device="meta"), base
    )
    check_pretraining(config, base)
    pretrained(config, base, runs, log, say)
    return pretraining_place(config, runs, identities(config, base))


def train(run: Run, base: Split, log: Log | None = None) -> Run:
    """Meta-train on base classes, select on validation classes, fit what needs base features, save
    the model.
    """
    reuse_freed_memory()
    config, seed = run.config, run.config.get("seed", 0)
    done = run.path / "model.safetensors"
    if done.is_file():
        return dataclasses.replace(load(run.path), config=config)
    trainer = run.trainer
    if run.trains:
        device = trainer.fabric().device
        learner, transform = run.learner.to(device), run.transform
        val = (
            conf.load_split(config["data"], "val")
            if conf.base_split(config["data"]) == "train"
            else None
        )
        seen = base
        if (
            isinstance(learner, Pipeline)
            and learner.frozen
            and learner.fixed
            and not transform.augments
        ):
            seen = cached_features(learner, base, transform)
            val = cached_features(learner, val, transform) if val is not None else None
            learner = learner.on_features()  # its parts are the same objects
        training = conf.setting(config, config.get("train_episode"), "train_episode")
        episodes = Episodes(seen, training, seed, transform, device)
        check = (
            Episodes(val, conf.setting(config), seed, transform.plain(), device)
            if val is not None
            else None
        )
        metrics = trainer.fit(learner, episodes, check, run.path, seed, log or silent)
        best = max((m for m in metrics if "val" in m), key=lambda m: m["val"], default=None)
        run.steps += best["step"] if best else trainer.steps
    torch.manual_seed(int(keys_of("fit_base", seed, np.zeros(1))[0] >> np.uint64(1)))
    fit_base(run.learner, base, run.transform, visible(config, base))
    if not distributed.rank():
        save_checkpoint(done, run.learner.state_dict(), {"step": run.steps})
    return run


def fit_base(learner: Learner, base: Split, transform: Transform, y: Tensor) -> None:
    """Give base-class features to the parts that learn from them, those whose label y (N,) is not
    negative.
    """
    net = learner.net if isinstance(learner, Adapt) else learner
    if learner.wants_base and isinstance(net, Pipeline):
        features = encode_split(net, base, transform)
        labeled = y >= 0
        net.fit_base(features.x[labeled.to(features.x.device)], y[labeled].to(features.x.device))


def read_facts(path: Path) -> dict[str, Any]:
    """What config.json in a run directory says; InputError where it is damaged or newer than this
    graphfsl.
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
    conf.check(facts["config"])
    return facts


def load(path: str | Path, learner: Learner | None = None) -> Run:
    """A trained run, from its directory; of one whose training has not ended the best weights so
    far, with a warning.

    A directory of `Learner.save` is as good as one; `learner` takes its weights where it was put
    together in Python.

    Raises InputError where there are no weights, they are damaged, or the directory holds a run for
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
    config, shape, way = facts["config"], tuple(facts["shape"]), facts["way"]
    unfinished = progress_of(path, config)
    if "weights" in facts and not (path / "model.safetensors").is_file():  # which holds them
        check_weights(path, facts["weights"], conf.weights_of(config))
    learner, steps = trained_learner(path, config, shape, way, unfinished)
    transform, ink = conf.transform(config["data"]), bool(facts.get("ink"))
    return _noted(Run(config, path, learner, transform, shape, way, steps, ink, unfinished))


def _noted(run: Run) -> Run:
    """The run, whose learner knows by itself how its images are normalised, wherever it goes from
    here.
    """
    run.learner.training_data = Training(
        run.shape, run.transform.mean, run.transform.std, run.classes, run.ink, run.steps
    )
    return run


def _saved(path: Path, given: Learner | None) -> Run:
    """A learner of `Learner.save` as a run without a data set of its own."""
    learner, facts = saved_learner(path / FILE, given)
    section = {"name": None, **{k: facts[k] for k in ("mean", "std")}}
    config = {"data": section, "learner": facts["learner"] or {}}
    run = Run(
        config, path, learner, conf.transform(section), tuple(facts["shape"]), facts["way"] or 0
    )
    run.steps, run.ink, run.classes = facts["step"], facts["ink"], tuple(facts["classes"])
    return _noted(run)
