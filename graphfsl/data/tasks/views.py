"""Episodes without labels: each class is one image, and its members are views of that image.

Medina, Devos, Grossglauser 2020, "Self-Supervised Prototypical Transfer Learning for Few-Shot
Classification" (ProtoCLR), https://arxiv.org/abs/2006.11325, with a metric learner.
Khodadadeh, Bölöni, Shah 2019, "Unsupervised Meta-Learning for Few-Shot Image Classification"
(UMTRA), https://arxiv.org/abs/1811.11819, with a learner that adapts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from graphfsl.core import task
from graphfsl.core.arguments import whole_number
from graphfsl.core.class_names import NO_CLASS
from graphfsl.core.episode import Episode, Target
from graphfsl.core.task import Demands, Metric, Normalise, Task
from graphfsl.data.split import Split
from graphfsl.data.streams import (
    AUGMENT,
    CLASSES,
    IMAGES,
    QUERY_ORDER,
    episode_numbers,
    few_of,
    keys_of,
    uniform,
)
from graphfsl.data.tasks._class_metrics import METRICS
from graphfsl.data.transforms import DRAWS, check_augment
from graphfsl.io.errors import require

__all__ = ["Views"]

# options of the `Transform` that makes a view
AUGMENT_OPTIONS = ("rotate", "translate", "scale", "shear", "drop", "flip", "color")


@dataclass(frozen=True)
class Draw(task.Draw):
    """Which images are the classes of B episodes, and what decides their views.

    Args:
        ids: (B, n) the image that each node is a view of.
        label: (B, n) its class column.
        key: (B,) of the random numbers that decide the views.
    """

    listed_as: ClassVar = {"label": "labels"}

    label: np.ndarray
    key: np.ndarray


@dataclass(frozen=True)
class Views(Task):
    """Which of a few images is each query a view of?

    The classes of an episode are `way` different images, drawn from all of a split. Its nodes are
    views of them: all nodes are augmented, each by itself, and none is the image as it is stored.
    Labels of the split are not read, so that a training on this task needs none: it selects no
    weights by validation classes, and keeps those of its last step.

    The views are those of this task, in place of `data.augment`. They are affine maps with dropped
    pixels: of an image that is enlarged and shifted a part remains, as of a random crop. Quarter
    turns and mirrored images are not views by default, as they may be other characters.

    Args:
        way: images of an episode, each a class.
        shot: support views of each image.
        query: query views of each image.
        rotate: degrees; the map is uniform within plus and minus this and the next three.
        translate: share of the side.
        scale: share, of either side by itself.
        shear: degrees.
        drop: share of the pixels that become 0, which is paper where images are drawings.
        flip: mirror half of the views left to right (never characters).
        color: brightness, contrast and saturation factors are uniform in 1 - color .. 1 + color.

    Source:
        algorithm 1 of ProtoCLR, and algorithm 1 of UMTRA; dropped pixels are those of both papers'
        Omniglot.

    Deviations:
        in both papers the support is the image itself, and only queries are augmented.
    """

    alters_samples: ClassVar = True
    uses_labels: ClassVar = False
    columns: ClassVar = ("way", "shot", "query", *AUGMENT_OPTIONS)
    always_shown: ClassVar = ("way", "shot", "query")
    shared: ClassVar = {"query": " query views per image"}
    curves: ClassVar = {"shot": ("shots", "support views of an image")}
    draw_type: ClassVar = Draw

    way: int = 5
    shot: int = 1
    query: int = 15
    rotate: float = 25.0
    translate: float = 0.25
    scale: float = 0.4
    shear: float = 17.0
    drop: float = 0.2
    flip: bool = False
    color: float = 0.0

    def __post_init__(self) -> None:
        for name, least in (("way", 2), ("shot", 1), ("query", 1)):
            number = whole_number(getattr(self, name), f"episode.{name}", least)
            object.__setattr__(self, name, number)
        check_augment("episode", self.augment)
        require(
            self.rotate or self.translate or self.scale or self.shear,
            "views must differ from their image; set one of episode.rotate, episode.translate, "
            "episode.scale and episode.shear above 0",
        )

    def __str__(self) -> str:
        """In words: "5-way 1-shot of views, 15 queries of an image"."""
        return f"{self.title}, {self.query} queries of an image"

    @property
    def title(self) -> str:
        """Its name for people: "5-way 1-shot of views"."""
        return f"{self.way}-way {self.shot}-shot of views"

    @property
    def size(self) -> tuple[int, ...]:
        """What tables are sorted by."""
        return self.way, self.shot

    @property
    def augment(self) -> dict[str, float]:
        """The options of the `Transform` that makes a view."""
        return {name: getattr(self, name) for name in AUGMENT_OPTIONS}

    @property
    def demands(self) -> Demands:
        """What it asks of a learner and of the machine."""
        support, queries = self.way * self.shot, self.way * self.query
        return Demands(
            way=self.way,
            nodes=support + queries,
            support=support,
            queries=queries,
            shots=self.shot,
            queries_per_class=self.query,
        )

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """Those of episodes of classes."""
        return METRICS

    def draws(self, split: Split, seed: int) -> _Sampler:
        """The sampler of a split.

        Raises:
            InputError: where its samples are no images, or too few.
        """
        return _Sampler(split, self, seed)

    def assemble(
        self, draw: Draw, split: Split, raw: Tensor, normalise: Normalise, device: torch.device
    ) -> tuple[Episode, Target]:
        """The episodes that a draw describes: one node a view."""
        u = torch.from_numpy(uniform(draw.key.view(np.uint64), AUGMENT, draw.ids.shape[1], DRAWS))
        x = normalise.views(raw, u, **self.augment)

        ids, label = torch.from_numpy(draw.ids), torch.from_numpy(draw.label)
        support = self.way * self.shot
        columns = torch.arange(self.way)
        w = torch.zeros(*ids.shape, self.way)
        w[:, :support] = (label[:, :support, None] == columns).float()
        of_no_class = torch.full((len(ids), self.way), -1)
        target = Target(
            query=label[:, support:],
            unlabeled=label[:, :0],
            ids=ids,
            classes=of_no_class,
            names=torch.full_like(of_no_class, NO_CLASS),
        )
        queries = ids.shape[1] - support
        episode = Episode(x, w.to(device, x.dtype), support, queries, relabeled=False)
        return episode, target.to(device)

    def check_draw(self, draw: Draw, split: Split) -> None:
        """Refuse a list that contradicts itself or the split.

        Raises:
            ValueError: says how.
        """
        super().check_draw(draw, split)
        if draw.ids.shape != (len(draw.key), self.demands.nodes) or draw.ids.min() < 0:
            raise ValueError("lists of unequal length")
        of_column = np.full((len(draw.ids), self.way), -1)
        np.put_along_axis(of_column, draw.label, draw.ids, 1)
        if (np.take_along_axis(of_column, draw.label, 1) != draw.ids).any():
            raise ValueError("views of several images in one class")


class _Sampler:
    """Draws the images of episodes; `draw(i)` is a pure function of split name, seed and i."""

    def __init__(self, split: Split, asked: Views, seed: int) -> None:
        require(
            split.x.ndim == 4 and split.functions is None,
            f"{split.name} holds no images, of which views could be made; take a data set of "
            "images, or episodes of another task",
        )
        self.name, self.asked, self.seed = split.name, asked, seed
        self.variants = split.variants  # of one drawing, which are the same image here
        self.images = len(split.x) // split.variants
        require(
            self.images >= asked.way,
            f"{split.name} has {self.images} images, but way {asked.way} needs as many; lower "
            "episode.way",
        )

    def draw(self, i: np.ndarray | list[int]) -> Draw:
        """The episodes with the numbers i (B,)."""
        asked = self.asked
        keys = keys_of(self.name, self.seed, episode_numbers(i))
        image = few_of(self.images, uniform(keys, CLASSES, 1, asked.way)[:, 0])
        variant = uniform(keys, IMAGES, 1, asked.way)[:, 0] * self.variants
        sample = image * self.variants + variant.astype(np.int64)

        support = np.repeat(np.arange(asked.way), asked.shot)
        query = np.repeat(np.arange(asked.way), asked.query)
        order = np.argsort(uniform(keys, QUERY_ORDER, 1, len(query))[:, 0], axis=1)
        label = np.concatenate([np.tile(support, (len(keys), 1)), query[order]], 1)
        # signed, as files read whole numbers
        return Draw(np.take_along_axis(sample, label, 1), label, keys.view(np.int64))
