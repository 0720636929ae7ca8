"""Accuracy over episodes, with its interval and all that a reader needs to trust it."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from graphfsl.core.arguments import (
    A_LEARNER,
    A_SPLIT,
    A_TRANSFORM,
    as_device,
    check_kind,
    whole_number,
)
from graphfsl.core.display import block, call_of
from graphfsl.core.episode import Episode
from graphfsl.core.invalid_scores import first_unsound
from graphfsl.core.learner import Learner, Part
from graphfsl.core.pipeline import Pipeline
from graphfsl.core.saving import known_normalisation
from graphfsl.core.traits import REPORTED
from graphfsl.data.episode_files import Listed
from graphfsl.data.episodes import Episodes
from graphfsl.data.sampler import Setting
from graphfsl.data.split import Split
from graphfsl.data.transforms import Transform
from graphfsl.functional.calibration import confusion, reliability
from graphfsl.functional.layers import last_layer
from graphfsl.functional.statistics import accuracy, mean_and_ci95
from graphfsl.io.allocator import room_for
from graphfsl.io.errors import InputError
from graphfsl.loops.encode import check_alone, encode_split
from graphfsl.loops.feature_cache import cached_features
from graphfsl.loops.protocol import check_features, check_protocol, kind_of, nodes

IMAGES_AT_ONCE = 1024  # of 28 x 28 pixels
MAPS_AT_ONCE = 1 << 30  # numbers of feature maps that are kept: 4 GiB
CONFUSED = 70  # classes of a confusion matrix that can still be read


def block_size(learner: Learner, episodes: Episodes) -> int:
    """Episodes at once: on a CPU a working set that fits the cache, on a GPU one that fits its
    memory.
    """
    s, cpu = episodes.setting, episodes.device.type == "cpu"
    copies = s.way * s.query if learner.per_query else 1
    if episodes.split.x.ndim == 2:
        return max(1, (learner.block_nodes if cpu else 65536) // (nodes(s) * copies))
    pixels = episodes.split.x[0, 0].numel()
    images = (1 if cpu else 8) * IMAGES_AT_ONCE * 28 * 28 // pixels
    return max(1, images // max(nodes(s), s.way * s.most_shots * copies))


@torch.no_grad()
def accuracies(
    learner: Learner,
    episodes: Episodes,
    count: int | range,
    block: int | None = None,
    unbalanced: bool = False,
) -> Tensor:
    """Accuracy of each of the episodes 0 .. count - 1, or of a range; the learner answers in
    evaluation mode.

    Raises InputError where a trait forbids the setting, and for scores without an answer
    (`accuracy`): it names the first such episode, and the part that made them.
    """
    check_protocol(learner, episodes.setting, unbalanced)
    check_features(learner, episodes.split.x)
    was_training = learner.training
    learner.eval()
    try:
        size = block or block_size(learner, episodes)
        numbers = count if isinstance(count, range) else range(count)
        out = room_for(numbers, episodes.device)
        for i, (episode, target) in enumerate(episodes.batches(numbers, size)):
            if i == 0:
                warn_of_idle(learner, episode)
            asked = target.told(episode) if learner.asks else episode
            found = accuracy(learner(asked), target.query)
            out[i * size : (i + 1) * size] = found
            if bool(found.isnan().any()):
                first = numbers[i * size + int(found.isnan().nonzero()[0])]
                raise InputError(
                    f"episode {first}: the {first_unsound(learner, asked)} made values that are "
                    f"not finite"
                )
    finally:
        learner.train(was_training)
    return out.cpu()


def warn_of_idle(learner: Learner, episode: Episode) -> None:
    """One line where the learner's refiners change no score of these episodes, though their row
    will list them.
    """
    if not isinstance(learner, Pipeline) or learner.asks:
        return
    refine = [part for part in learner.refine if isinstance(part, Part)]
    if not any(
        part.transductive or (part.uses_unlabeled and episode.n_unlabeled) for part in refine
    ):
        return
    features = learner.encode(episode)
    parts = (list(learner.augment), list(learner.graph), learner.head)
    plain = Pipeline(
        None, *parts, per_query=learner.per_query, batch_norm=learner.batch_norm
    ).eval()
    refined, head = (
        last_layer(p.score_features(features))[:, episode.query] for p in (learner, plain)
    )
    if torch.equal(refined, head):
        names = ", ".join(type(part).__name__ for part in refine)
        warnings.warn(
            f"{names} changed no score of the first {len(episode.x)} episodes, which have the "
            f"head's answers alone: "
            "other options, or another head, would fit these features",
            stacklevel=2,
        )


@torch.no_grad()
def diagnose(learner: Learner, episodes: Episodes, count: int) -> dict[str, Any]:
    """What a report draws beside the accuracy, from the first `count` episodes.

    reliability: [answers, mean probability, accuracy] for 15 equal bins of the top probability.
    confusion: the data set's classes, and how often each was answered with each, where it has at
        most CONFUSED of them.
    """
    was_training = learner.training
    learner.eval()
    classes = episodes.split.classes
    outcomes: list[list[Tensor]] = []
    for episode, target in episodes.batches(count, block_size(learner, episodes)):
        p = learner(target.told(episode) if learner.asks else episode).float().softmax(-1)
        named = target.classes.gather(1, torch.cat([p.argmax(-1), target.query.clamp_min(0)], 1))
        told, truth = named.chunk(2, 1)
        real = target.query >= 0
        outcomes.append(
            [
                x.flatten()
                for x in (p.amax(-1), real & (told == truth), told, truth.where(real, -100))
            ]
        )
    learner.train(was_training)
    top, right, told, truth = (torch.cat(x) for x in zip(*outcomes, strict=True))
    if not bool(top[truth >= 0].isfinite().all()):
        raise InputError(
            "some queries have no finite scores; `evaluate` names the part that made them"
        )
    # Two columns, right and wrong, have the same top probability and the same hits.
    pair = torch.stack([top, torch.zeros_like(top)], -1)
    bins = reliability(pair, (~right).long().where(truth >= 0, -100))
    out: dict[str, Any] = {
        "reliability": [[int(n), round(c, 4), round(a, 4)] for n, c, a in bins.tolist()]
    }
    if len(classes) <= CONFUSED:
        counts = confusion(told, truth, len(classes))
        out["confusion"] = {"classes": list(classes), "counts": counts.tolist()}
    return out


def encode_once(
    learner: Learner, split: Split, transform: Transform | None, images: int
) -> tuple[Learner, Split]:
    """The same learner and split on features, where that gives the same answers and `images` to
    come make it worth it.

    It does where an image's features do not depend on its episode. Those of a frozen encoder are
    kept on disk.
    """
    if not (isinstance(learner, Pipeline) and learner.fixed) or split.x.ndim == 2:
        return learner, split
    check_alone(learner.encoder)
    if learner.frozen:
        return learner.on_features(), cached_features(learner, split, transform or Transform())
    if images <= len(split.x) or (
        learner.wants_maps and len(split.x) * math.prod(learner.maps or ()) > MAPS_AT_ONCE
    ):
        return learner, split
    return learner.on_features(), encode_split(learner, split, transform or Transform())


@dataclass(frozen=True)
class Result:
    """The accuracies (episodes,) of a learner in a setting; `row` is what a table shows."""

    learner: Learner
    setting: Setting
    split: str
    seed: int
    accuracies: Tensor
    seconds: float

    @property
    def mean(self) -> float:
        return mean_and_ci95(self.accuracies)[0]

    @property
    def ci95(self) -> float | None:
        """Half-width of the 95% interval; None for one episode."""
        return mean_and_ci95(self.accuracies)[1]

    def row(self) -> dict[str, Any]:
        s, learner = self.setting, self.learner
        return {
            "data": self.split,
            "way": s.way,
            "shot": s.shot,
            "query": s.query,
            "unlabeled": s.unlabeled,
            "distractors": s.distractors,
            "dirichlet": s.dirichlet,
            "labeled_fraction": s.labeled_fraction,
            "label_seed": s.label_seed,
            "max_shot": s.max_shot,
            "groups": s.groups,
            "pool_dirichlet": s.pool_dirichlet,
            "setting": kind_of(learner, s),
            "traits": [t for t in REPORTED if getattr(learner, t)],
            "batch_norm": learner.batch_norm,
            **percent(*mean_and_ci95(self.accuracies)),
            "episodes": len(self.accuracies),
            "seed": self.seed,
            "seconds": round(self.seconds, 2),
        }

    def __repr__(self) -> str:
        facts = {
            "data": self.split,
            "episodes": f"{len(self.accuracies):,}: {self.setting}",
            "answers": f"{kind_of(self.learner, self.setting)}, {self.learner.batch_norm} "
            f"BatchNorm statistics",
            "learner": " + ".join(
                call_of(p) for p in getattr(self.learner, "parts", [self.learner])
            ),
            "seed": f"{self.seed}, {self.seconds:.1f} s",
        }
        return block(f"Result: {with_interval(self.row())} %", facts)

    def __str__(self) -> str:
        s, policy = self.setting, self.learner.batch_norm
        kind = f"{kind_of(self.learner, s)}, {policy} BatchNorm statistics"
        return f"{s.way}-way {s.shot}-shot: {with_interval(self.row())} % ({kind})"


def percent(mean: float, half: float | None) -> dict[str, float | None]:
    """A mean and its half-width as a row holds them."""
    return {
        "accuracy": round(100 * mean, 3),
        "ci95": None if half is None else round(100 * half, 3),
    }


def with_interval(row: Mapping[str, Any]) -> str:
    """The accuracy of a row and its 95% interval, where it has one: "61.20 ± 0.45"."""
    half = row.get("ci95")
    return f"{row['accuracy']:.2f}" + (
        f" ± {half:.2f}" if half is not None and math.isfinite(half) else ""
    )


def evaluate(
    learner: Learner,
    split: Split,
    setting: Setting | Mapping[str, Any] | None = None,
    episodes: int = 600,
    seed: int = 0,
    transform: Transform | None = None,
    block: int | None = None,
    device: torch.device | str | None = None,
    listed: Listed | None = None,
    unbalanced: bool = False,
    **options: Any,
) -> Result:
    """Accuracy on episodes 0 .. `episodes` - 1 of a split; `setting`, or its fields as a mapping or
    as keywords; or on `listed` ones.

    transform: the normalisation of images. None takes what the learner was trained with by
        `Trainer` or, without that, what its encoder says.
    unbalanced: measure a learner that assumes as many queries, or unlabeled images, of every class
        on Dirichlet episodes, too.
    Raises InputError where a trait of the learner forbids the setting, or the split is too small
    for it.
    """
    check_kind(learner, Learner, "the learner", A_LEARNER)
    check_kind(split, Split, "the split", A_SPLIT)
    check_kind(transform, (Transform, type(None)), "the transform", A_TRANSFORM)
    check_kind(
        listed,
        (Listed, type(None)),
        "listed",
        "episodes as graphfsl.data.episode_files.read_episodes reads them",
    )
    transform = (
        transform.plain() if transform is not None else Transform(*known_normalisation(learner))
    )
    episodes = whole_number(episodes, "evaluation.episodes", 1)
    block = None if block is None else whole_number(block, "block", 1)
    if listed is not None:
        setting, seed, episodes, options = (
            listed.setting,
            listed.seed,
            min(episodes, len(listed)),
            {},
        )
    setting = Setting.of(setting, options)
    check_protocol(learner, setting, unbalanced)
    parameter = next(learner.parameters(), None)
    device = as_device(device or (parameter.device if parameter is not None else split.x.device))
    learner.to(device)
    start = time.perf_counter()
    answering, split = encode_once(learner, split, transform, nodes(setting) * episodes)
    loader = Episodes(split, setting, seed, transform, device, listed)
    values = accuracies(answering, loader, episodes, block, unbalanced)
    return Result(learner, setting, split.name, seed, values, time.perf_counter() - start)
