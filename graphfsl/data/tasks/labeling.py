"""What to label: a pool of images, a budget of labels, and the accuracy of the rest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from graphfsl.core.arguments import whole_number
from graphfsl.core.episode import Episode, Target
from graphfsl.core.task import Caption, Demands, Metric, Normalise, Task
from graphfsl.data.split import Split
from graphfsl.data.tasks._class_sampler import Draw, Sampler
from graphfsl.data.tasks.classes import Setting
from graphfsl.functional.layers import last_layer
from graphfsl.functional.statistics import accuracy
from graphfsl.io.errors import require

__all__ = ["Labeling"]


@dataclass(frozen=True, repr=False)
class LabelingTarget(Target):
    """What is true of a pool; its queries may be asked for."""

    def told(self, episode: Episode) -> Episode:
        """The episode with an oracle of all its queries."""
        y = F.one_hot(self.query.clamp_min(0), episode.way).to(episode.w)
        return episode.replace(oracle=y * (self.query >= 0).unsqueeze(-1).to(y))

    def loss(self, scores: Tensor, episode: Episode) -> Tensor:
        """Mean cross-entropy of the queries that were not asked for.

        Those of classes that have no label are left out: no score could be right.
        """
        queries = last_layer(scores)[:, episode.query]
        seen = (episode.w.sum(1) > 0).gather(1, self.query.clamp_min(0))
        rest = self.query.masked_fill(is_asked(episode) | ~seen, -100)
        total = F.cross_entropy(
            queries.flatten(0, 1), rest.flatten(), ignore_index=-100, reduction="sum"
        )
        return total / (rest >= 0).sum().clamp_min(1)


@dataclass(frozen=True)
class Labeling(Task):
    """A pool of which a learner may ask the labels of some images, and answers for the rest.

    All images are nodes from the start. Those that were given a label are the support, all others
    queries, in random order: the learner may ask for as many of them as the budget. An image that
    was asked for has its label in the episode's weights and counts no more.

    `budget: 0` with `shot: 1` is a label of each class, drawn at random by somebody who knows the
    classes: the reference that rules without such knowledge are held against, on the same pools.

    Args:
        way: classes of a pool.
        images: images of each class, labeled or not.
        shot: images of each class whose labels are given at the start; 0 for none.
        budget: labels that may be asked for.
    """

    columns: ClassVar = ("way", "images", "shot", "budget")
    always_shown: ClassVar = ("way", "images", "shot", "budget")
    shared: ClassVar = {"images": " images per class"}
    curves: ClassVar = {"budget": ("labels asked for", "labels asked for")}
    area_over: ClassVar = "budget"
    captions: ClassVar = {
        "way": Caption("{} classes", always=True),
        "images": Caption("{} images per class", always=True),
        "shot": Caption("{} of each labeled"),
        "budget": Caption("{} labels asked for"),
    }
    draw_type: ClassVar = Draw

    way: int = 20
    images: int = 20
    shot: int = 0
    budget: int = 20

    def __post_init__(self) -> None:
        for name, least in (("way", 2), ("images", 2), ("shot", 0), ("budget", 0)):
            number = whole_number(getattr(self, name), f"episode.{name}", least)
            object.__setattr__(self, name, number)
        given, n = self.way * self.shot, self.way * self.images
        require(
            self.shot < self.images,
            f"episode.shot must be below the {self.images} images of a class, not {self.shot}",
        )
        require(
            self.budget < n - given,
            f"episode.budget must be below the {n - given} images without a label, not "
            f"{self.budget}: others are to be answered for",
        )
        require(
            given + self.budget > 0,
            "a pool needs a label: set episode.budget, or episode.shot for labels of every class",
        )

    def __str__(self) -> str:
        """In words: "20 classes of 20 images, 20 labels asked for"."""
        return ", ".join([self.title, *self.details])

    @property
    def title(self) -> str:
        """Its name for people: "20 classes of 20 images"."""
        return f"{self.way} classes of {self.images} images"

    @property
    def details(self) -> list[str]:
        """The labels that are given, and those that may be asked for."""
        found = {
            f"{self.shot} of each labeled": self.shot,
            f"{self.budget} labels asked for": self.budget,
        }
        return [text for text, value in found.items() if value]

    @property
    def size(self) -> tuple[int, ...]:
        """What tables are sorted by."""
        return self.way, self.images, self.shot, self.budget

    @property
    def demands(self) -> Demands:
        """What it asks of a learner and of the machine."""
        support, nodes = self.way * self.shot, self.way * self.images
        return Demands(
            way=self.way,
            nodes=nodes,
            support=support,
            queries=nodes - support,
            budget=self.budget,
        )

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """The accuracy of what was not asked for, and the classes that have a label in the end."""
        return {"accuracy": Metric(_accuracy), "classes hit": Metric(_classes_hit, unit="")}

    def draws(self, split: Split, seed: int) -> Sampler:
        """The sampler of a split.

        Raises:
            InputError: where the split has too few classes or images.
        """
        return Sampler(split, self._drawn, seed)

    @property
    def _drawn(self) -> Setting:
        """The pool as an episode of classes; no image of it depends on `shot` or `budget`."""
        return Setting(way=self.way, shot=self.shot, query=self.images - self.shot)

    def check(self, split: Split) -> None:
        """Refuse a split that is too small, in terms of this task.

        Raises:
            InputError: says what it lacks.
        """
        counts = torch.bincount(split.y[split.y >= 0], minlength=len(split.classes))
        least = int(counts.argmin())
        require(
            int(counts[least]) >= self.images,
            f"{split.name}: class {split.classes[least]!r} has {int(counts[least])} images, but "
            f"episode.images is {self.images}; lower it, or leave out smaller classes by "
            f"data.min_samples={self.images}",
        )
        self.draws(split, 0)

    def assemble(
        self, draw: Draw, split: Split, raw: Tensor, normalise: Normalise, device: torch.device
    ) -> tuple[Episode, LabelingTarget]:
        """The pools that a draw describes, with their budget."""
        episode, target = self._drawn.assemble(draw, split, raw, normalise, device)
        parts: dict[str, Any] = target.tensors
        return episode.with_tensors({"budget": self.budget}), LabelingTarget(**parts)

    def check_draw(self, draw: Draw, split: Split) -> None:
        """Refuse a list that contradicts itself or the labels of the split.

        Raises:
            ValueError: says how.
        """
        if draw.n_support != self.way * self.shot or draw.ids.shape[1] != self.way * self.images:
            raise ValueError("lists of unequal length")
        if draw.n_query + draw.n_support != draw.ids.shape[1]:
            raise ValueError("a pool has no images beside support and queries")
        self._drawn.check_draw(draw, split)


def is_asked(episode: Episode) -> Tensor:
    """Which queries (B, Q) have a label, as it was asked for."""
    return episode.w[:, episode.query].sum(-1) > 0


def _accuracy(scores: Tensor, target: Target, episode: Episode) -> Tensor:
    """The share of right answers (B,) among the queries that were not asked for."""
    return accuracy(scores, target.query.masked_fill(is_asked(episode), -100))


def _classes_hit(scores: Tensor, target: Target, episode: Episode) -> Tensor:
    """How many classes (B,) have a label in the end."""
    return (episode.w.sum(1) > 0).sum(-1).to(scores.dtype)
