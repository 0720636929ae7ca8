"""A trained run in any setting and on any data set, as rows of a results table."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from graphfsl import data
from graphfsl.core.batchnorm import has_batch_norm, lacks_averages
from graphfsl.core.ensemble import Ensemble
from graphfsl.core.learner import Learner, Part
from graphfsl.core.pipeline import Pipeline
from graphfsl.core.protocol import check_protocol
from graphfsl.core.schema import signature
from graphfsl.core.task import Task
from graphfsl.data import Episodes, Split
from graphfsl.data.episode_files import read_episodes
from graphfsl.experiment.builder import build_learner
from graphfsl.experiment.data_source import DataSource, Splits
from graphfsl.experiment.experiment import Experiment, Published
from graphfsl.experiment.overrides import names, text_value
from graphfsl.experiment.results import beside_published, full_row
from graphfsl.experiment.run import Run
from graphfsl.experiment.trained import kept_learners, take_weights
from graphfsl.io.allocator import reuse_freed_memory
from graphfsl.io.errors import InputError
from graphfsl.loops.evaluation import (
    diagnose,
    encode_once,
    evaluate,
    images_to_come,
    rejection_threshold,
)
from graphfsl.loops.image_change import ImageChange
from graphfsl.loops.row import Row
from graphfsl.loops.target_statistics import with_target_statistics

Say = Callable[[str], None]
# what a list decides
LISTED = ("episode", "evaluation.episodes", "evaluation.seed", "evaluation.settings")
DIAGNOSED = 200  # episodes that the reliability diagram and the confusion matrix are drawn from
CHOSEN_ON = 200  # episodes that a bound for novelty is chosen on


@dataclass(frozen=True)
class Asked:
    """What a run is asked.

    Args:
        experiment: the run's, with changes.
        tasks: that are evaluated.
        learner: as changed, with the trained weights.
        remarks: what a row says of the training beside its traits.
    """

    experiment: Experiment
    tasks: tuple[Task, ...]
    learner: Learner
    remarks: tuple[str, ...] = ()


def measure(
    run: Run,
    changes: Sequence[str] = (),
    say: Say | None = None,
    episodes: Path | None = None,
    memo: dict[str, Split] | None = None,
    image_change: ImageChange | None = None,
    also: Sequence[str] = (),
) -> list[Row]:
    """Evaluate a run in every task of its `evaluation` section: a row for each.

    With an override of `episode`, the one task that it makes is evaluated in place of the listed
    ones. With one of `data.name`, the other options of that data set start from its own defaults.
    With one of `learner`, the trained weights must fit the learner that it makes; with one of
    `learner.adapt`, another inner loop starts at the trained weights of the network, and the row
    says so.

    Args:
        run: the trained run.
        changes: overrides such as episode.way=20.
        say: called with lines that tell how it goes.
        episodes: a file of `graphfsl episodes`; then these very ones are evaluated.
        memo: keeps this run's features of a split for the next call.
        image_change: changes the images of each episode before it is answered; the rows say so, and
            have no diagnosis.
        also: metrics beside the first one of which the rows keep the value of each unit.

    Raises:
        InputError: for overrides that change nothing, or that the run or the data do not fit.
    """
    asked = asked_of(run, changes)
    return _measured(run, asked, changes, say, episodes, memo, image_change, also)


def _measured(
    run: Run,
    asked: Asked,
    changes: Sequence[str],
    say: Say | None,
    episodes: Path | None,
    memo: dict[str, Split] | None = None,
    image_change: ImageChange | None = None,
    also: Sequence[str] = (),
) -> list[Row]:
    """The rows of what is asked; the arguments are those of `measure`."""
    reuse_freed_memory()
    experiment, tasks, learner = asked.experiment, asked.tasks, asked.learner
    options = experiment.evaluation
    split = experiment.data.split(options.split)
    listed = read_episodes(episodes, split) if episodes else None
    if listed is not None:
        if ignored := next((c for c in changes if names(c, *LISTED)), None):
            raise InputError(
                f"{ignored} changes nothing: {episodes} lists the very episodes; leave it out"
            )
        tasks = (listed.task,)
        options = replace(options, episodes=len(listed), seed=listed.seed)
    for task in tasks:
        check_shape(run.shape, task, split)
        check_protocol(learner, task, options.unbalanced)
    device = experiment.trainer.fabric().device
    learner = learner.to(device)
    if options.target_statistics:
        learner, memo = with_target_statistics(learner, split, run.transform), None
    if image_change is None:
        learner, split = _encoded(run, experiment, learner, split, tasks, memo)
    published = _published(run.experiment, experiment) if image_change is None else ()
    # A set of its own way and shot is asked in those of another one: that is said.
    origin = run.experiment.data.name if listed is None and borrows(changes) else None
    if origin and say and all("way" in task.row for task in tasks):
        say(
            f"{split.name}: way and shot are those of the run on {origin}; episode.way=… and "
            f"episode.shot=… set others"
        )
    rows = []
    for task in tasks:
        if task.demands.open:
            learner.rejects_above = _threshold(run, asked, task, split.name, device)
        numbers = (options.episodes, options.seed, run.transform, options.block)
        result = evaluate(
            learner, split, task, *numbers, device, listed, options.unbalanced, image_change
        )
        drawn = Episodes(split, task, options.seed, run.transform.plain(), device, listed)
        few = min(options.episodes, DIAGNOSED)
        seen = diagnose(learner, drawn, few) if image_change is None else {}
        told = [] if image_change is None else [str(image_change)]
        row = full_row(experiment, result, str(device), run.steps)
        row = beside_published(row, task, published)
        if also:
            row = row.replace(further={name: result.per_unit(name) for name in also})
        row = row.replace(traits=[*row.traits, *asked.remarks, *told])
        rows.append(row.replace(diagnosis=seen, unfinished=run.unfinished, setting_from=origin))
        if say:
            say(", ".join([str(result), *told]))
    learner.rejects_above = None  # it is of these tasks, and the caller may keep the learner
    return rows


def _threshold(
    run: Run, asked: Asked, task: Task, measured: str, device: torch.device
) -> float | None:
    """The novelty above which an answer is "none of the classes", chosen on other classes.

    They are the validation classes or, where those are what is measured, the base classes; None
    where these are too few for the task.
    """
    data = asked.experiment.data
    for name in ("val", data.base):
        split = data.split(name)
        try:
            task.check(split)
        except InputError:
            continue
        if split.name != measured:
            break
    else:
        return None
    learner = asked.learner
    if asked.experiment.evaluation.target_statistics:  # as what is measured, of its own images
        learner = with_target_statistics(learner, split, run.transform)
    images = CHOSEN_ON * task.demands.nodes
    learner, split = encode_once(learner, split, run.transform, images)
    learner.rejects_above = None
    drawn = Episodes(split, task, asked.experiment.evaluation.seed, run.transform.plain(), device)
    return rejection_threshold(learner, drawn, CHOSEN_ON)


def _encoded(
    run: Run,
    experiment: Experiment,
    learner: Learner,
    split: Split,
    tasks: Sequence[Task],
    memo: dict[str, Split] | None,
) -> tuple[Learner, Split]:
    """The learner and the split on features, where each image needs to be encoded only once."""
    if not all(task.encodes_once for task in tasks):
        return learner, split
    if memo is not None and isinstance(learner, Pipeline) and learner.fixed and split.x.ndim == 4:
        samples = experiment.data.split_key(experiment.evaluation.split)
        key = repr((samples, experiment.learner.encoder, learner.wants_maps))
        if key not in memo:
            memo[key] = encode_once(learner, split, run.transform, len(split.x) + 1)[1]
        return learner.on_features(), memo[key]
    images = images_to_come(tasks, experiment.evaluation.episodes, split)
    return encode_once(learner, split, run.transform, images)


def _published(trained: Experiment, asked: Experiment) -> Sequence[Published]:
    """What the paper states: a published number is for its own learner, data set and test split."""
    same = asked.learner == trained.learner and asked.data.placeless == trained.data.placeless
    options = asked.evaluation
    own = same and not (options.untrained_rule or options.target_statistics)
    return asked.notes.published if own and asked.evaluation.split == "test" else ()


def measure_policies(
    run: Run,
    changes: Sequence[str] = (),
    say: Say | None = None,
    episodes: Path | None = None,
    image_change: ImageChange | None = None,
) -> list[Row]:
    """`measure`, and once more where queries share statistics in the run's own BatchNorm policy.

    It is then measured under `support` too, so that a transductive number, as papers state it,
    never stands without the inductive one of the same weights. Of a run that kept the weights of
    several validations, further rows are those of the ensemble of them.

    Args:
        run: the trained run.
        changes: overrides such as episode.way=20.
        say: called with lines that tell how it goes.
        episodes: a file of `graphfsl episodes`.
        image_change: as in `measure`.
    """
    asked = asked_of(run, changes)
    both = asked.learner.shares_statistics and not names_policy(changes)
    inductive = [*changes, "learner.batch_norm=support"]
    rows = _measured(run, asked, changes, say, episodes, None, image_change)
    if both:
        rows += measure(run, inductive, say, episodes, None, image_change)
    if image_change is not None:  # an ensemble has no gradients that an attack could follow
        return rows
    if members := _members(run, say):
        rows += _measured_together(members, changes, say, episodes)
        if both:
            rows += _measured_together(members, inductive, say, episodes)
    return rows


def _members(run: Run, say: Say | None) -> list[Run]:
    """The run once for each of the best validations that it kept; none where it kept only one."""
    if run.experiment.trainer.keep_best == 1 or run.unfinished is not None:
        return []
    kept = kept_learners(run.path, run.experiment, run.shape, run.way)
    if len(kept) < 2:
        if say:
            say("no ensemble: the run directory does not hold the weights of several validations")
        return []
    return [replace(run, learner=learner, steps=steps) for learner, steps in kept]


def _measured_together(
    members: Sequence[Run], changes: Sequence[str], say: Say | None, episodes: Path | None
) -> list[Row]:
    """The rows of an ensemble of a run's weights; its steps are those of the latest ones."""
    each = [asked_of(member, changes) for member in members]
    ensemble = Ensemble([asked.learner for asked in each])
    last = max(members, key=lambda member: member.steps)
    name = f"ensemble of {len(members)}"
    told = None if say is None else lambda line: say(f"{name}, {line}")
    rows = _measured(last, replace(each[0], learner=ensemble), changes, told, episodes)
    return [row.replace(method=f"{row.method}, {name}") for row in rows]


def names_policy(changes: Sequence[str]) -> bool:
    """Whether overrides choose a BatchNorm policy."""
    return any(names(c, "learner.batch_norm") for c in changes)


def asked_of(run: Run, changes: Sequence[str] = ()) -> Asked:
    """What a run is asked with some changes."""
    experiment, tasks = _changed(run.experiment, run.shape, changes)
    learner, untrained = run.learner, experiment.evaluation.untrained_rule
    if untrained or experiment.learner != run.experiment.learner:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(run.experiment.seed)  # draws the rule that its training began with
            learner = build_learner(experiment.learner, run.shape, run.way)
        left_out = take_weights(learner, run.learner, run.path, untrained)
        if left_out:
            warnings.warn(
                f"{left_out:,} numbers that the rule of {_inner_loop(run.experiment)} learned are "
                f"left out: {'an untrained rule' if untrained else _inner_loop(experiment)} takes "
                "the steps, from the trained weights of the network",
                stacklevel=2,
            )
    if run.steps and learner.batch_norm == "running" and not _has_averages(run, learner):
        first = " and a `pretrain` section" if learner.adapts else ""
        raise InputError(
            f"this run was trained under batch_norm={run.learner.batch_norm} and stored no "
            f"BatchNorm averages of its "
            "weights; set learner.batch_norm=support, apart or joint, or train anew with "
            "learner.batch_norm=running" + first
        )
    return Asked(experiment, tasks, learner, _remarks(run.experiment, experiment))


def _remarks(trained: Experiment, asked: Experiment) -> tuple[str, ...]:
    """What a row says of the training: its task, its labels, an inner loop that is not its own."""
    then, now = _inner_loop(trained), _inner_loop(asked)
    told = {
        "meta-trained without labels": not trained.uses_labels,
        "untrained rule": asked.evaluation.untrained_rule,
        f"trained with {then}": then != now,
    }
    own = [remark for remark, holds in told.items() if holds]
    return (*trained.train_task.remarks, *own)


def _inner_loop(experiment: Experiment) -> str:
    """The name of an experiment's inner loop."""
    adapt = experiment.learner.adapt
    return "no inner loop" if adapt is None else adapt.name


def check(experiment: Experiment, changes: Sequence[str], splits: Splits) -> str:
    """Refuse what `measure` would refuse, of an experiment that is not trained yet.

    Args:
        experiment: what is asked for.
        changes: overrides for the evaluation.
        splits: keeps what was loaded.

    Returns:
        The key of the split that is asked for, by which `splits` holds it.

    Raises:
        InputError: says what does not fit.
    """
    base = splits.get(experiment.data, experiment.data.base)
    training = experiment.train_task
    shape, way = training.sample_shape(base), training.demands.way
    changed, tasks = _changed(experiment, shape, changes)
    split = splits.get(changed.data, changed.evaluation.split)
    trained = build_learner(experiment.learner, shape, way, device="meta")
    learner = build_learner(changed.learner, shape, way, device="meta")
    untrained = changed.evaluation.untrained_rule
    take_weights(learner, trained, Path("the trained learner"), untrained)
    for task in tasks:
        check_shape(shape, task, split)
        task.check(split)
        check_protocol(learner, task, changed.evaluation.unbalanced)
    return changed.data.split_key(changed.evaluation.split)


def _changed(
    trained: Experiment, shape: tuple[int, ...], changes: Sequence[str]
) -> tuple[Experiment, tuple[Task, ...]]:
    """The experiment with the changes, and the tasks that are evaluated."""
    if not changes:
        return trained, trained.evaluation.tasks
    section = _other_data(trained.data, shape, changes)
    one = any(names(c, "episode") for c in changes)
    own = any(names(c, "evaluation.settings") for c in changes)
    # without the episodes that the run was trained on and the settings that it lists
    alone = [*changes, "train_episode=null", *([] if own else ["evaluation.settings=[{}]"])]
    if any(names(c, "episode.task") for c in changes):  # they are of another kind of task
        experiment = _read(trained, section, alone)
    else:
        try:
            experiment = _read(trained, section, changes)
        except InputError:
            # they may not go with what is asked, as one shot does not with two wrong labels
            if not one:
                raise
            experiment = _read(trained, section, alone)
    if key := experiment.training_change(trained):
        raise InputError(
            f"{key} is read while training only, and this run is trained; leave it out"
        )
    return experiment, (experiment.task,) if one else experiment.evaluation.tasks


def _read(
    trained: Experiment, section: Mapping[str, Any] | None, changes: Sequence[str]
) -> Experiment:
    """The experiment with the changes, on other data where there is a section of them."""
    if section is None:
        return trained.changed(*changes)
    return trained.with_data(section, changes)


def borrows(changes: Sequence[str]) -> bool:
    """Whether other data are evaluated in settings that the changes do not name."""
    own = any(names(c, "episode", "evaluation.settings") for c in changes)
    return not own and any(names(c, "data.name", "data.root") for c in changes)


def check_shape(shape: tuple[int, ...], task: Task, split: Split) -> None:
    """Refuse a split whose samples are of another shape than the learner takes.

    Raises:
        InputError: names both shapes.
    """
    if task.sample_shape(split) != shape:
        raise InputError(
            f"the run takes samples of shape {shape}, but {split.name} holds {split.shape}"
        )


def _has_averages(run: Run, learner: Learner) -> bool:
    """Whether the averages that the learner normalises with are those of its weights.

    They move under `running` only. A frozen encoder has those that it came with; parts around an
    adapted encoder need none.
    """
    net: Any = learner.innermost
    parts = [] if learner.adapts else net.parts
    if not net.frozen:
        parts = [net.encoder, *parts]
    moved = run.learner.batch_norm == "running"
    return not any(
        lacks_averages(p) or (not moved and _follows(p) and has_batch_norm(p)) for p in parts
    )


def _follows(module: nn.Module) -> bool:
    """Whether its BatchNorm follows the policy: an encoder's does, and that of some parts."""
    return module.follows_batch_norm if isinstance(module, Part) else True


def _other_data(
    source: DataSource, shape: tuple[int, ...], changes: Sequence[str]
) -> dict[str, Any] | None:
    """The data section made ready for another data set where the changes name one; else None."""
    named = (text_value(c.partition("=")[2]) for c in changes if c.startswith("data.name="))
    name = next(named, None)
    if name is None or name == source.name:
        return None
    kept = {k: source.given[k] for k in ("mean", "std", "augment") if k in source.given}
    known = signature(data.loader(name))
    sized = {"size": shape[-1], "color": shape[0] == 3} if len(shape) == 3 else {}
    return kept | {"name": name} | {k: v for k, v in sized.items() if k in known}
