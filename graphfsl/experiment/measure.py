"""A trained run in any setting and on any data set, as rows of a results table."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from torch import nn

from graphfsl import data
from graphfsl.core.adapt import Adapt
from graphfsl.core.batchnorm import has_batch_norm, lacks_averages
from graphfsl.core.learner import Learner, Part
from graphfsl.core.pipeline import Pipeline
from graphfsl.core.schema import make, signature
from graphfsl.data import Episodes, Sampler, Setting, Split
from graphfsl.data.episode_files import read_episodes
from graphfsl.experiment import config as conf
from graphfsl.experiment.builder import build
from graphfsl.experiment.overrides import names, text_value
from graphfsl.experiment.results import full_row
from graphfsl.experiment.run import Run
from graphfsl.experiment.same_run import remembering
from graphfsl.io.allocator import reuse_freed_memory
from graphfsl.io.checkpoint import load_weights
from graphfsl.io.errors import InputError
from graphfsl.loops.evaluation import diagnose, encode_once, evaluate
from graphfsl.loops.protocol import check_protocol, nodes
from graphfsl.loops.trainer import Trainer

Say = Callable[[str], None]
# what a list decides
LISTED = ("episode", "evaluation.episodes", "evaluation.seed", "evaluation.settings")
DIAGNOSED = 200  # episodes that the reliability diagram and the confusion matrix are drawn from


def measure(
    run: Run,
    changes: Sequence[str] = (),
    say: Say | None = None,
    episodes: Path | None = None,
    memo: dict[str, Split] | None = None,
) -> list[dict[str, Any]]:
    """Rows of every setting in the `evaluation` section; `changes` are overrides such as
    episode.way=20.

    With an override of `episode`, the one setting that it makes is evaluated in place of the listed
    ones. With one of `data.name`, the other options of that data set start from its own defaults.
    With one of `learner`, the trained weights must fit the learner that it makes. episodes: a file
    of `graphfsl episodes`; then these very ones are evaluated. memo: keeps this run's features of a
    split for the next call.
    """
    reuse_freed_memory()
    config, settings, learner = asked(run, changes)
    options = conf.evaluation(config)
    split = conf.load_split(config["data"], options.split)
    listed = read_episodes(episodes, split) if episodes else None
    if listed is not None:
        if ignored := next((c for c in changes if names(c, *LISTED)), None):
            raise InputError(
                f"{ignored} changes nothing: {episodes} lists the very episodes; leave it out"
            )
        settings, options = (
            [listed.setting],
            replace(options, episodes=len(listed), seed=listed.seed),
        )
    check_shape(run.shape, split)
    # A published number is for its own learner, data set and test split.
    same = config["learner"] == run.config["learner"] and conf.rootless(
        config["data"]
    ) == conf.rootless(run.config["data"])
    published = config.get("published") if same and options.split == "test" else None
    for s in settings:
        check_protocol(learner, s, options.unbalanced)
    device = make(Trainer, config.get("trainer") or {}, "trainer").fabric().device
    images = options.episodes * sum(nodes(s) for s in settings)
    key = json.dumps(
        [
            config["data"],
            options.split,
            config["learner"].get("encoder"),
            getattr(learner, "wants_maps", False),
        ],
        sort_keys=True,
    )
    if memo is not None and isinstance(learner, Pipeline) and learner.fixed and split.x.ndim == 4:
        if key not in memo:
            memo[key] = encode_once(learner.to(device), split, run.transform, len(split.x) + 1)[1]
        learner, split = learner.on_features(), memo[key]
    learner, split = encode_once(learner.to(device), split, run.transform, images)
    rows = []
    # A set of its own way and shot is asked in those of another one: that is said.
    origin = run.config["data"]["name"] if listed is None and borrows(changes) else None
    if origin and say:
        say(
            f"{split.name}: way and shot are those of the run on {origin}; episode.way=… and "
            f"episode.shot=… set others"
        )
    for s in settings:
        numbers = (options.episodes, options.seed, run.transform, options.block)
        result = evaluate(learner, split, s, *numbers, device, listed, options.unbalanced)
        drawn = Episodes(split, s, options.seed, run.transform.plain(), device, listed)
        seen = diagnose(learner, drawn, min(options.episodes, DIAGNOSED))
        row = full_row(config, result, str(device), run.steps, published) | seen
        told = {"unfinished": run.unfinished, "setting_from": origin}
        rows.append(row | {k: v for k, v in told.items() if v})
        if say:
            say(str(result))
    return rows


def measure_policies(
    run: Run, changes: Sequence[str] = (), say: Say | None = None, episodes: Path | None = None
) -> list[dict[str, Any]]:
    """`measure`; where the run's own BatchNorm policy lets queries share statistics, under
    `support` too.

    So a transductive number, as papers state it, never stands without the inductive one of the same
    weights.
    """
    rows = measure(run, changes, say, episodes)
    if asked(run, changes)[2].shares_statistics and not names_policy(changes):
        rows += measure(run, [*changes, "learner.batch_norm=support"], say, episodes)
    return rows


def names_policy(changes: Sequence[str]) -> bool:
    """Whether overrides choose a BatchNorm policy."""
    return any(names(c, "learner.batch_norm") for c in changes)


def asked(run: Run, changes: Sequence[str] = ()) -> tuple[dict[str, Any], list[Setting], Learner]:
    """The run's configuration with the changes, the settings that are evaluated, and the trained
    learner as changed.
    """
    config, settings = _asked(run.config, run.shape, changes)
    learner = run.learner
    if config["learner"] != run.config["learner"]:
        learner = build(config["learner"], run.shape, run.way)
        load_weights(learner, run.learner.state_dict(), run.path)
    if run.steps and learner.batch_norm == "running" and not _has_averages(run, learner):
        first = " and a `pretrain` section" if isinstance(learner, Adapt) else ""
        raise InputError(
            f"this run was trained under batch_norm={run.learner.batch_norm} and stored no "
            f"BatchNorm averages of its "
            "weights; set learner.batch_norm=support, apart or joint, or train anew with "
            "learner.batch_norm=running" + first
        )
    return config, settings, learner


def check(config: dict[str, Any], changes: Sequence[str], splits: dict[str, Split]) -> None:
    """What `measure` would refuse of a configuration that is not trained yet; `splits` keeps what
    was loaded.
    """
    load = remembering(splits)
    shape = load(config["data"], conf.base_split(config["data"])).shape
    changed, settings = _asked(config, shape, changes)
    split = load(changed["data"], conf.evaluation(changed).split)
    check_shape(shape, split)
    way = conf.setting(config, config.get("train_episode"), "train_episode").way
    trained, learner = (build(c["learner"], shape, way, device="meta") for c in (config, changed))
    load_weights(learner, trained.state_dict(), Path("the trained learner"))
    for s in settings:
        Sampler(split, s)
        check_protocol(learner, s, conf.evaluation(changed).unbalanced)


def _asked(
    config: dict[str, Any], shape: tuple[int, ...], changes: Sequence[str]
) -> tuple[dict[str, Any], list[Setting]]:
    """The configuration with the changes, and the settings that are evaluated."""
    trained, config = config, conf.merge(_other_data(config, shape, changes), changes)
    if key := _of_training(trained, config):
        raise InputError(
            f"{key} is read while training only, and this run is trained; leave it out"
        )
    one = any(names(c, "episode") for c in changes)
    return config, [
        conf.setting(config, s) for s in ([{}] if one else conf.evaluation(config).settings)
    ]


TRAINING = (
    *("seed", "seeds", "pretrain", "train_episode", "trainer"),
    *("data.mean", "data.std", "data.augment", "data.base", "data.base_classes"),
    *("learner.encoder.weights", "learner.encoder.pretrained"),
)  # what an evaluation does not read, but for the device


def _of_training(trained: Mapping[str, Any], config: Mapping[str, Any]) -> str | None:
    """The first key whose value, given anew, would say nothing to a run that is trained."""
    was, now = (OmegaConf.create(dict(c)) for c in (trained, config))
    for key in TRAINING:
        there, here = (OmegaConf.select(c, key) for c in (was, now))
        if here is None or here == there:
            continue
        if not OmegaConf.is_dict(here):
            return key
        if other := [
            k
            for k, v in here.items()
            if k not in ("device", "logger") and v != (there or {}).get(k)
        ]:
            return f"{key}.{other[0]}"
    return None


def borrows(changes: Sequence[str]) -> bool:
    """Whether other data are evaluated in settings that the changes do not name."""
    own = any(names(c, "episode", "evaluation.settings") for c in changes)
    return not own and any(names(c, "data.name", "data.root") for c in changes)


def check_shape(shape: tuple[int, ...], split: Split) -> None:
    if split.shape != shape:
        raise InputError(
            f"the run takes samples of shape {shape}, but {split.name} holds {split.shape}"
        )


def _has_averages(run: Run, learner: Learner) -> bool:
    """Whether the averages that the learner normalises with are those of its weights: they move
    under `running` only.

    A frozen encoder has those that it came with; parts around an adapted encoder need none.
    """
    net: Any = learner.net if isinstance(learner, Adapt) else learner
    parts = [] if isinstance(learner, Adapt) else net.parts
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
    config: dict[str, Any], shape: tuple[int, ...], changes: Sequence[str]
) -> dict[str, Any]:
    """The configuration, its data section made ready for another data set where the changes name
    one.
    """
    name = next(
        (text_value(c.partition("=")[2]) for c in changes if c.startswith("data.name=")), None
    )
    section = config["data"]
    if name is None or name == section["name"]:
        return config
    kept = {k: section[k] for k in ("mean", "std", "augment") if k in section}
    known = signature(data.loader(name))
    sized = {"size": shape[-1], "color": shape[0] == 3} if len(shape) == 3 else {}
    return {
        **config,
        "data": kept | {"name": name} | {k: v for k, v in sized.items() if k in known},
    }
