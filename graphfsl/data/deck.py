"""A split's samples by class, as they are drawn from; and which of them may show their labels."""

from __future__ import annotations

import math

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
        """Draw k samples of each class, without replacement.

        Args:
            classes: (B, rows) class numbers.
            u: (B, rows, k) uniforms that decide.

        Returns:
            Sample ids (B, rows, k).
        """
        at = self.start[classes][..., None] + choose(self.count[classes], u)
        ids: np.ndarray = self.order[np.minimum(at, len(self.order) - 1)]
        return ids


def label_split(split: Split, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Divide the ids of each class into those whose labels may be used, and the rest.

    A class's choice depends on the split's name, its own name and the seed only, not on the other
    classes.

    Returns:
        floor(fraction * n) ids of each class of n, and the others.
    """
    labels = split.y.numpy()
    labeled, rest = [], []
    for column, name in enumerate(split.classes):
        ids = np.flatnonzero(labels == column)
        key = keys_of(f"{split.name}/{name}", seed, np.zeros(1))
        shuffled = ids[np.argsort(uniform(key, LABEL_SPLIT, 1, len(ids))[0, 0])]
        count = math.floor(fraction * len(ids) + 1e-9)
        labeled.append(shuffled[:count])
        rest.append(shuffled[count:])
    return np.sort(np.concatenate(labeled)), np.sort(np.concatenate(rest))
