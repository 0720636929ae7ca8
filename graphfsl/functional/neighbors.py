"""The k nearest neighbours of every sample of a pool, by cosine.

They are exact for small pools, and searched cell by cell in large ones.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn import functional as F

EXACT = 20_000  # samples that are compared with all others
CELL = 512  # the most samples of a cell
SPLIT, SPLIT_STEPS = 16, 8  # of k-means, which divides a cell
# samples whose true neighbours are known, and how many of them must be found
SAMPLED, RECALL = 500, 0.9
MOST_CELLS = 64  # that one is compared with

# items, what is done with them -> the items, with progress shown
Bar = Callable[[Iterable[Any], str], Iterable[Any]]


def silent(items: Iterable[Any], what: str) -> Iterable[Any]:
    """Show no progress.

    Args:
        items: what is worked through.
        what: what is done with them.

    Returns:
        The items as they are.
    """
    return items


@dataclass(frozen=True)
class Neighbors:
    """The k nearest neighbours of n samples, and how they were found.

    Attributes:
        index: (n, k) int64, never oneself.
        cosine: (n, k) float32, falling.
        order: (n,) int64, samples such that neighbours stand close together.
        cells: into how many the samples were divided; 1 where all were compared with all.
        searched: with how many of them a sample was compared.
        recall: the share of true neighbours among those found, measured; 1 where all were compared.
    """

    index: np.ndarray
    cosine: np.ndarray
    order: np.ndarray
    cells: int
    searched: int
    recall: float


def nearest_neighbors(x: np.ndarray, k: int, bar: Bar = silent) -> Neighbors:
    """The k nearest neighbours of every sample by cosine.

    Above EXACT samples k-means divides them again and again into cells, and each is compared with
    the samples of the cells nearest to its own: with 4, 8, 16, … cells, until 90% of the true
    neighbours of 500 samples are among those found. This needs faiss; without it the comparison is
    exact, and its time grows with the square of n.

    Args:
        x: (n, d) features, finite and of any length.
        k: neighbours of each; n - 1 where k is more.
        bar: shows progress.
    """
    x = F.normalize(torch.from_numpy(np.ascontiguousarray(x, np.float32)), dim=1).numpy()
    n, has_faiss = len(x), importlib.util.find_spec("faiss") is not None
    k = min(k, n - 1)
    if n > EXACT and not has_faiss:
        advice = "pip install graphfsl[faiss] makes it nearly linear"
        warnings.warn(
            f"faiss is not installed: comparing {n:,} samples takes time by its square; {advice}",
            stacklevel=3,
        )
    if n <= EXACT or not has_faiss:
        return _exact(x, k, bar)
    return _cell_by_cell(x, k, bar)


def _exact(x: np.ndarray, k: int, bar: Bar) -> Neighbors:
    everyone = np.arange(len(x))
    index, cosine = [], []
    for rows in bar(np.array_split(everyone, -(-len(x) // CELL)), "finding neighbours"):
        found = _without_self(rows, *_search(x[rows], x, k + 1))
        index.append(found[0])
        cosine.append(found[1])
    return Neighbors(np.concatenate(index), np.concatenate(cosine), everyone, 1, 1, 1.0)


def _cell_by_cell(x: np.ndarray, k: int, bar: Bar) -> Neighbors:
    n = len(x)
    everyone = np.arange(n)
    cells = list(_cells(x, everyone))
    near = _near_cells(x, cells, k)
    cell_of = np.empty(n, np.int64)
    for number, members in enumerate(cells):
        cell_of[members] = number

    def search(rows: np.ndarray, cell: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Of some rows of a cell, among the samples of so many cells near to it."""
        nearest = [cells[j] for j in near[cell].tolist()]
        # where cells are tiny
        enough = int(np.searchsorted(np.cumsum([len(c) for c in nearest]), k + 1)) + 1
        candidates = np.concatenate(nearest[: max(count, enough)])
        found, cosine = _search(x[rows], x[candidates], k + 1)
        return _without_self(rows, candidates[found], cosine)

    sample = everyone[:: n // SAMPLED]
    # The cosine of the last true neighbour: what is as near is as true.
    worst = _without_self(sample, *_search(x[sample], x, k + 1))[1][:, -1] - 1e-6
    count, recall = 2, 0.0
    while recall < RECALL and count < near.shape[1]:
        count = min(2 * count, near.shape[1])
        found = [
            search(sample[i : i + 1], cell, count)[1][0]
            for i, cell in enumerate(cell_of[sample].tolist())
        ]
        recall = float((np.stack(found) >= worst[:, None]).mean())

    index, cosine = np.empty((n, k), np.int64), np.empty((n, k), np.float32)
    for number, members in enumerate(bar(cells, "finding neighbours")):
        index[members], cosine[members] = search(members, number, count)
    return Neighbors(index, cosine, np.concatenate(cells), len(cells), count, recall)


def _near_cells(x: np.ndarray, cells: list[np.ndarray], k: int) -> Int[Tensor, "cells most"]:
    """For each cell those nearest to its middle, itself among them, the nearest first."""
    middles = torch.from_numpy(np.stack([x[members].mean(0) for members in cells]))
    centers = F.normalize(middles, dim=1)
    most = min(max(MOST_CELLS, k + 1), len(cells))
    blocks = [(rows @ centers.T).topk(most).indices for rows in centers.split(CELL)]
    return torch.cat(blocks)


def _search(queries: np.ndarray, x: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k rows of x with the largest product for each query, and the products, largest first."""
    k = min(k, len(x))
    try:
        import faiss
    except ImportError:
        best = (torch.from_numpy(queries) @ torch.from_numpy(x).T).topk(k)
        return best.indices.numpy(), best.values.numpy()
    faiss.omp_set_num_threads(torch.get_num_threads())
    cosine, index = faiss.knn(queries, x, k, metric=faiss.METRIC_INNER_PRODUCT)
    return index, cosine


def _without_self(
    rows: np.ndarray, index: np.ndarray, cosine: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Every row's neighbours but itself.

    The last one goes where its twins left a row no place among them.
    """
    own = index == rows[:, None]
    own[~own.any(1), -1] = True
    return index[~own].reshape(len(rows), -1), cosine[~own].reshape(len(rows), -1)


def _cells(x: np.ndarray, members: np.ndarray) -> Iterable[np.ndarray]:
    """Members of at most CELL, near ones together."""
    if len(members) <= CELL:
        yield members
        return
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    count = min(SPLIT, -(-2 * len(members) // CELL))
    options = {"niter": SPLIT_STEPS, "seed": 1, "spherical": True, "min_points_per_centroid": 1}
    means = faiss.Kmeans(x.shape[1], count, **options)
    means.train(x[members])
    of = means.index.search(x[members], 1)[1][:, 0]
    parts = [members[of == j] for j in range(count)]
    if max(map(len, parts)) == len(members):  # all are the same
        parts = np.array_split(members, -(-len(members) // CELL))
    for part in parts:
        if len(part):
            yield from _cells(x, part)
