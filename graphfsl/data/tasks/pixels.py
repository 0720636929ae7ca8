"""Segmentation: which pixels of an image are of a class, of which a few images have masks?

Episodes are a pure function of (data set, split, options, seed, i), independent of batch, worker
and device.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from graphfsl.core import task
from graphfsl.core.arguments import real_number, whole_number
from graphfsl.core.cells import of_images
from graphfsl.core.episode import BaseTarget, Episode
from graphfsl.core.task import Answer, Caption, Demands, Draws, Metric, Normalise, Task
from graphfsl.data.scenes import IGNORED, SceneSplit, scene_split
from graphfsl.data.split import Split
from graphfsl.data.streams import (
    ABSENT,
    CLASSES,
    IMAGES,
    SCENES,
    choose,
    episode_numbers,
    keys_of,
    uniform,
)
from graphfsl.functional.calibration import reliability
from graphfsl.functional.cells import pixel_log_probabilities
from graphfsl.functional.episode_metrics import calibration_error, calibration_sums
from graphfsl.functional.layers import last_layer
from graphfsl.functional.mask_metrics import (
    area_of_sums,
    false_foreground_sums,
    mean_overlap,
    overlap_sums,
    presence_sums,
    share,
    two_sided_sums,
)
from graphfsl.functional.presence import presence
from graphfsl.io.errors import InputError, require

__all__ = ["Pixels"]


@dataclass(frozen=True)
class Draw(task.Draw):
    """Which images make B episodes.

    Args:
        ids: (B, way * shot + query) the support's images class by class, then the queries.
        classes: (B, way) the class of each column behind the background's.
    """

    classes: np.ndarray


@dataclass(frozen=True, repr=False)
class PixelTarget(BaseTarget):
    """What is true of the queries' pixels.

    Args:
        query: (B, Q, H, W) the column of each, 0 for the background, -100 where it does not count.
        ids: (B, n) the image that each node shows.
        classes: (B, way) the split's class of each column behind the background's.
        of_split: (B, way, S) the same one-hot, for sums over the S classes of the split.
    """

    query: Tensor
    ids: Tensor
    classes: Tensor
    of_split: Tensor

    def loss(self, scores: Tensor, episode: Episode) -> Tensor:
        """Mean cross-entropy of the pixels that count.

        Args:
            scores: of all cells (…, B, n * h * w, C), or of all images (B, n, h, w, C).
            episode: that was scored.
        """
        if episode.cells is None:
            found = last_layer(scores)[:, episode.query]
        else:
            answers = last_layer(scores)[:, episode.query]
            found = of_images(answers, episode)
        logs = pixel_log_probabilities(found, _size(self))
        return F.cross_entropy(logs.flatten(0, 1), self.query.flatten(0, 1), ignore_index=IGNORED)


@dataclass(frozen=True)
class Pixels(Task):
    """What an episode of segmentation looks like.

    The columns of the scores are the background and the classes. The mask of a support image shows
    its own class; what another class of the episode covers there has no label.

    Args:
        way: classes beside the background.
        shot: support images of each class.
        query: query images.
        absent: the probability of a query to show none of the classes, where the data have such an
            image.
        least: the share of an image's pixels below which a class does not count as shown when
            images are drawn. The masks are complete all the same.
    """

    nodes_are_samples: ClassVar = False
    divides_images: ClassVar = True
    unpublished: ClassVar = ("query", "least")
    columns: ClassVar = ("way", "shot", "query", "absent", "least")
    always_shown: ClassVar = ("way", "shot")
    shared: ClassVar = {"query": " query images"}
    curves: ClassVar = {"shot": ("shots", "labeled images per class")}
    captions: ClassVar = {
        "way": Caption("{}-way", always=True),
        "shot": Caption("{}-shot"),
        "query": Caption("{} query images"),
        "absent": Caption("absent in {} of queries"),
    }
    diagnoses: ClassVar = ("reliability", "overlaps")
    by_class: ClassVar = {"overlaps": "Intersection over union of each class"}
    draw_type: ClassVar = Draw

    way: int = 1
    shot: int = 1
    query: int = 1
    absent: float = 0.0
    least: float = 0.02

    def __post_init__(self) -> None:
        for name in ("way", "shot", "query"):
            number = whole_number(getattr(self, name), f"episode.{name}", 1)
            object.__setattr__(self, name, number)
        for name in ("absent", "least"):
            value = real_number(getattr(self, name), f"episode.{name}")
            require(0 <= value < 1, f"episode.{name} must lie in [0, 1), not {value!r}")
            object.__setattr__(self, name, value)

    def __str__(self) -> str:
        """In words: "1-way 1-shot segmentation, 1 query image"."""
        images = f"{self.query} query image{'s' if self.query > 1 else ''}"
        return ", ".join([self.title, images, *self.details])

    @property
    def title(self) -> str:
        """Its name for people: "1-way 1-shot segmentation"."""
        return f"{self.way}-way {self.shot}-shot segmentation"

    @property
    def details(self) -> list[str]:
        """Whether some queries show none of the classes."""
        return [f"absent in {self.absent:g} of queries"] if self.absent else []

    @property
    def size(self) -> tuple[float, ...]:
        """What tables are sorted by."""
        return self.way, self.shot, self.absent

    @property
    def demands(self) -> Demands:
        """What it asks of a learner and of the machine; its nodes are images until encoding."""
        support = self.way * self.shot
        return Demands(
            way=self.way + 1, nodes=support + self.query, support=support, queries=self.query
        )

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """Overlaps by sums, beside the answers that need no learner; calibration; presence."""
        found = {
            "mIoU": Metric(_overlaps, ratio=mean_overlap),
            "FB-IoU": Metric(_two_sided, ratio=mean_overlap),
            "mIoU of all foreground": Metric(_overlaps_of_all, ratio=mean_overlap),
            "FB-IoU of all foreground": Metric(_two_sided_of_all, ratio=mean_overlap),
            "FB-IoU of nothing": Metric(_two_sided_of_none, ratio=mean_overlap),
            "ECE": Metric(_calibration, ratio=calibration_error, more_is_better=False),
        }
        if self.absent:
            found["false foreground"] = Metric(_false, ratio=share, more_is_better=False)
            found["AUROC of presence"] = Metric(_presence, ratio=area_of_sums)
        return found

    def sample_shape(self, split: Split) -> tuple[int, ...]:
        """The shape of an image."""
        return split.shape

    def draws(self, split: Split, seed: int) -> Draws:
        """What draws images.

        Raises:
            InputError: where the split has no masks, or too few images of a class.
        """
        return _Sampler(scene_split(split, "masks"), self, seed)

    def assemble(
        self, draw: Draw, split: Split, raw: Tensor, normalise: Normalise, device: torch.device
    ) -> tuple[Episode, PixelTarget]:
        """One node an image, whose label weights are maps (B, n, way + 1, H, W)."""
        scenes = scene_split(split, "masks")
        x = normalise(raw)
        ids, classes = torch.from_numpy(draw.ids), torch.from_numpy(draw.classes)
        maps = normalise.moved(scenes.label_maps(ids).to(device))
        k = self.way * self.shot
        columns = _columns(maps, classes.to(device))
        support = _own_class_only(columns[:, :k], self.shot)
        w = F.one_hot(support.clamp_min(0), self.way + 1) * (support >= 0).unsqueeze(-1)
        hidden = (len(w), self.query, *w.shape[2:])
        weights = torch.cat([w, w.new_zeros(hidden)], 1).movedim(-1, 2).to(x.dtype)
        episode = Episode(x, weights, k, self.query, relabeled=False)
        of_split = F.one_hot(classes, len(split.classes))
        return episode, PixelTarget(columns[:, k:], ids, classes, of_split).to(device)

    def check_draw(self, draw: Draw, split: Split) -> None:
        """Refuse a list that contradicts itself or the masks of the split.

        Raises:
            ValueError: says how.
        """
        super().check_draw(draw, split)
        k = self.way * self.shot
        if draw.ids.shape[1] != k + self.query or draw.classes.shape != (len(draw.ids), self.way):
            raise ValueError("lists of unequal length")
        if draw.ids.min() < 0:
            raise ValueError("an id that no sample has")
        if draw.classes.min() < 0 or draw.classes.max() >= len(split.classes):
            raise ValueError("a class that the split does not have")
        shown = scene_split(split, "masks").shown()
        owners = draw.classes.repeat(self.shot, 1)
        if not shown[draw.ids[:, :k], owners].all():
            raise ValueError("a support image that does not show its class")
        rows = np.sort(draw.ids, 1)
        if (rows[:, 1:] == rows[:, :-1]).any():
            raise ValueError("an image twice in one episode")

    def diagnose(self, answers: Iterable[Answer], split: Split) -> dict[str, Any]:
        """How far the probabilities can be trusted, and the overlap of every class.

        Returns:
            reliability: [pixels, mean probability, accuracy] for 15 equal bins of the top
                probability; overlaps: class -> intersection over union, from sums, of the classes
                that occurred.
        """
        sums, counts = [], []
        for scores, target, episode in answers:
            assert isinstance(target, PixelTarget)
            sums.append(_overlaps(scores, target, episode).sum(0))
            truth = target.query.flatten()
            top, answer = _probabilities(scores, target).movedim(2, -1).flatten(0, -2).max(-1)
            # two columns, right and wrong, have the same top probability and the same hits
            pair = torch.stack([top, torch.zeros_like(top)], -1)
            wrong = (answer != truth).long()
            counts.append(reliability(pair, wrong.where(truth >= 0, -100)))
        both, either = torch.stack(sums).sum(0).chunk(2)
        overlaps = {
            split.classes[c]: round(float(both[c] / either[c]), 4)
            for c in either.nonzero().flatten().tolist()
        }
        return {"reliability": _added(counts), "overlaps": overlaps}


def _added(bins: list[Tensor]) -> list[list[float]]:
    """Reliability bins [count, confidence, accuracy] of several batches as those of all."""
    every = torch.stack(bins)
    count = every[..., 0].sum(0)
    means = (every[..., :1] * every[..., 1:]).sum(0) / count.clamp_min(1)[:, None]
    rows = torch.cat([count[:, None], means], 1).tolist()
    return [[int(n), round(c, 4), round(a, 4)] for n, c, a in rows]


class _Sampler:
    """Which images are drawn: classes that enough images show, then images that show them."""

    def __init__(self, split: SceneSplit, asked: Pixels, seed: int) -> None:
        self.name, self.asked, self.seed = split.name, asked, seed
        self.large, self.any = split.shown(asked.least), split.shown()
        series = split.series if split.series is not None else np.zeros(len(split.x), np.int64)
        self.series = [np.flatnonzero(series == s) for s in np.unique(series)]
        needed = asked.shot + asked.query
        enough = [np.flatnonzero(self.large[rows].sum(0) >= needed) for rows in self.series]
        able = [i for i, classes in enumerate(enough) if len(classes) >= asked.way]
        if not able:
            most = max(len(classes) for classes in enough)
            raise InputError(
                f"{self.name}: {most} classes are shown by {needed} images or more, but the task "
                f"asks for {asked.way}; lower episode.way, shot, query or least"
            )
        self.series = [self.series[i] for i in able]
        self.classes = [enough[i] for i in able]

    def draw(self, i: np.ndarray | list[int]) -> Draw:
        """The episodes with the numbers i."""
        keys = keys_of(self.name, self.seed, episode_numbers(i))
        which = (uniform(keys, SCENES, 1, 1)[:, 0, 0] * len(self.series)).astype(np.int64)
        coins = uniform(keys, ABSENT, 1, self.asked.query)[:, 0]
        ids, classes = [], []
        for b, (s, coin) in enumerate(zip(which, coins, strict=True)):
            key = keys[b : b + 1]
            columns = self._classes(key, self.classes[s])
            classes.append(columns)
            ids.append(self._images(key, self.series[s], columns, coin < self.asked.absent))
        return Draw(np.stack(ids), np.stack(classes))

    def _classes(self, key: np.ndarray, known: np.ndarray) -> np.ndarray:
        """The classes (way,) of an episode."""
        u = uniform(key, CLASSES, 1, self.asked.way)
        chosen = choose(np.array([[len(known)]]), u)[0, 0]
        return np.asarray(known[chosen])

    def _images(
        self, key: np.ndarray, rows: np.ndarray, columns: np.ndarray, absent: np.ndarray
    ) -> np.ndarray:
        """The images of an episode: a support for each class, then the queries.

        Args:
            key: (1,) of the episode.
            rows: the images that it may show.
            columns: (way,) its classes.
            absent: (query,) which queries are to show none of these.
        """
        order = rows[np.argsort(uniform(key, IMAGES, 1, len(rows))[0, 0])]
        free = np.ones(len(order), bool)

        def take(suits: np.ndarray) -> int:
            at = int(np.argmax(suits & free))
            free[at] = False
            return int(order[at])

        owners = np.repeat(columns, self.asked.shot)
        found = [take(self.large[order, column]) for column in owners]
        none = ~self.any[order][:, columns].any(1)
        for number, wanted_absent in enumerate(absent):
            column = columns[number % len(columns)]
            shows = self.large[order, column]
            suits = none if wanted_absent and (none & free).any() else shows
            found.append(take(suits if (suits & free).any() else np.ones(len(order), bool)))
        return np.array(found)


def _columns(maps: Tensor, classes: Tensor) -> Tensor:
    """Label maps (B, n, H, W) in classes of the split -> columns of the episode.

    0 is the background: what is of no class of the episode. -100 stays.
    """
    found = torch.zeros_like(maps, dtype=torch.int64)
    for column in range(classes.shape[1]):
        found[maps == classes[:, column, None, None, None]] = column + 1
    return found.where(maps != IGNORED, IGNORED)


def _own_class_only(columns: Tensor, shot: int) -> Tensor:
    """The support's columns (B, way * shot, H, W) without a label where another class stands."""
    own = torch.arange(columns.shape[1], device=columns.device) // shot + 1
    other = (columns > 0) & (columns != own[:, None, None])
    return columns.masked_fill(other, IGNORED)


def _size(target: PixelTarget) -> tuple[int, int]:
    """(H, W) of the queries."""
    height, width = target.query.shape[-2:]
    return height, width


def _probabilities(scores: Tensor, target: PixelTarget) -> Tensor:
    """Probabilities (B, Q, C, H, W) of the pixels."""
    return pixel_log_probabilities(scores, _size(target)).softmax(2)


def _answer(scores: Tensor, target: PixelTarget) -> Tensor:
    """The column (B, Q, H, W) of every pixel."""
    return pixel_log_probabilities(scores, _size(target)).argmax(2)


def _overlaps(scores: Tensor, target: PixelTarget, episode: Episode) -> Tensor:
    return overlap_sums(_answer(scores, target), target.query, target.of_split.double())


def _two_sided(scores: Tensor, target: PixelTarget, episode: Episode) -> Tensor:
    return two_sided_sums(_answer(scores, target), target.query)


def _overlaps_of_all(scores: Tensor, target: PixelTarget, episode: Episode) -> Tensor:
    """What it is to claim every class everywhere: its union is all that counts."""
    sums = overlap_sums(target.query, target.query, target.of_split.double())
    both, _ = sums.chunk(2, -1)
    everything = (target.query >= 0).sum((1, 2, 3), keepdim=True).squeeze(-1).squeeze(-1)
    asked = target.of_split.sum(1)
    return torch.cat([both, (asked * everything).double()], -1)


def _two_sided_of_all(scores: Tensor, target: PixelTarget, episode: Episode) -> Tensor:
    return two_sided_sums(torch.ones_like(target.query), target.query)


def _two_sided_of_none(scores: Tensor, target: PixelTarget, episode: Episode) -> Tensor:
    return two_sided_sums(torch.zeros_like(target.query), target.query)


def _calibration(scores: Tensor, target: PixelTarget, episode: Episode) -> Tensor:
    p = _probabilities(scores, target).movedim(2, -1).flatten(1, 3)
    return calibration_sums(p, target.query.flatten(1))


def _false(scores: Tensor, target: PixelTarget, episode: Episode) -> Tensor:
    return false_foreground_sums(_answer(scores, target), target.query)


def _presence(scores: Tensor, target: PixelTarget, episode: Episode) -> Tensor:
    columns = torch.arange(1, scores.shape[-1], device=scores.device)
    shown = (target.query[..., None] == columns).any(2).any(2)
    return presence_sums(presence(scores), shown)
