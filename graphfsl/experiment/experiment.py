"""`Experiment`: one YAML with its overrides, parsed and checked once.

Names stand in place of import paths; defaults stand only in `__init__`.

data:          {name: omniglot, root: …, augment: {rotate: 10}, …}   options of the set's `load`
learner:       {encoder: conv4, head: {name: protonet, distance: cosine}, refine: [...], adapt: …}
episode:       fields of a task, for validation and evaluation; `task` names its kind
train_episode: what differs while training, which may be the kind of task
trainer:       options of `Trainer`
pretrain:      {objective: cross_entropy, trainer: {steps: 3000, …}}   before any episode
evaluation:    {episodes: 600, split: test, settings: [{way: 5, shot: 5}, …]}, on top of `episode`
seed, seeds (how many runs, with seed, seed + 1, …), paper, published, deviations
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from graphfsl import data
from graphfsl.core.schema import check_options, given_or, make, signature
from graphfsl.core.task import Task
from graphfsl.data import tasks
from graphfsl.experiment.builder import build_learner, build_pretrainer, learned_by_rule
from graphfsl.experiment.data_source import OWN, DataSource
from graphfsl.experiment.learner_spec import LearnerSpec, PartSpec
from graphfsl.experiment.overrides import parted, text_value
from graphfsl.experiment.sections import EvaluationOptions, PretrainingOptions
from graphfsl.experiment.yaml_files import load_yaml, merged
from graphfsl.io.errors import InputError, require, unknown
from graphfsl.io.limits import LARGEST
from graphfsl.io.package_data import find_experiment
from graphfsl.loops.trainer import Trainer
from graphfsl.nn.weights import file_digest

SECTIONS = (
    "data",
    "learner",
    "episode",
    "train_episode",
    "trainer",
    "pretrain",
    "evaluation",
    "seed",
    "seeds",
)
NOTES = ("paper", "published", "deviations")
SHARED = ("device", "precision", "logger")  # options of `trainer` that pretraining takes too
MACHINE = ("device", "logger")  # options of `trainer` that change no weights
# what an evaluation does not read, but for the machine
TRAINING = (
    *("seed", "seeds", "pretrain", "train_episode", "trainer"),
    *("data.mean", "data.std", "data.augment", "data.base", "data.base_classes", "data.clusters"),
    *("learner.encoder.weights", "learner.encoder.pretrained"),
)
# what a learner is built for where a configuration is checked
SAMPLE = (3, 84, 84)
WAY = 5
EXAMPLES = {"data": "name: glyphs", "learner": "encoder: conv4, head: protonet"}


@dataclass(frozen=True)
class Evaluation:
    """What a trained learner is measured on.

    Args:
        episodes: how many in each task.
        split: of which they are drawn.
        tasks: those that the section lists, or the one of `episode`.
        listed: whether it lists them.
        seed: of the episodes.
        block: episodes at once; None takes as many as fit.
        unbalanced: whether a learner that assumes balance is measured without it, too.
        untrained_rule: whether the rule of an inner loop is as it was before the training.
        target_statistics: whether BatchNorm averages are those of the split that is evaluated.
    """

    episodes: int
    split: str
    tasks: tuple[Task, ...]
    listed: bool
    seed: int
    block: int | None
    unbalanced: bool
    untrained_rule: bool
    target_statistics: bool


@dataclass(frozen=True)
class Pretraining:
    """How the encoder is trained before any episode.

    Args:
        objective: what is minimised.
        generations: how often it is trained, each time with the one before as teacher.
        trainer: the options of a training.
        data: as pretraining sees it, with an augmentation of its own where it names one.
    """

    objective: PartSpec
    generations: int
    trainer: Trainer
    data: DataSource


@dataclass(frozen=True)
class Published:
    """A number that a paper states.

    Args:
        asked: the fields of the task that it names.
        metric, value: what was measured, as people are shown it.
        setting: the kind that it is of, such as "inductive"; None for any.
        source: where it stands.
    """

    asked: Mapping[str, Any]
    metric: str
    value: float
    setting: str | None = None
    source: str | None = None

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> Published:
        """An entry of the list `published`."""
        metric = entry.get("metric", "accuracy")
        own = ("metric", metric, "setting", "source")
        asked = {key: value for key, value in entry.items() if key not in own}
        return cls(asked, metric, entry[metric], entry.get("setting"), entry.get("source"))


@dataclass(frozen=True)
class Notes:
    """What an experiment quotes of its paper, and where it differs."""

    title: str
    steps: int | None
    published: Sequence[Published]
    deviations: Sequence[str]


@dataclass(frozen=True, eq=False)
class Experiment:
    """An experiment, checked when it is made; `read` and `of` make one.

    Args:
        data: where the samples come from.
        learner: the names and options of its parts.
        task: of validation and evaluation.
        train_task: of training.
        trainer: the options of the training.
        pretraining: of the encoder; None where there is none.
        evaluation: what the trained learner is measured on.
        notes: what is quoted of the paper.
        seed: of the first run.
        seeds: how many runs there are, with seed, seed + 1, ….
    """

    data: DataSource
    learner: LearnerSpec
    task: Task
    train_task: Task
    trainer: Trainer
    pretraining: Pretraining | None
    evaluation: Evaluation
    notes: Notes
    seed: int
    seeds: int
    _given: Mapping[str, Any] = field(repr=False)

    @classmethod
    def read(cls, path: str | Path, overrides: Sequence[str] = ()) -> Experiment:
        """The experiment of a file with overrides.

        One of `data.name` leaves behind what the file's own set alone takes.
        """
        config = load_yaml(find_experiment(path))
        name = text_value(dict(map(parted, overrides)).get("data.name", ""))
        section = config.get("data")
        if name in data.names() and isinstance(section, Mapping):
            known = {*signature(data.loader(name)), "name", *OWN}
            config["data"] = {k: v for k, v in section.items() if k in known}
        return cls.of(config, overrides)

    @classmethod
    def of(cls, given: Mapping[str, Any], overrides: Sequence[str] = ()) -> Experiment:
        """The experiment of a mapping with overrides on top.

        Raises:
            InputError: one line, for the first key or name that means nothing, or value of the
                wrong kind.
        """
        return cls._parsed(merged(given, overrides))

    @classmethod
    def of_saved(
        cls, given: Mapping[str, Any], shape: tuple[int, ...] = SAMPLE, way: int = WAY
    ) -> Experiment:
        """What is known of a learner that was saved by itself.

        It may have no data set, and no recipe.
        """
        return cls._parsed(given, shape, way, has_recipe=bool(given.get("learner")))

    @classmethod
    def _parsed(
        cls,
        given: Mapping[str, Any],
        shape: tuple[int, ...] = SAMPLE,
        way: int = WAY,
        has_recipe: bool = True,
    ) -> Experiment:
        for key in given:
            if key not in (*SECTIONS, *NOTES):
                raise unknown("section", key, (*SECTIONS, *NOTES))
        for key in ("data", "learner"):
            if not isinstance(given.get(key), Mapping):
                raise InputError(
                    f"the configuration needs a section {key!r}, such as {key}: {{{EXAMPLES[key]}}}"
                )
        seed = _whole(given, "seed", 0)
        seeds = _whole(given, "seeds", 1)
        require(
            seed + seeds - 1 <= LARGEST,
            f"the last of {seeds} seeds from {seed} is above 2^53; choose a smaller seed",
        )
        source = DataSource.of(given["data"])
        evaluation = _evaluation(given)
        training = _task(given, given.get("train_episode"), "train_episode")
        trainer: Trainer = make(Trainer, given_or(given, "trainer", {}), "trainer")
        notes = _notes(given)
        spec = LearnerSpec.of(given["learner"])
        if has_recipe:
            learner = build_learner(spec, shape, way, device="meta")
            require(
                not evaluation.untrained_rule or learned_by_rule(learner),
                "evaluation.untrained_rule changes nothing: this learner has no inner loop whose "
                "rule learns; leave it out",
            )
        pretraining = _pretraining(given, source)
        if pretraining is not None:
            objective = pretraining.objective
            build_pretrainer(spec.encoder, objective, shape, way, device="meta")
        try:
            json.dumps(given, sort_keys=True, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise InputError(
                f"the configuration must be of text, numbers, lists and mappings: {error}"
            ) from None
        task = _task(given)
        return cls(
            data=source,
            learner=spec,
            task=task,
            train_task=training,
            trainer=trainer,
            pretraining=pretraining,
            evaluation=evaluation,
            notes=notes,
            seed=seed,
            seeds=seeds,
            _given=copy.deepcopy(dict(given)),
        )

    def changed(self, *overrides: str) -> Experiment:
        """The experiment with further overrides, read anew.

        `episode.way` reaches training and evaluation.
        """
        return Experiment.of(self._given, overrides) if overrides else self

    def normalised(self, mean: Sequence[float], std: Sequence[float]) -> Experiment:
        """The experiment with this normalisation of images, one number for each channel."""
        source = self.data.normalised(mean, std)
        first = self.pretraining
        if first is not None:
            first = dataclasses.replace(first, data=first.data.normalised(mean, std))
        given = {**self._given, "data": source.to_dict()}
        return dataclasses.replace(self, data=source, pretraining=first, _given=given)

    def with_data(self, section: Mapping[str, Any], overrides: Sequence[str] = ()) -> Experiment:
        """The experiment on other data, with overrides on top."""
        return Experiment.of({**self._given, "data": dict(section)}, overrides)

    def with_seed(self, seed: int) -> Experiment:
        """One of the runs of an experiment of several seeds."""
        given = {**self.without_seeds()._given, "seed": seed}
        return dataclasses.replace(self, seed=seed, seeds=1, _given=given)

    def without_seeds(self) -> Experiment:
        """The experiment of its first seed alone."""
        given = {key: value for key, value in self._given.items() if key != "seeds"}
        return dataclasses.replace(self, seeds=1, _given=given)

    def variant(self, changes: Mapping[str, Any]) -> Task:
        """The task of `episode` with some fields changed."""
        return dataclasses.replace(self.task, **changes)

    def to_dict(self) -> dict[str, Any]:
        """The mapping that files hold of it."""
        return copy.deepcopy(dict(self._given))

    def digest(self) -> str:
        """Eight characters that change with any option, but not with where data are fetched."""
        section = {k: v for k, v in self._given["data"].items() if k != "download"}
        return digest({**self._given, "data": section})

    def training_facts(self, normalised: bool = True) -> dict[str, Any]:
        """What decides the weights, as it was written.

        Where the data lies, on what it is computed and what is evaluated do not.

        Args:
            normalised: with the normalisation of images, which may be that of the data.
        """
        out = {k: v or {} for k, v in self._given.items() if k not in ("evaluation", *NOTES)}
        trainer = {k: v for k, v in out.get("trainer", {}).items() if k not in MACHINE}
        source = self.data.placeless
        if not normalised:
            source = {k: v for k, v in source.items() if k not in ("mean", "std")}
        return {**out, "data": source, "trainer": trainer}

    @property
    def uses_labels(self) -> bool:
        """Whether its training on episodes reads labels of the base classes."""
        return self.train_task.uses_labels and self.data.clusters is None

    @property
    def selects(self) -> bool:
        """Whether weights are selected on validation classes, by their labels.

        A training without labels keeps the weights of its last step.
        """
        return self.data.selects and self.uses_labels

    @property
    def training_digest(self) -> str:
        """A digest that is the same for experiments that share a training."""
        return digest(self.training_facts())

    def row_digest(self, changes: Sequence[str]) -> str:
        """A digest of all that decides the results of an evaluation with these overrides."""
        test = self._given.get("evaluation")
        return digest({"training": self.training_digest, "changes": changes, "test": test})

    def pretraining_facts(self) -> dict[str, Any]:
        """What decides the weights of its pretraining, as it was written, and nothing else."""
        encoder = self.learner.encoder
        assert self.pretraining is not None and encoder is not None
        trainer = given_or(self._given, "trainer", {})
        options = {k: v for k, v in encoder.options.items() if k != "frozen"}
        found = {
            "data": self.pretraining.data.placeless,
            "encoder": {"name": encoder.name, **options},
            "pretrain": {k: v for k, v in self._given["pretrain"].items() if k != "augment"},
            "seed": self.seed,
            **{k: v for k, v in trainer.items() if k == "precision"},
        }
        weights = self.weights_digest  # that it starts from
        return found if weights is None else {**found, "weights": weights}

    def training_change(self, trained: Experiment) -> str | None:
        """The first key that differs from a trained experiment's though no evaluation reads it.

        None where there is none.
        """
        for key in TRAINING:
            here, there = _value(self._given, key), _value(trained._given, key)
            if here is None or here == there:
                continue
            if not isinstance(here, Mapping):
                return key
            for name, value in here.items():
                if name not in MACHINE and value != _value(there, name):
                    return f"{key}.{name}"
        return None

    @property
    def weights_digest(self) -> str | None:
        """A digest of the file that the encoder's weights come from; None where it names none."""
        file = self.learner.weights_file
        return None if file is None else file_digest(file)


def digest(value: Mapping[str, Any]) -> str:
    """Eight characters that change with any value of a mapping."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:8]


def _value(given: Any, key: str) -> Any:
    """The value of a dotted key in nested mappings; None where there is none."""
    for name in key.split("."):
        given = given.get(name) if isinstance(given, Mapping) else None
    return given


def _whole(given: Mapping[str, Any], key: str, least: int) -> int:
    value = given.get(key, least)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= LARGEST:
        raise InputError(
            f"{key} must be a whole number of at least {least} and at most 2^53, not {value!r:.50}"
        )
    return value


def _task(
    given: Mapping[str, Any], changes: Mapping[str, Any] | None = None, where: str = "episode"
) -> Task:
    """The `episode` section with changes on top.

    Where the changes name another kind of task, what that has no option for is left out. A
    section's own keys are named by its name.
    """
    own = _options_of_task(given.get("episode"), tasks.DEFAULT, "episode")
    changes = _options_of_task(changes, own["task"], where)
    known = signature(tasks.get(changes["task"]))
    shared = {key: value for key, value in own.items() if key in known}
    return tasks.as_task({**shared, **changes})


def _options_of_task(options: Any, kind: str, where: str) -> dict[str, Any]:
    """A section with the kind of its task, which is `kind` where it names none, checked."""
    options = {} if options is None else options
    if isinstance(options, Mapping):
        kind = options.get("task", kind)
    known = {"task": (str, False), **signature(tasks.get(kind))}
    check_options(known, options, where)
    return {**options, "task": kind}


def _evaluation(given: Mapping[str, Any]) -> Evaluation:
    section = given_or(given, "evaluation", {})
    options: EvaluationOptions = make(EvaluationOptions, section, "evaluation")
    return Evaluation(
        episodes=options.episodes,
        split=options.split,
        tasks=tuple(_task(given, changes) for changes in options.settings),
        listed="settings" in section,
        seed=options.seed,
        block=options.block,
        unbalanced=options.unbalanced,
        untrained_rule=options.untrained_rule,
        target_statistics=options.target_statistics,
    )


def _pretraining(given: Mapping[str, Any], source: DataSource) -> Pretraining | None:
    """The `pretrain` section; None where there is none."""
    if given.get("pretrain") is None:
        return None
    options: PretrainingOptions = make(PretrainingOptions, given["pretrain"], "pretrain")
    section = options.trainer or {}
    for key in SHARED:
        if key in section:
            raise InputError(f"pretrain.trainer.{key} is that of the whole run; set trainer.{key}")
    shared = {k: v for k, v in given_or(given, "trainer", {}).items() if k in SHARED}
    trainer: Trainer = make(Trainer, {"batch": 128, **section, **shared}, "pretrain.trainer")
    require(
        trainer.keep_best == 1,
        "pretrain.trainer.keep_best changes nothing: episodes go on from one encoder; leave it out",
    )
    require(
        trainer.attack is None,
        "pretrain.trainer.attack changes queries of episodes, and pretraining has none; set "
        "trainer.attack",
    )
    if options.augment is not None:
        source = source.augmented(options.augment)
    objective = PartSpec.of(options.objective, "pretrain.objective")
    return Pretraining(objective, options.generations, trainer, source)


def _notes(given: Mapping[str, Any]) -> Notes:
    """What a file quotes of its paper, checked.

    Of `paper` only title and steps are kept; authors, year and link are for the pages of the
    documentation.
    """
    kinds = {
        "paper": Mapping[str, Any],
        "published": list[Mapping[str, Any]],
        "deviations": list[str],
    }
    own = {k: given[k] for k in NOTES if given.get(k) is not None}
    check_options({k: (kind, False) for k, kind in kinds.items()}, own, "configuration")
    task = tasks.get(given_or(given, "episode", {}).get("task", tasks.DEFAULT))
    task_fields = {name: (kind, False) for name, (kind, _) in signature(task).items()}
    sources = {"metric": (str, False), "source": (str, False), "setting": (str, False)}
    for entry in own.get("published") or []:
        metric = entry.get("metric", "accuracy")
        require(isinstance(metric, str), f"published.metric must be text, not {metric!r}")
        check_options(task_fields | sources | {metric: (float, True)}, entry, "published")
    paper = own.get("paper") or {}
    steps = paper.get("steps")
    require(
        steps is None or (isinstance(steps, int) and not isinstance(steps, bool)),
        f"paper.steps must be a whole number, such as 60000, not {steps!r}",
    )
    return Notes(
        title=str(paper.get("title") or ""),
        steps=steps,
        published=tuple(map(Published.of, own.get("published") or [])),
        deviations=tuple(own.get("deviations") or []),
    )
