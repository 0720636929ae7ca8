"""`Batches`: numbered images of base classes, which pretraining takes in place of episodes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
import torch

from graphfsl.core.display import block
from graphfsl.core.episode import Episode, Target
from graphfsl.data.deck import Deck, label_split
from graphfsl.data.split import Split
from graphfsl.data.streams import AUGMENT, CLASSES, IMAGES, keys_of, uniform
from graphfsl.data.transforms import DRAWS, Transform
from graphfsl.io.errors import InputError


def partly_labeled(split: Split, fraction: float, seed: int) -> Split:
    """The split with -1 for the labels that are withheld.

    `Setting.labeled_fraction` and `label_seed` say which.
    """
    if fraction == 1:
        return split
    least = int(torch.bincount(split.y[split.y >= 0]).min())
    if fraction * least < 1:
        raise InputError(
            f"labeled_fraction {fraction} leaves a class of {least} images without a label"
        )
    hidden = torch.from_numpy(label_split(split, fraction, seed)[1])
    return dataclasses.replace(split, y=split.y.index_fill(0, hidden, -1))


class Batches:
    """The endless, numbered labeled images of one split.

    Number i is a pure function of (split, seed, i).

    Args:
        split: of base classes.
        per_class: 1 goes through all images in a new order each epoch; m > 1 goes through all
            classes and gives m different images of each, so that a batch holds pairs of one class.
        views: how often each image is shown, each time with an augmentation of its own.
        seed: of the order.
        transform: as in `Episodes`.
        device: as in `Episodes`.
        labeled_fraction: as in `Setting`; the images without a label are shown too, as -100.
        label_seed: as in `Setting`.
    """

    def __init__(
        self,
        split: Split,
        seed: int = 0,
        transform: Transform | None = None,
        device: torch.device | str | None = None,
        per_class: int = 1,
        views: int = 1,
        labeled_fraction: float = 1.0,
        label_seed: int = 0,
    ) -> None:
        self.split, self.seed, self.transform = split, seed, transform or Transform()
        self.device = torch.device(device) if device is not None else split.x.device
        self.per_class, self.views = per_class, views
        y = partly_labeled(split, labeled_fraction, label_seed).y
        self.y = y.where(y >= 0, -100)
        self.labeled = np.flatnonzero(split.y.numpy() >= 0)
        self.deck = Deck(self.labeled, split.y.numpy(), len(split.classes))
        if self.deck.count.min() < per_class:
            least = split.classes[int(self.deck.count.argmin())]
            raise InputError(
                f"{split.name}: class {least!r} has {self.deck.count.min()} images, but "
                f"pretraining takes {per_class} "
                "of a class at once; lower pretrain.objective.per_class"
            )

    def __repr__(self) -> str:
        facts = {
            "of a class": self.per_class,
            "views": self.views,
            "transform": self.transform,
            "device": self.device,
        }
        return block(f"Batches of {self.split.name}", {**facts, "seed": self.seed})

    def ids(self, numbers: np.ndarray) -> np.ndarray:
        """Which sample each number is."""
        if self.per_class == 1:
            return np.concatenate(
                [
                    self.labeled[_order(self._name(), self.seed, len(self.labeled), e)[at]]
                    for e, at in self._epochs(numbers, len(self.labeled))
                ]
            )
        group, j = np.divmod(numbers, self.per_class)
        c = len(self.split.classes)
        classes = np.concatenate(
            [_order(self._name(), self.seed, c, e)[at] for e, at in self._epochs(group, c)]
        )
        drawn = self.deck.draw(
            classes[:, None], uniform(self._keys(group), IMAGES, 1, self.per_class)
        )
        ids: np.ndarray = drawn[np.arange(len(numbers)), 0, j]
        return ids

    def batch(self, i: Sequence[int] | np.ndarray) -> tuple[Episode, Target]:
        """The images with these numbers, as queries.

        x (views, n, *S), no label columns, Target.query (views, n).
        """
        numbers = np.asarray(i)
        ids = torch.from_numpy(self.ids(numbers)).expand(self.views, -1)
        x = self.split.gather(ids.to(self.split.x.device)).to(self.device, non_blocking=True)
        u = None
        if self.transform.augments:
            draws = torch.from_numpy(uniform(self._keys(numbers), AUGMENT, self.views, DRAWS))
            u = draws.transpose(0, 1).to(self.device, torch.float32)
        x = self.transform(x, u)
        none = torch.empty(*ids.shape, 0, dtype=x.dtype, device=self.device)
        y = self.y[ids]
        target = Target(y, y[:, :0], ids, y[:, :0]).to(self.device)
        return Episode(x, none, 0, ids.shape[1]), target

    def batches(self, numbers: range, batch: int) -> Iterator[tuple[Episode, Target]]:
        """The images of a range, `batch` at a time."""
        yield from (
            self.batch(np.array(numbers[k : k + batch])) for k in range(0, len(numbers), batch)
        )

    def _name(self) -> str:
        return f"{self.split.name}/batches"

    def _keys(self, numbers: np.ndarray) -> np.ndarray:
        return keys_of(self._name(), self.seed, numbers)

    @staticmethod
    def _epochs(numbers: np.ndarray, size: int) -> list[tuple[int, np.ndarray]]:
        """Ascending numbers by epoch: (epoch, places within it)."""
        epochs, at = np.divmod(numbers, size)
        return [(int(e), at[epochs == e]) for e in np.unique(epochs)]


@lru_cache(maxsize=2)  # a batch may lie across two epochs
def _order(name: str, seed: int, size: int, epoch: int) -> np.ndarray:
    return np.argsort(
        uniform(keys_of(f"{name}/order", seed, np.array([epoch])), CLASSES, 1, size)[0, 0],
        kind="stable",
    )
