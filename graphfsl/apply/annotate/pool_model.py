"""What is predicted of a pool from the labels so far, and which samples to label next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from graphfsl.apply.annotate.label_columns import LabelColumns
from graphfsl.apply.label.label_pool import Labels, label_graph
from graphfsl.apply.label.pool_graph import pool_graph
from graphfsl.apply.label.suggest_pool import CoverageOrder
from graphfsl.functional.distinct_neighbors import distinct_neighbors
from graphfsl.io.files import memory_of_machine

ALPHA, NEIGHBORS = 0.9, 10
MOST_LABELS = 2000  # that are propagated: more would tell little, and take time by their square
SHARE = 8  # of the memory, one part may be columns
COPIES = 0.05  # of the mean 1 - cosine of all pairs: as near are near-duplicates


@dataclass(frozen=True)
class Label:
    """A label that is propagated.

    Attributes:
        value: a class, or "none".
        single: whether it was an answer to one sample, not one of many accepted at once.
    """

    value: str
    single: bool


@dataclass(frozen=True)
class Predictions:
    """What labels say of each of n samples.

    Attributes:
        classes: the classes that have a label.
        best: (n,) the likeliest, as a position in `classes`; -1 where no label reaches.
        answer: (n,) the same, -1 for none of these too.
        score: (n,) as a probability that `best` is right.
        certain: (n,) bool, which have a label or are copies of what has one.
        shows_foreign: whether labels tell which samples are of none of the classes.
        borne_out: whether held-out single answers bear the scores out.
        held_out: of how many single answers that is known.
        doubted: sample -> (class that the others say, probability that the label is wrong).
        support: (m,) the samples whose labels were propagated.
        influence: (m, m) what the column of each gives to each of them.
        refined: whether a refiner says so, of what is not none of these.
    """

    classes: tuple[str, ...]
    best: np.ndarray
    answer: np.ndarray
    score: np.ndarray
    certain: np.ndarray
    shows_foreign: bool
    borne_out: bool
    held_out: int
    doubted: dict[int, tuple[str, float]]
    support: np.ndarray
    influence: Tensor
    refined: bool = False

    @property
    def used(self) -> int:
        """How many labels were propagated."""
        return len(self.support)


class PoolModel:
    """The graph of a pool, on which labels go.

    Args:
        x: (n, d) features.
    """

    def __init__(self, x: np.ndarray) -> None:
        nothing = np.empty(0, np.int64)
        self.z = F.normalize(torch.from_numpy(np.ascontiguousarray(x, np.float32)), dim=1)
        distinct = distinct_neighbors(x, min(NEIGHBORS, max(len(x) - 1, 1)), nothing, nothing)
        self.graph = pool_graph(distinct)
        self._apart = pool_graph(distinct, bridged=False)
        self.columns = LabelColumns(self.graph.s, self.graph.node, ALPHA)
        self.most = MOST_LABELS
        if memory := memory_of_machine():
            self.most = max(64, min(self.most, memory // SHARE // (4 * len(self.graph.s))))

    def order(self) -> CoverageOrder:
        """Which samples to label next."""
        return CoverageOrder(self._apart, ALPHA)

    def predict(self, labels: Mapping[int, Label]) -> Predictions | None:
        """What these labels say of all samples; None where they are of one kind only.

        Only labels that are new since the last call are propagated.

        Args:
            labels: sample -> label.
        """
        used = _at_most(labels, self.most)
        classes = tuple(sorted({x.value for x in used.values() if x.value != "none"}, key=_number))
        if not classes or len(classes) + any(x.value == "none" for x in used.values()) < 2:
            return None
        self.columns.hold(used)
        support = np.array(self.columns.samples, np.int64)
        number = {name: i for i, name in enumerate(classes)}
        own = [used[sample] for sample in self.columns.samples]
        node = self.graph.node.numpy()
        found = label_graph(
            self.graph,
            support,
            np.array([number.get(label.value, -1) for label in own]),
            ALPHA,
            columns=self.columns.blocks,
            calibrates=np.array([label.single for label in own]),
        )
        return Predictions(
            classes,
            found.best,
            found.label,
            found.score,
            np.isin(node, node[support]),
            bool(found.facts["tells"]),
            bool(found.facts["borne out"]),
            int(found.facts["held out"]),
            _doubted(found, support, classes),
            support,
            torch.cat([block[node[support]] for block in self.columns.blocks()], 1),
        )

    def nearest(self, sample: int, count: int) -> np.ndarray:
        """The samples most alike, the nearest first, without the sample itself."""
        cosine = self.z @ self.z[sample]
        cosine[sample] = -torch.inf
        return np.asarray(cosine.topk(min(count, len(cosine) - 1)).indices.numpy())

    def copies(self, sample: int, count: int) -> np.ndarray:
        """Samples that are nearly the same, the nearest first."""
        apart = 1 - float(self.z.mean(0).double().square().sum())  # of 1 - cosine, over all pairs
        near = self.nearest(sample, count)
        cosine = (self.z[torch.from_numpy(near)] @ self.z[sample]).numpy()
        kept: np.ndarray = near[1 - cosine <= COPIES * apart]
        return kept


def _number(name: str) -> int:
    return int(name[1:])


def _at_most(labels: Mapping[int, Label], most: int) -> dict[int, Label]:
    """At most so many: single answers before others, and as many of each class as may be."""
    if len(labels) <= most:
        return dict(labels)
    of: dict[str, list[int]] = {}
    for sample in sorted(labels, key=lambda s: (not labels[s].single, s)):
        of.setdefault(labels[sample].value, []).append(sample)
    queues: Sequence[list[int]] = [list(reversed(samples)) for samples in of.values()]
    chosen: dict[int, Label] = {}
    while len(chosen) < most:
        for queue in queues:
            if queue and len(chosen) < most:
                sample = queue.pop()
                chosen[sample] = labels[sample]
    return chosen


def _doubted(
    found: Labels, support: np.ndarray, classes: Sequence[str]
) -> dict[int, tuple[str, float]]:
    doubted = {}
    for i in found.doubted:
        doubted[int(support[i])] = (classes[found.said[i]], float(found.doubt[i]))
    return doubted
