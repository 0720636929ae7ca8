"""The metrics of a task over episodes, with intervals and all that a reader needs to trust them."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
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
from graphfsl.core.asking import shown
from graphfsl.core.display import block, call_of
from graphfsl.core.encoder import images_at_once
from graphfsl.core.episode import Episode, Target
from graphfsl.core.invalid_scores import Diverged, why_unsound
from graphfsl.core.learner import Learner, Part
from graphfsl.core.pipeline import Pipeline
from graphfsl.core.protocol import check_features, check_protocol, kind_of
from graphfsl.core.saving import known_normalisation
from graphfsl.core.task import Answer, Metric, Task
from graphfsl.core.traits import REPORTED
from graphfsl.data.episode_files import Listed
from graphfsl.data.episodes import Episodes
from graphfsl.data.split import Split
from graphfsl.data.tasks import as_task, name_of
from graphfsl.data.transforms import Transform
from graphfsl.functional.layers import last_layer
from graphfsl.functional.open_set import best_threshold
from graphfsl.io.allocator import check_room
from graphfsl.io.errors import InputError, require
from graphfsl.loops.encode import check_alone, encode_split
from graphfsl.loops.feature_cache import cached_features
from graphfsl.loops.image_change import ImageChange
from graphfsl.loops.row import MetricValue, Row

MAPS_AT_ONCE = 1 << 30  # numbers of feature maps that are kept: 4 GiB


def block_size(learner: Learner, episodes: Episodes) -> int:
    """Episodes at once: on a CPU as many as fit its cache, on a GPU as many as fit its memory."""
    asked, cpu = episodes.task.demands, episodes.device.type == "cpu"
    copies = asked.queries if learner.per_query else 1
    whole = episodes.task.nodes_are_samples or episodes.task.divides_images
    if episodes.split.x.ndim == 2 or not whole:
        return max(1, (learner.block_nodes if cpu else 65536) // (asked.nodes * copies))
    pixels = episodes.split.x[0, 0].numel()
    images = images_at_once(pixels, episodes.device)
    return max(1, images // max(asked.nodes, asked.support * copies))


def answers(
    learner: Learner,
    episodes: Episodes,
    numbers: range,
    block: int,
    image_change: ImageChange | None = None,
) -> Iterator[Answer]:
    """The scores of the queries, `block` episodes at a time, with what they are of.

    A learner that asks for labels gets the episode with its oracle. What comes with the scores then
    has the labels that it spent a budget on. Where queries may be of no class, the last column is
    their novelty (`Learner.answer_open`); where values have standard deviations, these stand behind
    them.

    Args:
        learner: in evaluation mode.
        episodes: of a split and a task.
        numbers: of the episodes.
        block: episodes at once.
        image_change: changes the images of each episode before it is answered.
    """
    done = 0
    for episode, target in episodes.batches(numbers, block):
        episode = shown(episode, target, learner)
        if image_change is not None:
            own = numbers[done : done + len(episode.x)]
            episode = image_change.changed(learner, episode, target, episodes.transform, own)
            done += len(own)
        asked = learner.ask(episode)
        yield _answered(learner, asked, episodes.task), target, asked


def _answered(learner: Learner, episode: Episode, task: Task) -> Tensor:
    """What the learner says of the queries, as the task's metrics read it."""
    if task.demands.open:
        return learner.answer_open(episode)
    if learner.tells_scale:
        return learner.answer_with_scale(episode)
    found: Tensor = learner(episode)
    return found


@contextmanager
def evaluating(learner: Learner) -> Iterator[None]:
    """Within this block the learner is in evaluation mode, and no gradients are kept."""
    was_training = learner.training
    learner.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        learner.train(was_training)


def measured(
    learner: Learner,
    episodes: Episodes,
    count: int | range,
    metrics: Mapping[str, Metric] | None = None,
    block: int | None = None,
    unbalanced: bool = False,
    image_change: ImageChange | None = None,
) -> dict[str, Tensor]:
    """What `metrics` say of each of the episodes 0 .. count - 1, or of a range.

    Args:
        learner: what answers.
        episodes: of a split and a task.
        count: how many, or their numbers.
        metrics: None takes all of the task's.
        block: episodes at once; None takes `block_size`.
        unbalanced: whether a learner that assumes balance is measured without it, too.
        image_change: changes the images of each episode before it is answered.

    Returns:
        Name -> values (n,), or sums (n, k) of a metric that is a ratio, on the CPU.

    Raises:
        InputError: where a trait forbids the task, and for scores without an answer: it names the
            first such episode, and the part that made them.
        Diverged: where that part is the inner loop.
    """
    check_protocol(learner, episodes.task, unbalanced)
    if episodes.task.nodes_are_samples:
        check_features(learner, episodes.split.x)
    metrics = metrics_of(learner, episodes.task) if metrics is None else metrics
    numbers = count if isinstance(count, range) else range(count)
    size = block or block_size(learner, episodes)
    check_room(numbers, episodes.device)
    found: dict[str, list[Tensor]] = {name: [] for name in metrics}
    done = 0
    with evaluating(learner):
        for scores, target, episode in answers(learner, episodes, numbers, size, image_change):
            if not done:
                warn_of_idle(learner, episode)
            values = {name: m.measure(scores, target, episode) for name, m in metrics.items()}
            first = next(iter(values.values()))
            unanswered = ~(first.isfinite() if first.ndim == 1 else first.isfinite().all(1))
            if bool(unanswered.any()):
                number = numbers[done + int(unanswered.nonzero()[0])]
                raise _unanswered(learner, episodes.task, episode, number)
            for name, value in values.items():
                found[name].append(value)
            done += len(first)
    return {name: torch.cat(parts).cpu() for name, parts in found.items()}


def metrics_of(learner: Learner, task: Task) -> dict[str, Metric]:
    """The metrics of a task that can be measured of a learner."""
    rejects = learner.rejects_above is not None
    return {
        name: metric
        for name, metric in task.metrics.items()
        if (rejects or not metric.needs_bound) and (learner.tells_scale or not metric.needs_scale)
    }


def _bound_of(learner: Learner, task: Task) -> list[str]:
    """What a row says of the novelty above which a query is of no class; empty where it is none."""
    if not task.demands.open or learner.rejects_above is None:
        return []
    return [f"rejects above {learner.rejects_above:.4g}"]


def _unanswered(learner: Learner, task: Task, episode: Episode, number: int) -> InputError:
    """The error for scores that hold no answer: it names the part that made them."""
    why = why_unsound(learner, episode)
    message = f"episode {number}: {why}"
    diverged = why == getattr(learner, "diverged", None)
    return Diverged(message, kind_of(learner, task)) if diverged else InputError(message)


def warn_of_idle(learner: Learner, episode: Episode) -> None:
    """Warn, in one line, where the learner's refiners change no score of these episodes.

    Their row will list them all the same.
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
        learner.encoder, *parts, per_query=learner.per_query, batch_norm=learner.batch_norm
    ).eval()
    refined, head = (
        last_layer(p.score_features(features))[:, features.query] for p in (learner, plain)
    )
    if torch.equal(refined, head):
        names = ", ".join(type(part).__name__ for part in refine)
        warnings.warn(
            f"{names} changed no score of the first {len(episode.x)} episodes, which have the "
            f"head's answers alone: "
            "other options, or another head, would fit these features",
            stacklevel=2,
        )


def rejection_threshold(learner: Learner, episodes: Episodes, count: int) -> float:
    """The novelty above which "none of the classes" makes most answers right.

    Args:
        learner: which `rejects_above` nothing yet.
        episodes: of a task whose queries may be of no class.
        count: how many of them it is chosen on.
    """
    scores, truth = [], []
    with evaluating(learner):
        size = block_size(learner, episodes)
        for found, target, _ in answers(learner, episodes, range(count), size):
            assert isinstance(target, Target)
            scores.append(found)
            truth.append(target.query)
    every = torch.cat(scores)
    return best_threshold(every[..., :-1], every[..., -1], torch.cat(truth))


def diagnose(learner: Learner, episodes: Episodes, count: int) -> dict[str, Any]:
    """What a report shows beside the metrics, from the first `count` episodes (`Task.diagnose`)."""
    with evaluating(learner):
        found = answers(learner, episodes, range(count), block_size(learner, episodes))
        return episodes.task.diagnose(found, episodes.split)


def encode_once(
    learner: Learner, split: Split, transform: Transform | None, images: int
) -> tuple[Learner, Split]:
    """The same learner and split on features, where that gives the same answers and saves work.

    It does where an image's features do not depend on its episode. Those of a frozen encoder are
    kept on disk; others are computed where there are more images to come than the split has.

    Args:
        learner: any; one that cannot work so is given back as it is.
        split: of images or features.
        transform: the normalisation of images.
        images: how many are to come.
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


def images_to_come(tasks: Sequence[Task], episodes: int, split: Split) -> int:
    """How many images the episodes of each task show, for `encode_once`.

    They are more than the split has where a task keeps the features of samples that are gone: these
    have to be features from the start, in however few episodes.
    """
    asked = [task.demands for task in tasks]
    if any(one.keeps_features for one in asked):
        return len(split.x) + 1
    return episodes * sum(one.nodes for one in asked)


@dataclass(frozen=True)
class Result:
    """What was measured of a learner in a task.

    Args:
        learner: what was measured.
        task: what it was asked.
        split: the name of the split.
        seed: of the episodes.
        measured: metric -> values (episodes,), or sums (episodes, k) of one that is a ratio.
        seconds: how long it took.
    """

    learner: Learner
    task: Task
    split: str
    seed: int
    measured: Mapping[str, Tensor]
    seconds: float

    def per_unit(self, name: str) -> list[float]:
        """A metric of each statistical unit."""
        values = self.task.metrics[name].per_unit(self.measured[name], self.task.unit)
        return [round(value, 6) for value in values.tolist()]

    @property
    def values(self) -> Tensor:
        """The first metric of each statistical unit: (units,)."""
        name, metric = self.task.metric
        return metric.per_unit(self.measured[name], self.task.unit)

    @property
    def accuracies(self) -> Tensor:
        """The accuracy of each episode of a task of classes: (episodes,)."""
        return self.measured["accuracy"]

    @property
    def mean(self) -> float:
        """The mean of the first metric."""
        name, metric = self.task.metric
        return metric.value(self.measured[name])

    @property
    def ci95(self) -> float | None:
        """The half-width of the mean's 95% interval; None for one unit."""
        name, metric = self.task.metric
        return metric.with_interval(self.measured[name], self.task.unit)[1]

    def row(self) -> Row:
        """The row that a table shows."""
        task = self.task
        learner = self.learner
        metrics = {}
        for name, metric in metrics_of(learner, task).items():
            value = MetricValue.of(metric, self.measured[name], task.unit)
            # the first is finite; another one may be of no use for some episodes
            if math.isfinite(value.value):
                metrics[name] = value
        traits = [trait for trait in REPORTED if getattr(learner, trait)]
        traits += _bound_of(learner, task)
        first, _ = task.metric
        return Row(
            task=name_of(task),
            data=self.split,
            asked=task.row,
            setting=kind_of(learner, task),
            traits=[*traits, *learner.remarks],
            batch_norm=learner.batch_norm,
            metrics=metrics,
            values=self.values.tolist(),
            episodes=len(self.measured[first]),
            seed=self.seed,
            seconds=round(self.seconds, 2),
        )

    def __repr__(self) -> str:
        parts = getattr(self.learner, "parts", [self.learner])
        row = self.row()
        facts = {
            "data": self.split,
            "episodes": f"{row.episodes:,}: {self.task}",
            "answers": f"{row.setting}, {row.batch_norm} BatchNorm statistics",
            "learner": " + ".join(map(call_of, parts)),
            "seed": f"{self.seed}, {self.seconds:.1f} s",
        }
        return block(f"Result: {row.value}", facts)

    def __str__(self) -> str:
        row = self.row()
        kind = f"{row.setting}, {row.batch_norm} BatchNorm statistics"
        kind = ", ".join([kind, *_bound_of(self.learner, self.task)])
        if not self.task.demands.open:
            return f"{self.task.title}: {row.value} ({kind})"
        other = [f"{name} {value}" for name, value in row.metrics.items() if name != row.metric]
        return f"{self.task.title}: {row.metric} {row.value}, {', '.join(other)} ({kind})"


def evaluate(
    learner: Learner,
    split: Split,
    setting: Task | Mapping[str, Any] | None = None,
    episodes: int = 600,
    seed: int = 0,
    transform: Transform | None = None,
    block: int | None = None,
    device: torch.device | str | None = None,
    listed: Listed | None = None,
    unbalanced: bool = False,
    image_change: ImageChange | None = None,
    **options: Any,
) -> Result:
    """The metrics of a learner on episodes 0 .. `episodes` - 1 of a split, or on `listed` ones.

    Args:
        learner: what answers.
        split: of which the episodes are drawn.
        setting: a task, or its fields as a mapping; or these are given as keywords.
        episodes: how many; of `listed` ones, at most those that there are.
        seed: of the episodes.
        transform: the normalisation of images. None takes what the learner was trained with by
            `Trainer` or, without that, what its encoder says.
        block: episodes at once; None takes `block_size`.
        device: where it is computed; None takes the learner's, or the split's where it has no
            weights.
        listed: episodes of a file, in place of drawn ones.
        unbalanced: measure a learner that assumes as many queries, or unlabeled images, of every
            class on Dirichlet episodes, too.
        image_change: changes the images of each episode before it is answered.
        options: fields of the task, where `setting` is not given.

    Raises:
        InputError: where a trait of the learner forbids the setting, or the split is too small for
            it.
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
        setting, seed, options = listed.task, listed.seed, {}
        episodes = min(episodes, len(listed))
    task = as_task(setting, options)
    require(
        episodes % task.unit == 0,
        f"{task.unit} episodes form one unit; evaluation.episodes must be a multiple of it, "
        f"not "
        f"{episodes}",
    )
    check_protocol(learner, task, unbalanced)
    parameter = next(learner.parameters(), None)
    device = as_device(device or (parameter.device if parameter is not None else split.x.device))
    learner.to(device)
    start = time.perf_counter()
    answering = learner
    if image_change is not None and image_change.source is not None:
        image_change.source.to(device)
    if task.encodes_once and image_change is None:  # which changes each image anew
        images = images_to_come([task], episodes, split)
        answering, split = encode_once(learner, split, transform, images)
    loader = Episodes(split, task, seed, transform, device, listed)
    found = measured(answering, loader, episodes, None, block, unbalanced, image_change)
    name, metric = task.metric
    value = metric.value(found[name])
    require(math.isfinite(value), f"the {name} of all episodes together is {value}, no number")
    return Result(learner, task, split.name, seed, found, time.perf_counter() - start)
