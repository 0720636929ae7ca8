"""Which samples of a pool to label next: those from which labels would reach most of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from graphfsl.apply.label.pool_arguments import check_graph, check_samples, features_of
from graphfsl.apply.label.pool_graph import PoolGraph, pool_graph
from graphfsl.core.arguments import class_numbers, whole_number
from graphfsl.core.display import block
from graphfsl.functional.coverage import greedy_coverage
from graphfsl.functional.distinct_neighbors import distinct_neighbors
from graphfsl.functional.neighbors import Bar, silent
from graphfsl.functional.sparse_propagation import propagate_sparse
from graphfsl.io.errors import require

EVERY = 5000  # distinct samples of which all are candidates
CANDIDATES = 500  # of a larger pool, in each round
CHOSEN = 100  # samples of a round there
PROBES = 64  # columns from which the diagonal of G is estimated
CHUNK = 32  # columns that are solved at once
SAME = 1e-6  # by which features of unit length differ where they are equal
TOLERANCE = 1e-4  # of a column's residual: gains are told apart by more


@dataclass(frozen=True)
class Suggestions:
    """Which samples to label next, the most useful first.

    Attributes:
        sample: (count,) their positions in the pool.
        gain: (count,) how much more of the pool each covers, in distinct samples.
        before: the share of the distinct samples that the labels so far cover.
        after: the share that they and all of these cover.
        facts: how it was done, in words and numbers.
    """

    sample: np.ndarray
    gain: np.ndarray
    before: float
    after: float
    facts: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        facts = {
            "first": ", ".join(map(str, self.sample[:5].tolist())),
            "gain": f"{self.gain[:1].sum():.3g} … {self.gain[-1:].sum():.3g} samples",
            "coverage": f"{100 * self.before:.1f} % before, {100 * self.after:.1f} % after",
        }
        return block(f"{len(self.sample):,} samples to label", facts)


@torch.no_grad()
def suggest_pool(
    x: np.ndarray,
    count: int,
    labeled: np.ndarray | None = None,
    neighbors: int = 10,
    alpha: float = 0.9,
    bar: Bar | None = None,
) -> Suggestions:
    """Choose the samples of a pool that are worth most to label, on the graph of `label_pool`.

        G = (I - alpha S)^-1,  S = D^-1/2 W D^-1/2
        k_ij = G_ij / sqrt(G_ii G_jj)
        gain_i = sum_j max(0, k_ij - max_{l labeled} k_lj)

    It is the rule `coverage` of the slot `acquire` on this graph, in which an edge that both ends
    name weighs twice. The graph is that of distinct samples, so that of copies one is named at
    most, and small islands stand alone. Up to 5,000 distinct samples each
    is a candidate. Of more, the pool is divided into 500 parts, neighbours together, and each part
    sends the sample of largest first gain sum_j k_ij (1 - covered_j), which one column more tells
    of all; 100 are chosen before others are sent. G_jj is then estimated from 64 random columns
    (Bekas, Kokiopoulou, Saad 2007, https://doi.org/10.1016/j.apnum.2007.01.003). Time and memory
    grow with the number of samples.

    Args:
        x: (n, d) features. Lists, tensors and data frames do as well as arrays.
        count: how many samples are named.
        labeled: (m,) which samples have a label, of whatever class; None for none.
        neighbors: of each sample in the graph.
        alpha: how far labels go, from 0 to 0.999.
        bar: shows progress.

    Raises:
        InputError: for options that cannot be used, and for more samples than there are distinct
            ones without a label.
    """
    x = features_of(x)
    count = whole_number(count, "the number of samples to label", 1)
    support = np.empty(0, np.int64)
    if labeled is not None and len(labeled):
        support = class_numbers(labeled, "which samples of the pool are labeled").numpy()
    check_graph(neighbors, alpha)
    check_samples(len(x), support)
    _check_unlike(x)

    # each label by itself: two samples so near that they count as one need not be of one class
    distinct = distinct_neighbors(x, neighbors, support, np.arange(len(support)), bar or silent)
    graph = pool_graph(distinct, bridged=False)
    kernel = _Kernel(graph.s, alpha)
    known = torch.zeros(len(graph.s), dtype=torch.bool)
    known[graph.node[torch.from_numpy(support)]] = True
    _check_count(count, int((~known).sum()), len(x) - len(support))

    covered = kernel.covered_by(known.nonzero()[:, 0])
    before = float(covered.mean())
    chosen, gains = _chosen(kernel, known, covered, count, bar or silent)
    facts = {
        "k": distinct.near.index.shape[1],
        "alpha": alpha,
        "distinct": len(graph.s),
        "recall": distinct.near.recall,
        "candidates": "all" if kernel.is_small else CANDIDATES,
    }
    return Suggestions(
        sample=_first_samples(graph)[chosen].numpy(),
        gain=gains.numpy(),
        before=before,
        after=before + float(gains.sum()) / len(graph.s),
        facts=facts,
    )


class CoverageOrder:
    """The samples of a graph in the order in which they are worth labelling, a few at a time.

    Args:
        graph: of n samples, its islands not joined.
        alpha: how far labels go, see `suggest_pool`.
    """

    def __init__(self, graph: PoolGraph, alpha: float = 0.9) -> None:
        self._graph = graph
        self._kernel = _Kernel(graph.s, alpha)
        self._known = torch.zeros(len(graph.s), dtype=torch.bool)
        self._covered = torch.zeros(len(graph.s))

    def cover(self, samples: np.ndarray) -> None:
        """These samples are labelled from now on."""
        nodes = torch.unique(self._graph.node[torch.from_numpy(samples.astype(np.int64))])
        new = nodes[~self._known[nodes]]
        self._known[new] = True
        self._covered = torch.maximum(self._covered, self._kernel.covered_by(new))

    def next(self, count: int) -> np.ndarray:
        """The samples to label next, which count as labelled afterwards; fewer where none is left.

        Of copies one is named at most.
        """
        count = min(count, int((~self._known).sum()))
        if not count:
            return np.empty(0, np.int64)
        nodes, _ = _chosen(self._kernel, self._known, self._covered, count, silent)
        samples: np.ndarray = _first_samples(self._graph)[nodes].numpy()
        self.cover(samples)
        return samples


class _Kernel:
    """k_ij of N nodes, some rows at a time."""

    def __init__(self, s: Tensor, alpha: float) -> None:
        self.s, self.alpha = s, alpha
        self.is_small = len(s) <= EVERY
        self.whole: Tensor | None = None
        if self.is_small:
            self.whole = self._of_g(torch.arange(len(s)))
            self.scale = self.whole.diagonal().rsqrt()
            self.whole *= self.scale[:, None]
            self.whole *= self.scale
        else:
            self.scale = self._diagonal().rsqrt()

    def _solved(self, y: Tensor) -> Tensor:
        return propagate_sparse(self.s, y, self.alpha, TOLERANCE)

    def _of_g(self, nodes: Tensor, bar: Bar = silent) -> Tensor:
        """Rows (m, N) of G, which is symmetric, solved a chunk of columns at a time."""
        rows = torch.empty(len(nodes), len(self.s))
        done = 0
        for some in bar(nodes.split(CHUNK), "propagating"):
            source = torch.zeros(len(self.s), len(some))
            source[some, torch.arange(len(some))] = 1
            rows[done : done + len(some)] = self._solved(source).clamp_min_(0).T
            done += len(some)
        return rows

    def _diagonal(self) -> Tensor:
        """G_jj (N,), estimated: the mean of z_j (G z)_j over random signs z. It is 1 or more."""
        g = torch.Generator().manual_seed(0)
        total = torch.zeros(len(self.s))
        for _ in range(PROBES // CHUNK):
            signs = torch.randint(0, 2, (len(self.s), CHUNK), generator=g).float() * 2 - 1
            total += (signs * self._solved(signs)).sum(1)
        return (total / PROBES).clamp_min(1)

    def rows(self, nodes: Tensor, bar: Bar = silent) -> Tensor:
        """k_ij (m, N) of these nodes i."""
        if self.whole is not None:
            return self.whole[nodes]
        g = self._of_g(nodes, bar)
        own = g.gather(1, nodes[:, None]).rsqrt()  # exact, where a column was solved
        g *= own
        g *= self.scale
        g.scatter_(1, nodes[:, None], 1.0)
        return g.clamp_max_(1.0)

    def covered_by(self, nodes: Tensor) -> Tensor:
        """How well these nodes together cover each: (N,)."""
        covered = torch.zeros(len(self.s))
        for some in nodes.split(CHUNK) if len(nodes) else ():
            covered = torch.maximum(covered, self.rows(some).amax(0))
        return covered

    def first_gains(self, covered: Tensor) -> Tensor:
        """About what each node would add: sum_j k_ij (1 - covered_j), (N,)."""
        return self._solved(((1 - covered) * self.scale)[:, None])[:, 0] * self.scale


def _chosen(
    kernel: _Kernel, known: Tensor, covered: Tensor, count: int, bar: Bar
) -> tuple[Tensor, Tensor]:
    """The nodes that are chosen, and the gain of each."""
    free = ~known
    chosen, gains = [], []
    left = count
    while left:
        nodes = _candidates(kernel, free, covered)
        k = kernel.rows(nodes, bar)
        most = min(left, len(nodes) if kernel.is_small else max(1, min(CHOSEN, len(nodes) // 5)))
        of, gain = greedy_coverage(k, torch.ones(len(nodes), dtype=torch.bool), most, covered)
        covered = torch.maximum(covered, k[of].amax(0))
        free[nodes[of]] = False
        chosen.append(nodes[of])
        gains.append(gain)
        left -= most
    return torch.cat(chosen), torch.cat(gains)


def _candidates(kernel: _Kernel, free: Tensor, covered: Tensor) -> Tensor:
    """The nodes among which is chosen: all, or of a large pool the best of each part."""
    nodes = free.nonzero()[:, 0]
    if kernel.is_small or len(nodes) <= CANDIDATES:
        return nodes
    gain = kernel.first_gains(covered)[nodes]
    return torch.stack([nodes[part[gain[part].argmax()]] for part in _parts(len(nodes))])


def _parts(n: int) -> list[Tensor]:
    """The numbers 0 .. n - 1 in CANDIDATES parts of neighbours, as equal as may be."""
    return [part for part in torch.arange(n).tensor_split(CANDIDATES) if len(part)]


def _first_samples(graph: PoolGraph) -> Tensor:
    """(N,) the first sample on each node."""
    first = torch.full((len(graph.s),), len(graph.node))
    return first.scatter_reduce(0, graph.node, torch.arange(len(graph.node)), "amin")


def _check_unlike(x: np.ndarray) -> None:
    """InputError where all samples lie in one direction: no graph tells one from another."""
    z = F.normalize(torch.from_numpy(np.ascontiguousarray(x, np.float32)), dim=1)
    require(
        len(x) == 1 or bool(((z - z[0]).abs() > SAME).any()),
        f"all {len(x):,} samples have the same features, so that there is nothing to choose "
        "between; check the encoder",
    )


def _check_count(count: int, free: int, unlabeled: int) -> None:

    copies = f" ({unlabeled:,} with copies)" if unlabeled > free else ""
    require(
        count <= free,
        f"{count:,} samples to label are asked for, but only {free:,} distinct ones{copies} have "
        "no label; lower --n",
    )
