"""`Batches`: numbered images of base classes, which pretraining takes in place of episodes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from graphfsl.core.display import block
from graphfsl.core.episode import Episode, Target
from graphfsl.data.deck import Deck, label_split
from graphfsl.data.split import Split
from graphfsl.data.streams import AUGMENT, CLASSES, IMAGES, keys_of, uniform
from graphfsl.data.transforms import DRAWS, Transform
from graphfsl.io.errors import InputError, require


def partly_labeled(split: Split, fraction: float, seed: int) -> Split:
    """The split with -1 for the labels that are withheld.

    `Setting.labeled_fraction` and `label_seed` say which.
    """
    if fraction == 1:
        return split
    least = int(torch.bincount(split.y[split.y >= 0]).min())
    require(
        fraction * least >= 1,
        f"labeled_fraction {fraction} leaves a class of {least} images without a label",
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
        """The sample that each number shows."""
        if self.per_class == 1:
            at = self._in_epochs(numbers, len(self.labeled))
            return np.asarray(self.labeled[at])
        groups, member = np.divmod(numbers, self.per_class)
        classes = self._in_epochs(groups, len(self.split.classes))
        u = uniform(self._keys(groups), IMAGES, 1, self.per_class)
        images = self.deck.draw(classes[:, None], u)  # (n, 1, per_class) of each group's class
        return np.asarray(images[np.arange(len(numbers)), 0, member])

    def batch(self, i: Sequence[int] | np.ndarray) -> tuple[Episode, Target]:
        """The images with these numbers, as queries.

        x (views, n, *S), no label columns, Target.query (views, n).
        """
        numbers = np.asarray(i)
        ids = torch.from_numpy(self.ids(numbers)).expand(self.views, -1)
        x = self._samples(ids, numbers)
        no_columns = torch.empty(*ids.shape, 0, dtype=x.dtype, device=self.device)
        y = self.y[ids]
        target = Target(query=y, unlabeled=y[:, :0], ids=ids, classes=y[:, :0])
        return Episode(x, no_columns, 0, ids.shape[1]), target.to(self.device)

    def _samples(self, ids: Tensor, numbers: np.ndarray) -> Tensor:
        """(views, n, *S) the samples, normalised, and each view augmented by itself."""
        raw = self.split.gather(ids.to(self.split.x.device)).to(self.device, non_blocking=True)
        if not self.transform.augments:
            return self.transform(raw, None)
        u = torch.from_numpy(uniform(self._keys(numbers), AUGMENT, self.views, DRAWS))
        return self.transform(raw, u.transpose(0, 1).to(self.device, torch.float32))

    def batches(self, numbers: range, batch: int) -> Iterator[tuple[Episode, Target]]:
        """The images of a range, `batch` at a time."""
        yield from (
            self.batch(np.array(numbers[k : k + batch])) for k in range(0, len(numbers), batch)
        )

    def _name(self) -> str:
        return f"{self.split.name}/batches"

    def _keys(self, numbers: np.ndarray) -> np.ndarray:
        return keys_of(self._name(), self.seed, numbers)

    def _in_epochs(self, numbers: np.ndarray, size: int) -> np.ndarray:
        """Which of `size` things each of these ascending numbers is.

        Every epoch has an order of its own.
        """
        epochs, at = np.divmod(numbers, size)
        parts = []
        for epoch in np.unique(epochs):
            order = _order(self._name(), self.seed, size, int(epoch))
            parts.append(order[at[epochs == epoch]])
        return np.concatenate(parts)


@lru_cache(maxsize=2)  # a batch may lie across two epochs
def _order(name: str, seed: int, size: int, epoch: int) -> np.ndarray:
    keys = keys_of(f"{name}/order", seed, np.array([epoch]))
    return np.argsort(uniform(keys, CLASSES, 1, size)[0, 0], kind="stable")
