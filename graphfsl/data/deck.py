"""A split's samples by class, as they are drawn from; and which of them may show their labels."""

from __future__ import annotations

import numpy as np

from graphfsl.data.split import Split
from graphfsl.data.streams import LABEL_SPLIT, choose, keys_of, uniform


class Deck:
    """Sample ids by class: `order[start[c] : start[c] + count[c]]` are those of class c."""

    def __init__(self, ids: np.ndarray, y: np.ndarray, classes: int) -> None:
        self.order = ids[np.argsort(y[ids], kind="stable")]
        self.count = np.bincount(y[ids], minlength=classes)
        self.start = np.cumsum(self.count) - self.count

    def draw(self, classes: np.ndarray, u: np.ndarray) -> np.ndarray:
        """classes (B, rows), uniforms (B, rows, k) -> ids (B, rows, k)."""
        at = self.start[classes][..., None] + choose(self.count[classes], u)
        return self.order[np.minimum(at, len(self.order) - 1)]


def label_split(split: Split, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids whose labels may be used, and the rest: floor(fraction * n) of each class.

    A class's choice depends on the split's name, its own name and the seed only, not on the other
    classes.
    """
    every = Deck(np.flatnonzero(split.y.numpy() >= 0), split.y.numpy(), len(split.classes))
    keys = np.concatenate([keys_of(f"{split.name}/{c}", seed, np.zeros(1)) for c in split.classes])
    most = int(every.count.max())
    order = np.argsort(
        uniform(keys, LABEL_SPLIT, 1, most)[:, 0] + (np.arange(most) >= every.count[:, None]),
        axis=1,
    )
    used = np.arange(most) < np.floor(fraction * every.count + 1e-9)[:, None]
    real = np.arange(most) < every.count[:, None]
    ids = every.order[np.minimum(every.start[:, None] + order, len(every.order) - 1)]
    return np.sort(ids[used]), np.sort(ids[real & ~used])
