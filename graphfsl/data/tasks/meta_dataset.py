"""Meta-Dataset's episodes: each has its own way, its own shots of each class, and fewer queries.

Triantafillou, Zhu, Dumoulin, Lamblin, Evci, Xu, Goroshin, Gelada, Swersky, Manzagol, Larochelle
2020, https://arxiv.org/abs/1903.03096
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from graphfsl.core.arguments import whole_number
from graphfsl.core.episode import Episode, Target
from graphfsl.core.task import Caption, Demands, Metric, Normalise, Task
from graphfsl.data.deck import Deck
from graphfsl.data.split import Split
from graphfsl.data.streams import (
    CLASSES,
    IMAGES,
    QUERY_ORDER,
    SHARES,
    WAYS,
    choose,
    episode_numbers,
    keys_of,
    uniform,
)
from graphfsl.data.tasks._class_metrics import METRICS
from graphfsl.data.tasks._class_sampler import Draw
from graphfsl.data.tasks.classes import Setting
from graphfsl.io.errors import require

__all__ = ["MetaDataset"]


@dataclass(frozen=True)
class MetaDataset(Task):
    """Classes of unequal support, as many as the episode says.

        N ~ U{min_way, max_way},  q = min(max_query, min_c floor(n_c / 2))
        S = min(max_support, sum_c ceil(beta min(max_shot, n_c - q))),  beta ~ U(0, 1]
        k_c = min(floor(r_c (S - N)) + 1, n_c - q),  r_c ~ n_c e^(a_c),  a_c ~ U(log 1/2, log 2)

    with n_c images of class c, q queries and k_c support images of each of the N classes. All
    episodes of a batch are padded to the largest of them.

    Args:
        min_way: the fewest classes.
        max_way: the most classes; all of the split's where it has fewer.
        max_support: the most support images.
        max_shot: the most support images that a class adds to the size of the support.
        max_query: the most queries of a class.

    Source:
        section 3.2 and appendix of the paper.

    Deviations:
        classes are drawn from all of the split; of Omniglot the paper draws an alphabet first, and
        of ImageNet it follows the tree of its classes.
    """

    columns: ClassVar = ("min_way", "max_way", "max_support", "max_shot", "max_query")
    always_shown: ClassVar = ("min_way", "max_way", "max_support")
    captions: ClassVar = {
        "min_way": Caption("{} classes or more", always=True),
        "max_way": Caption("{} at most", always=True),
        "max_support": Caption("{} support images at most"),
    }
    draw_type: ClassVar = Draw

    min_way: int = 5
    max_way: int = 50
    max_support: int = 500
    max_shot: int = 100
    max_query: int = 10

    def __post_init__(self) -> None:
        for name, least in (
            ("min_way", 2),
            ("max_way", 2),
            ("max_support", 2),
            ("max_shot", 1),
            ("max_query", 1),
        ):
            number = whole_number(getattr(self, name), f"episode.{name}", least)
            object.__setattr__(self, name, number)
        require(
            self.min_way <= self.max_way <= self.max_support,
            "episode.min_way, max_way and max_support must not fall in this order, not "
            f"{self.min_way}, {self.max_way} and {self.max_support}: each class has a support "
            "image",
        )

    def __str__(self) -> str:
        """In words: "5- to 50-way, 500 support images at most, 10 queries of a class at most"."""
        return f"{self.title}, {self.max_query} queries of a class at most"

    @property
    def title(self) -> str:
        """Its name for people: "5- to 50-way, 500 support images at most"."""
        return f"{self.min_way}- to {self.max_way}-way, {self.max_support} support images at most"

    @property
    def size(self) -> tuple[int, ...]:
        """What tables are sorted by."""
        return self.min_way, self.max_way, self.max_support

    @property
    def demands(self) -> Demands:
        """What it asks of a learner and of the machine."""
        queries = self.max_way * self.max_query
        return Demands(
            way=self.max_way,
            nodes=self.max_support + queries,
            support=self.max_support,
            queries=queries,
        )

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """Accuracy, the calibration error of the probabilities, and the F1 score."""
        return METRICS

    def draws(self, split: Split, seed: int) -> _Sampler:
        """What draws the episodes of a split.

        Raises:
            InputError: where the split has fewer than `min_way` classes, or one of a single image.
        """
        return _Sampler(split, self, seed)

    def assemble(
        self, draw: Draw, split: Split, raw: Tensor, normalise: Normalise, device: torch.device
    ) -> tuple[Episode, Target]:
        """The batch that a draw describes; classes that an episode lacks are absent columns."""
        return self._drawn.assemble(draw, split, raw, normalise, device)

    def check_draw(self, draw: Draw, split: Split) -> None:
        """Refuse a list that contradicts itself or the labels of the split.

        Raises:
            ValueError: says how.
        """
        self._drawn.check_draw(draw, split)

    @property
    def _drawn(self) -> Setting:
        """Episodes of as many columns whose classes have unequal support."""
        return Setting(way=self.max_way, shot=1, max_shot=self.max_support)


class _Sampler:
    """Draws the episodes of a split; `draw(i)` is a pure function of split, task, seed and i."""

    def __init__(self, split: Split, asked: MetaDataset, seed: int) -> None:
        self.name = split.name
        self.asked = asked
        self.seed = seed
        y = split.y.numpy()
        classes = len(split.classes)
        self.deck = Deck(np.flatnonzero(y >= 0), y, classes)
        require(
            classes >= asked.min_way,
            f"{split.name} has {classes} classes, but episode.min_way is {asked.min_way}; lower it",
        )
        least = int(self.deck.count.argmin())
        require(
            self.deck.count[least] >= 2,
            f"{split.name}: class {split.classes[least]!r} has {self.deck.count[least]} images, "
            "but each needs one for the support and one to be asked about; leave out smaller "
            "classes by data.min_samples=2",
        )

    def draw(self, i: np.ndarray | list[int]) -> Draw:
        """The episodes with the numbers i (B,)."""
        keys = keys_of(self.name, self.seed, episode_numbers(i))
        classes, shots, queries = self._counts(keys)
        most = int((shots + queries).max())
        images = self.deck.draw(classes, uniform(keys, IMAGES, classes.shape[1], most))

        support, of_support = _dealt(images, shots, np.zeros_like(shots))
        asked, of_asked = _dealt(images, queries, shots)
        # padding stays behind the queries, which are in random order
        u = uniform(keys, QUERY_ORDER, 1, asked.shape[1])[:, 0]
        order = np.argsort(np.where(asked < 0, 2, u), axis=1)
        asked = np.take_along_axis(asked, order, 1)
        of_asked = np.take_along_axis(of_asked, order, 1)

        missing = self.asked.max_way - classes.shape[1]
        named = np.pad(np.where(shots > 0, classes, -1), ((0, 0), (0, missing)), constant_values=-1)
        ids = np.concatenate([support, asked], 1)
        label = np.concatenate([of_support, of_asked], 1)
        return Draw(ids, label, named, support.shape[1], asked.shape[1])

    def _counts(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The split's classes (B, C), and how many images of each are support and queries.

        Both are zero for the columns beyond an episode's way.
        """
        asked = self.asked
        every = len(self.deck.count)
        columns = min(asked.max_way, every)
        drawn = choose(np.full((len(keys), 1), every), uniform(keys, CLASSES, 1, columns))
        classes = drawn[:, 0].astype(np.int64)
        u, beta = uniform(keys, WAYS, 1, 2)[:, 0].T[..., None]
        way = asked.min_way + (u * (columns - asked.min_way + 1)).astype(np.int64)
        inside = np.arange(columns) < way

        n = self.deck.count[classes]
        fewest = np.where(inside, n, n.max()).min(1, keepdims=True)
        query = np.minimum(asked.max_query, fewest // 2)
        room = n - query
        added = np.ceil(beta * np.minimum(asked.max_shot, room)) * inside
        total = np.minimum(asked.max_support, added.sum(1, keepdims=True))

        spread = (2 * uniform(keys, SHARES, 1, columns)[:, 0] - 1) * math.log(2)
        weight = n * np.exp(spread) * inside
        share = weight / weight.sum(1, keepdims=True)
        shots = np.minimum(np.floor(share * (total - way)) + 1, room).astype(np.int64)
        return classes, shots * inside, query * inside


def _dealt(images: np.ndarray, counts: np.ndarray, before: np.ndarray) -> tuple[np.ndarray, ...]:
    """The ids and class columns (B, m) of some images of each class, padded at the end.

    Args:
        images: (B, C, k) ids of each class, in the order in which they are dealt out.
        counts: (B, C) how many of each class.
        before: (B, C) how many of each were dealt out before.
    """
    end = counts.cumsum(1)
    place = np.arange(int(end[:, -1].max()))
    column = (place[None, :, None] >= end[:, None, :]).sum(-1)
    real = column < counts.shape[1]
    column = np.where(real, column, 0)
    first = np.take_along_axis(end - counts - before, column, 1)
    number = np.where(real, place - first, 0)
    ids = images[np.arange(len(images))[:, None], column, number]
    return np.where(real, ids, -1), np.where(real, column, -100)
