"""`Task`: what an episode asks.

Loops, studies, reports and tables know of a task only what stands here, so that a new kind of task
is a new file in `graphfsl/data/tasks/`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

import numpy as np
import torch
from torch import Tensor

from graphfsl.core.episode import BaseTarget, Episode
from graphfsl.functional.statistics import mean_and_ci95

if TYPE_CHECKING:
    from graphfsl.data.split import Split

Answer = tuple[Tensor, BaseTarget, Episode]  # scores of the queries, and what they are of


class Normalise(Protocol):
    """What makes of stored samples what a learner sees, and moves their label maps alike.

    Attributes:
        augments: whether each sample is augmented; then it takes the samples of a draw alone.
    """

    @property
    def augments(self) -> bool:
        """Whether each sample is augmented."""

    def __call__(self, samples: Tensor) -> Tensor:
        """Stored samples (B, n, *S) -> what the learner sees, on the device of the batch."""

    def views(self, samples: Tensor, u: Tensor, **augment: Any) -> Tensor:
        """Stored images (B, n, *S) by an augmentation in place of the run's, normalised alike.

        Args:
            samples: the images.
            u: (B, n, draws) uniforms that augment each image.
            augment: options of `graphfsl.data.transforms.Transform`.
        """

    def moved(self, maps: Tensor) -> Tensor:
        """Label maps (B, n, H, W) of these images, moved as the augmentation moves the images."""


@dataclass(frozen=True)
class Demands:
    """What a task asks of a learner and of the machine.

    Args:
        way: classes of an episode, the columns of its label weights.
        nodes: nodes of the largest episode.
        support: support nodes of the largest episode.
        queries: query nodes of the largest episode.
        shots: support nodes of every class, padding included.
        queries_per_class: queries of every class; None where it is not known before they are drawn.
        pool: whether there are unlabeled nodes.
        balanced_pool: whether the pool holds as many nodes of every class.
        labeled_fraction: the share of the samples that may show their labels.
        label_seed: which share that is.
        answers: what a query is answered with, "classes" or "values".
        open: whether queries may be of no class, so that novelty is asked for beside the scores.
        budget: labels that a learner may ask for; queries are among those that have them.
        keeps_features: whether nodes are kept as features once their samples are gone, so that each
            must be encoded by itself.
        side_loss: whether answers to queries cost something beside the learner's own loss.
    """

    way: int
    nodes: int
    support: int
    queries: int
    shots: int | None = None
    queries_per_class: int | None = None
    pool: bool = False
    balanced_pool: bool = True
    labeled_fraction: float = 1.0
    label_seed: int = 0
    answers: str = "classes"
    open: bool = False
    budget: int = 0
    keeps_features: bool = False
    side_loss: bool = False


@dataclass(frozen=True)
class Metric:
    """A number that says how well the queries of an episode were answered.

    Args:
        measure: (scores (B, Q, …), target, episode) -> a value of each task (B,), NaN where it was
            not answered; or sums (B, k), of which `ratio` makes a value. Where queries may be of no
            class (`Demands.open`), the scores are those of `Learner.answer_open`.
        unit: "%" for a share, which people are shown times hundred; else the unit itself.
        more_is_better: False where less is.
        ratio: sums (…, k) -> values (…), such as intersection over union; None for a mean.
        needs_bound: whether it is measured only of a learner that `rejects_above` a bound.
        needs_scale: whether it is measured only of a learner that `tells_scale`; the answers are
            then those of `Learner.answer_with_scale`.
    """

    measure: Callable[[Tensor, Any, Episode], Tensor]
    unit: str = "%"
    more_is_better: bool = True
    ratio: Callable[[Tensor], Tensor] | None = None
    needs_bound: bool = False
    needs_scale: bool = False

    def value(self, measured: Tensor) -> float:
        """The value over all episodes: their mean (n,), or the ratio of their sums (n, k)."""
        if self.ratio is None:
            return float(measured.double().mean())
        return float(self.ratio(measured.double().sum(0)))

    def per_unit(self, measured: Tensor, episodes: int = 1) -> Tensor:
        """One value (n / episodes,) of each statistical unit of so many consecutive episodes.

        For a ratio of sums that is the jackknife pseudo-value n theta - (n - 1) theta_(-i) (Tukey
        1958), so that the means, intervals and paired tests of other metrics hold for it too.
        """
        groups = measured.double().unflatten(0, (-1, episodes))
        if self.ratio is None:
            mean: Tensor = groups.mean(1)
            return mean
        sums = groups.sum(1)
        n = len(sums)
        whole = self.ratio(sums.sum(0))
        without = self.ratio(sums.sum(0) - sums) if n > 1 else whole.expand(1)
        return n * whole - (n - 1) * without

    def with_interval(
        self, measured: Tensor, episodes: int = 1
    ) -> tuple[float, float | None, Tensor]:
        """`value`, the half-width of its 95% interval, and `per_unit`.

        The half-width is None for one unit, and for a ratio that a single unit decides: without it
        the sums have none.
        """
        units = self.per_unit(measured, episodes)
        half = mean_and_ci95(units)[1]
        told = half is not None and math.isfinite(half)
        return self.value(measured), half if told else None, units


@dataclass(frozen=True)
class Caption:
    """How the caption of a picture says a field of a task.

    Args:
        text: what it says, with {} for the value: "{}-shot".
        absent: what it says where the value is None.
        always: True: also where all pictures agree in it.
    """

    text: str
    absent: str = ""
    always: bool = False

    def of(self, value: Any) -> str:
        """What is said of a value."""
        return self.absent if value is None else self.text.format(value)


@dataclass(frozen=True)
class PoolCurve:
    """The figure that plots the first metric against the size of the pool of unlabeled samples.

    Args:
        size: the field that is plotted against.
        distractors: the field that tells its lines apart, how many further classes the pool has.
        heading: what stands behind "Accuracy against".
        axis: what stands below the figure.
    """

    size: str
    distractors: str
    heading: str
    axis: str


@dataclass(frozen=True)
class Draw:
    """Which samples make B episodes.

    A task's own draw adds fields; of its arrays the first axis is that of the episodes.

    Args:
        ids: (B, n) the sample that each node shows, -1 for padding.
    """

    listed_as: ClassVar[Mapping[str, str]] = {}  # arrays that files call by another name

    ids: np.ndarray

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """Its arrays by name."""
        every = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: value for name, value in every.items() if isinstance(value, np.ndarray)}

    @property
    def numbers(self) -> dict[str, int]:
        """The facts that hold for all of its episodes."""
        every = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {
            name: value
            for name, value in every.items()
            if value is not None and not isinstance(value, np.ndarray)
        }

    def rows(self, rows: slice | np.ndarray) -> Self:
        """The draw of some of these episodes."""
        return dataclasses.replace(self, **{name: a[rows] for name, a in self.arrays.items()})


class Draws(Protocol):
    """What draws the episodes of a split: a pure function of their numbers."""

    def draw(self, i: np.ndarray | list[int]) -> Any:
        """The episodes with the numbers i, as a `Draw`."""


@dataclass(frozen=True)
class Task:
    """What an episode asks; the fields of a subclass are the options of the section `episode`.

    A subclass is registered by its file in `graphfsl/data/tasks/`, whose `__all__` names it. It has
    `demands`, `title`, `metrics`, `draws` and `assemble`.
    """

    unit: ClassVar[int] = 1  # consecutive episodes that form one statistical unit
    nodes_are_samples: ClassVar[bool] = True  # False: a node is a piece of a sample, or none
    divides_images: ClassVar[bool] = False  # True: nodes are images until they become their cells
    alters_samples: ClassVar[bool] = False  # True: a node is its sample, changed anew each time
    uses_labels: ClassVar[bool] = True  # False: what it asks does not depend on the split's labels
    unpublished: ClassVar[tuple[str, ...]] = ()  # fields that a published number does not state
    columns: ClassVar[tuple[str, ...]] = ()  # fields in the order of tables; all where it is empty
    always_shown: ClassVar[tuple[str, ...]] = ()  # fields whose defaults are columns of tables too
    # field -> what follows its value where all rows share it
    shared: ClassVar[Mapping[str, str]] = {}
    # field -> its name in a heading, and on an axis, of a figure that plots the metric against it
    curves: ClassVar[Mapping[str, tuple[str, str]]] = {}
    # a field of those -> the field without which it changes nothing
    needs: ClassVar[Mapping[str, str]] = {}
    # a field of those such that studies tell the area under the metric against it
    area_over: ClassVar[str | None] = None
    pool_curve: ClassVar[PoolCurve | None] = None  # the figure against unlabeled samples
    captions: ClassVar[Mapping[str, Caption]] = {}  # field -> how a caption says it
    diagnoses: ClassVar[tuple[str, ...]] = ()  # what `diagnose` finds
    # one of those that is a share for each class -> the heading of its table
    by_class: ClassVar[Mapping[str, str]] = {}
    draw_type: ClassVar[type[Draw]] = Draw  # what its `draws` draw

    @property
    def encodes_once(self) -> bool:
        """Whether the features of a sample are those of its node in every episode."""
        return self.nodes_are_samples and not self.alters_samples

    @property
    def demands(self) -> Demands:
        """What it asks of a learner and of the machine."""
        raise NotImplementedError

    @property
    def title(self) -> str:
        """Its name for people, such as "5-way 1-shot"."""
        raise NotImplementedError

    @property
    def details(self) -> Sequence[str]:
        """What else tells it from others of its title, such as "30 unlabeled"."""
        return ()

    @property
    def size(self) -> Sequence[float]:
        """The numbers that tables are sorted by."""
        return ()

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """Name -> metric; the first one selects checkpoints and orders tables."""
        raise NotImplementedError

    def draws(self, split: Split, seed: int) -> Draws:
        """What draws its episodes from a split.

        Raises:
            InputError: where the split is too small.
        """
        raise NotImplementedError

    def assemble(
        self, draw: Any, split: Split, raw: Tensor, normalise: Normalise, device: torch.device
    ) -> tuple[Episode, BaseTarget]:
        """The batch of episodes that a draw describes.

        Args:
            draw: what `draws` made.
            split: what it was drawn from.
            raw: (B, n, *S) the split's stored samples with the draw's ids.
            normalise: from stored samples to what the learner sees, on `device`.
            device: of the batch.
        """
        raise NotImplementedError

    def check_draw(self, draw: Any, split: Split) -> None:
        """Refuse listed episodes that contradict themselves or the split.

        Raises:
            ValueError: says how.
        """
        if draw.ids.ndim != 2 or draw.ids.min() < -1 or draw.ids.max() >= len(split.x):
            raise ValueError("an id that no sample has")

    def sample_shape(self, split: Split) -> tuple[int, ...]:
        """The shape of a node, for which a learner is built."""
        return split.shape

    def check(self, split: Split) -> None:
        """Refuse a split that is too small.

        Raises:
            InputError: says what it lacks.
        """
        self.draws(split, 0)

    @classmethod
    def columns_shown(cls) -> tuple[str, ...]:
        """The names of its fields, in the order of tables."""
        return cls.columns or tuple(f.name for f in dataclasses.fields(cls))

    @classmethod
    def silent(cls) -> dict[str, Any]:
        """The fields, and the default of each, that a table leaves out."""
        shown = (f for f in dataclasses.fields(cls) if f.name not in cls.always_shown)
        return {f.name: f.default for f in shown}

    @property
    def row(self) -> dict[str, Any]:
        """The fields of a results row that are its own."""
        return dataclasses.asdict(self)

    @property
    def remarks(self) -> Sequence[str]:
        """What a results row says of a learner that was trained on it."""
        return ()

    @property
    def metric(self) -> tuple[str, Metric]:
        """The first metric and its name."""
        return next(iter(self.metrics.items()))

    def is_published_as(self, entry: Mapping[str, Any]) -> bool:
        """Whether a published number, with the options that it names, is of this very task."""
        stated = (f for f in dataclasses.fields(self) if f.name not in self.unpublished)
        return all(entry.get(f.name, f.default) == getattr(self, f.name) for f in stated)

    def diagnose(self, answers: Iterable[Answer], split: Split) -> dict[str, Any]:
        """What a report shows of some answers beside the metrics, as plain values of a row."""
        return {}
