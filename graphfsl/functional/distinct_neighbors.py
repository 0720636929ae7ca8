"""Neighbours among distinct samples, so that copies of an image are not all its neighbours.

Of the frames of a video, or the copies of an image, all others would be the nearest ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components
from torch.nn import functional as F

from graphfsl.functional.neighbors import Bar, Neighbors, nearest_neighbors, silent

# two samples are one up to this share of the mean 1 - cosine, or up to this
SAME, ROUNDING = 1e-4, 1e-9
ROWS = 1 << 15  # that are compared at once
ISLAND, ROUNDS = 5, 3  # the most samples of an island over k; how often islands are joined


@dataclass(frozen=True)
class Distinct:
    """Of n samples, m of them distinct, the neighbours among the distinct ones.

    Attributes:
        group: (n,) the distinct sample that each is a copy of.
        near: the k nearest neighbours of the m distinct samples.
        bridges: (e, 2) further edges, which join small islands to the rest.
        bridge_cosine: (e,) of the ends of each.
    """

    group: np.ndarray
    near: Neighbors
    bridges: np.ndarray
    bridge_cosine: np.ndarray


def distinct_neighbors(
    x: np.ndarray, k: int, support: np.ndarray, label: np.ndarray, bar: Bar = silent
) -> Distinct:
    """The k nearest neighbours by cosine, where copies of a sample count as one.

    1. Samples that are equal up to rounding form a group, of which one sample stands for all.
    2. A group joins a leader, one of the k nearest, to which its 1 - cosine is at most a
       ten-thousandth of the mean over all pairs. Leaders are taken in order, labeled samples first.
       Only the leader counts: a chain of near samples, as the frames of a video are, does not
       become one group. A sample so near to two labels joins neither. This is repeated, each group
       then standing where its leader stands, until no two neighbours are so near.
    3. Neighbours are sought among leaders. An island of fewer than 5 k leaders without a label
       would never be reached by one: it is joined to the k nearest other islands, each member to
       its nearest.

    Args:
        x: (n, d) features.
        k: neighbours of each.
        support: (m,) the samples that have labels; there may be none.
        label: (m,) their labels.
        bar: shows progress.
    """
    z = F.normalize(torch.from_numpy(np.ascontiguousarray(x, np.float32)), dim=1).numpy()
    mean = 1 - float(np.square(z.mean(0, dtype=np.float64)).sum())  # of 1 - cosine, over all pairs
    limit = max(SAME * mean, ROUNDING)
    # Equal ones first: in a dense cloud the nearest neighbours, in single precision, may be
    # anything but a copy.
    group = components(len(x), _equal_pairs(z))
    kept = np.unique(group, return_index=True)[1]  # a sample of each group
    near = nearest_neighbors(x[kept], k, bar)
    while len(kept) > 1:
        twins = _twins(z, kept, near, limit, group[support], label)
        if not len(twins) or len(kept) == 2:  # one sample alone would have no neighbour
            break
        leaders, ball = _balls(len(kept), twins, group[support])
        group, kept = ball[group], kept[leaders]
        near = nearest_neighbors(x[kept], k, bar)
    z = z if len(kept) == len(x) else z[kept]
    bridges = _bridges(z, near.index, near.cosine, np.unique(group[support]))
    cosine = np.einsum("ed,ed->e", z[bridges[:, 0]], z[bridges[:, 1]]).astype(np.float32)
    return Distinct(group, near, bridges, cosine)


def _twins(
    z: np.ndarray,
    kept: np.ndarray,
    near: Neighbors,
    limit: float,
    support: np.ndarray,
    label: np.ndarray,
) -> np.ndarray:
    """(e, 2) neighbours among the rows `kept` of z whose 1 - cosine is at most `limit`.

    None of them lie between two labels, unless they are equal.
    """
    maybe = np.argwhere(1 - near.cosine <= limit + 1e-5)  # single precision rounds
    pairs = np.stack([maybe[:, 0], near.index[tuple(maybe.T)]], 1)
    first, second = z[kept[pairs[:, 0]]], z[kept[pairs[:, 1]]]
    apart = np.square(first - second).sum(1) / 2  # 1 - cosine, but exact near 0
    pairs, apart = pairs[apart <= limit], apart[apart <= limit]
    between = _between_labels(len(kept), pairs, support, label)
    return np.asarray(pairs[~between | (apart <= ROUNDING)])


def _equal_pairs(z: np.ndarray) -> np.ndarray:
    """(e, 2) pairs of rows that are equal up to rounding.

    They are found among those that lie side by side in a random direction: nothing but another copy
    lies between two copies.
    """
    pairs = [np.empty((0, 2), np.int64)]
    directions = np.random.default_rng(0).standard_normal((2, z.shape[1]))
    for at, direction in zip(along(z, directions).T, directions, strict=True):
        ends = side_by_side(at, direction)
        for some in np.array_split(ends, -(-max(len(ends), 1) // ROWS)):
            apart = np.square(z[some[:, 0]] - z[some[:, 1]]).sum(1) / 2
            pairs.append(some[apart <= ROUNDING])
    return np.concatenate(pairs)


def along(z: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """(n, m) products of rows z (n, d) with directions (m, d), in double precision.

    In single precision the product of a row depends on where in the matrix it stands, so that other
    rows come to lie between two equal ones.
    """
    blocks = np.array_split(z, -(-max(len(z), 1) // ROWS))
    return np.concatenate([block.astype(np.float64) @ directions.T for block in blocks])


def side_by_side(at: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """(e, 2) pairs of rows that lie so close in a direction as rows equal up to rounding do.

    Args:
        at: (n,) the product of each row, of length 1, with the direction.
        direction: (d,).
    """
    order = np.argsort(at, kind="stable")
    near = np.diff(at[order]) <= np.sqrt(2 * ROUNDING) * np.linalg.norm(direction)
    return np.stack([order[:-1][near], order[1:][near]], 1)


def components(n: int, edges: np.ndarray) -> np.ndarray:
    """(n,) the number of the part that each of n nodes belongs to; edges: (e, 2)."""
    graph = csr_array((np.ones(len(edges), bool), (edges[:, 0], edges[:, 1])), shape=(n, n))
    component: np.ndarray = connected_components(graph, directed=False)[1]
    return component


def _balls(n: int, edges: np.ndarray, first: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The nodes that lead a ball, and (n,) the number of the ball of each node.

    One after the other, the nodes `first` before all others, a node that is in no ball leads one of
    its own and takes those of its neighbours, by edges (e, 2), that are in none.
    """
    both = np.concatenate([edges, edges[:, ::-1]])
    graph = csr_array((np.ones(len(both), bool), (both[:, 0], both[:, 1])), shape=(n, n))
    leader = np.arange(n)
    free = np.ones(n, bool)
    ends = np.unique(edges)
    for node in [*first.tolist(), *ends.tolist()]:
        if free[node]:
            near = graph.indices[graph.indptr[node] : graph.indptr[node + 1]]
            leader[near[free[near]]] = leader[node] = node
            free[near] = free[node] = False
    return np.unique(leader, return_inverse=True)


def _between_labels(
    n: int, pairs: np.ndarray, support: np.ndarray, label: np.ndarray
) -> np.ndarray:
    """(e,) bool: whether a pair of nodes lies between two labels.

    It has two labels, or an end without a label that is paired with two of them.

    Args:
        n: how many nodes there are.
        pairs: (e, 2)
        support: (m,) the nodes of labeled samples.
        label: (m,) their labels.
    """
    low, high = np.full(n, label.max(initial=0) + 1), np.full(n, label.min(initial=0) - 1)
    np.minimum.at(low, support, label)
    np.maximum.at(high, support, label)
    labeled = low <= high
    around_low, around_high = low.copy(), high.copy()
    for here, there in (pairs.T, pairs.T[::-1]):
        np.minimum.at(around_low, here, low[there])
        np.maximum.at(around_high, here, high[there])
    torn = ~labeled & (around_low < around_high)
    parted: np.ndarray = torn[pairs].any(1) | (
        labeled[pairs].all(1) & (low[pairs[:, 0]] != low[pairs[:, 1]])
    )
    return parted


def _bridges(
    z: np.ndarray, index: np.ndarray, cosine: np.ndarray, support: np.ndarray
) -> np.ndarray:
    """(e, 2) the edges that join small islands without a label to others."""
    n, k = index.shape
    start, place = np.nonzero(cosine > 0)
    edges = np.stack([start, index[start, place]], 1)
    bridges = np.empty((0, 2), np.int64)
    for _ in range(ROUNDS):
        part = components(n, np.concatenate([edges, bridges]))
        size = np.bincount(part)
        labeled = np.zeros(len(size), bool)
        labeled[part[support]] = True
        lost = (size < ISLAND * k) & ~labeled
        if not lost.any() or lost.all():
            break
        # Of an island the sample nearest to its middle stands for it; of what is larger every
        # sample for itself.
        members = np.split(np.argsort(part, kind="stable"), np.cumsum(size)[:-1])
        middle = {
            i: m[np.argmax(z[m] @ z[m].mean(0))]
            for i, m in enumerate(members)
            if size[i] < ISLAND * k
        }
        for_all = np.concatenate(
            [np.flatnonzero(size[part] >= ISLAND * k), np.array([*middle.values()], np.int64)]
        )
        ours = np.flatnonzero(lost)
        found = _nearest_others(z, np.array([middle[i] for i in ours.tolist()]), for_all, k)
        new = []
        for i, others in zip(ours.tolist(), found, strict=True):
            for j in others:
                there = members[part[j]] if int(part[j]) in middle else np.array([j])
                new.append(np.stack([members[i], there[np.arange(size[i]) % len(there)]], 1))
        bridges = np.concatenate([bridges, *new])
    return bridges


def _nearest_others(
    z: np.ndarray, rows: np.ndarray, candidates: np.ndarray, k: int
) -> list[np.ndarray]:
    """For each of `rows` up to k candidates other than itself of the largest cosine above 0."""
    found = []
    for block in np.array_split(rows, -(-len(rows) // 512)):
        cosine = torch.from_numpy(z[block] @ z[candidates].T)
        cosine[torch.from_numpy(block[:, None] == candidates)] = 0
        best = cosine.topk(min(k, len(candidates)))
        found += [
            candidates[i[c > 0].numpy()] for c, i in zip(best.values, best.indices, strict=True)
        ]
    return found
