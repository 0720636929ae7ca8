"""The nearest neighbours of a pool in shards, by cosine.

k-means over a sample of the pool says where its cells are. Each shard's samples are sorted into
them once; then each shard's samples are compared with those of the cells nearest to them, in one
group of shards after the other, and the k nearest of all groups are kept.

Where all features together are larger than half of this machine's memory, samples are compared by
codes of a product quantizer, 8 times smaller, and only the nearest by these are read and compared
themselves.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from graphfsl.apply.label.shards.shard_files import (
    PoolShards,
    digest,
    is_made,
    read_shard,
    shard_file,
    write_shard,
)
from graphfsl.functional.neighbors import EXACT, RECALL, SAMPLED
from graphfsl.io.errors import InputError

CELLS, NEIGHBORS = "cells", "neighbors"
PER_CELL, STEPS, SEED = 40, 8, 1  # samples of a cell that k-means sees, its steps and its seed
FIRST_PROBES = 4  # cells that a sample is compared with; doubled until enough neighbours are found
GROUP = 2**29  # bytes of features that are compared with at once
BLOCK = 4096  # samples that look for neighbours at once
# numbers of a feature that one byte stands for, the first that divides its length
CODED = (2, 1)
READ = 4  # times k samples are read and compared themselves, where all were compared by codes


def check_faiss() -> None:
    """Refuse to look for neighbours in shards without faiss.

    Raises:
        InputError: says how to install it.
    """
    if importlib.util.find_spec("faiss") is None:
        raise InputError("a pool in shards needs faiss: pip install graphfsl[faiss]")


@dataclass(frozen=True)
class Cells:
    """The cells of a pool.

    Attributes:
        centers: (c, d) float32 of length 1.
        probes: with how many of them a sample is compared.
        recall: the share of true neighbours that are found so, measured; 1 where all are compared.
        codebook: (M, 256, d / M) what each byte of a code stands for; None compares features.
    """

    centers: np.ndarray
    probes: int
    recall: float
    codebook: np.ndarray | None = None


@dataclass(frozen=True)
class SortIntoCells:
    """Says of each sample of a shard in which cell it lies, -1 for a copy of another sample.

    Args:
        pool: the features.
        key: a digest of all that it depends on.
        centers: (c, d) of the cells.
        codebook: of `Cells`.
        copies: a file with `node`, the sample that each is a copy of.
    """

    pool: PoolShards
    key: str
    centers: np.ndarray
    codebook: np.ndarray | None
    copies: Path
    what: str = "sorting into cells"

    def is_done(self, shard: int) -> bool:
        """Whether the shard's file is there."""
        return is_made(shard_file(self.pool.folder, CELLS, shard), self.key)

    def __call__(self, shard: int) -> None:
        """Write `cell` (r,) of a shard, and `code` (r, M) where samples are compared by codes."""
        start, end = self.pool.starts[shard : shard + 2].tolist()
        x = self.pool.unit(shard)
        cell = _index_of(self.centers).search(x, 1)[1][:, 0]
        node = read_shard(self.copies)["node"][start:end].numpy()
        cell[node != np.arange(start, end)] = -1
        sorted_in = {"cell": torch.from_numpy(cell.astype(np.int64))}
        if self.codebook is not None:
            codes = _quantizer_of(self.codebook).compute_codes(x)
            sorted_in["code"] = torch.from_numpy(codes)
        write_shard(shard_file(self.pool.folder, CELLS, shard), sorted_in, self.key)


@dataclass(frozen=True)
class FindNeighbors:
    """Finds the k nearest neighbours of each sample of a shard, and writes the edges to them.

    They are sorted by the sample that they lead to, so that a block of the graph reads from each
    shard only what leads into it.

    Args:
        pool: the features.
        key: a digest of all that it depends on.
        cells: the cells of the pool.
        k: neighbours of each sample.
    """

    pool: PoolShards
    key: str
    cells: Cells
    k: int
    what: str = "finding neighbours"

    def is_done(self, shard: int) -> bool:
        """Whether the shard's file is there."""
        return is_made(shard_file(self.pool.folder, NEIGHBORS, shard), self.key)

    def __call__(self, shard: int) -> None:
        """Write the edges of a shard: `of` and `to` (e,), `cosine` (e,), `offset` (S + 1,)."""
        starts = self.pool.starts
        rows = np.flatnonzero(read_cells(self.pool.folder, shard) >= 0)
        x = self.pool.unit(shard)[rows]
        samples = starts[shard] + rows
        index, cosine = nearest(self.pool, self.cells, x, samples, self.k, self.cells.probes)
        found = index >= 0
        of = samples.repeat(index.shape[1])[found.flatten()]
        to, cosine = index[found], cosine[found]
        order = np.argsort(to, kind="stable")
        edges = {
            "of": torch.from_numpy(of[order]),
            "to": torch.from_numpy(to[order]),
            "cosine": torch.from_numpy(cosine[order]),
            "offset": torch.from_numpy(np.searchsorted(to[order], starts)),
        }
        write_shard(shard_file(self.pool.folder, NEIGHBORS, shard), edges, self.key)


def read_cells(folder: Path, shard: int) -> np.ndarray:
    """(r,) the cell of each sample of a shard, -1 for a copy."""
    cell: np.ndarray = read_shard(shard_file(folder, CELLS, shard))["cell"].numpy()
    return cell


def find_centers(pool: PoolShards, coded: bool) -> tuple[np.ndarray, np.ndarray | None]:
    """The middles (c, d) of the cells of a pool, by k-means over a sample of it, and a codebook.

    There are 4 sqrt(n) cells, or one where all samples are compared with all. The codebook (M, 256,
    d / M) is None where samples are not compared by codes.
    """
    import faiss

    n, dim = len(pool), pool.dim
    count = 1 if n <= EXACT else round(4 * n**0.5)
    step = max(1, n // (PER_CELL * count))
    sample = np.concatenate([pool.unit(s)[::step] for s in range(len(pool.counts))])
    faiss.omp_set_num_threads(torch.get_num_threads())
    options = {"niter": STEPS, "seed": SEED, "spherical": True, "min_points_per_centroid": 1}
    means = faiss.Kmeans(dim, count, **options)
    means.train(sample)
    centers = np.asarray(means.centroids)
    if not coded:
        return centers, None
    length = next(length for length in CODED if dim % length == 0)
    quantizer = faiss.ProductQuantizer(dim, dim // length, 8)
    quantizer.train(sample)
    return centers, faiss.vector_to_array(quantizer.centroids).reshape(-1, 256, length)


def is_coded(pool: PoolShards) -> bool:
    """Whether there are cells, and the features are larger than half of this machine's memory."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return len(pool) > EXACT and 4 * len(pool) * pool.dim > memory / 2


def measured(pool: PoolShards, centers: np.ndarray, codebook: np.ndarray | None, k: int) -> Cells:
    """Cells with as many probes as find 90% of the true neighbours of 500 samples."""
    if len(centers) == 1:
        return Cells(centers, 1, 1.0)
    samples = _representatives(pool)
    x = pool.rows(samples)
    everywhere = Cells(centers, len(centers), 1.0, codebook)
    # The cosine of the last true neighbour: what is as near is as true.
    worst = _all_compared(pool, x, samples, k)[:, -1:] - 1e-6

    def recall_with(probes: int) -> float:
        cosine = nearest(pool, everywhere, x, samples, k, probes)[1]
        return float((cosine >= worst).mean())

    probes = min(FIRST_PROBES, len(centers))
    recall = recall_with(probes)
    while recall < RECALL and probes < len(centers):
        probes = min(2 * probes, len(centers))
        recall = recall_with(probes)
    return Cells(centers, probes, recall, codebook)


def _representatives(pool: PoolShards) -> np.ndarray:
    """SAMPLED samples, spread over the pool, that are no copies."""
    every = [
        pool.starts[shard] + np.flatnonzero(read_cells(pool.folder, shard) >= 0)
        for shard in range(len(pool.counts))
    ]
    samples = np.concatenate(every)
    spread: np.ndarray = samples[:: max(1, len(samples) // SAMPLED)]
    return spread


def _all_compared(pool: PoolShards, x: np.ndarray, samples: np.ndarray, k: int) -> np.ndarray:
    """The cosines (m, k) of some samples' true neighbours, falling."""
    best = np.full((len(x), 0), -1.0, np.float32)
    for shard in range(len(pool.counts)):
        rows = np.flatnonzero(read_cells(pool.folder, shard) >= 0)
        cosine = x @ pool.unit(shard)[rows].T
        cosine[samples[:, None] == (pool.starts[shard] + rows)] = -1
        both = np.concatenate([best, cosine], 1)
        best = -np.sort(-both, 1)[:, :k]
    return best


def nearest(
    pool: PoolShards, cells: Cells, x: np.ndarray, samples: np.ndarray, k: int, probes: int
) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest others of some samples, among those of the cells nearest to them.

    Args:
        pool: the features.
        cells: its cells.
        x: (m, d) the samples' features, of length 1.
        samples: (m,) their numbers.
        k: neighbours of each.
        probes: with how many cells a sample is compared.

    Returns:
        (m, k) the numbers of the neighbours, -1 where there are no more, and (m, k) their cosines.
    """
    coded = cells.codebook is not None
    kept = READ * (k + 1) if coded else k + 1
    index = np.full((len(x), kept), -1, np.int64)
    cosine = np.full((len(x), kept), -1.0, np.float32)
    near = _index_of(cells.centers)
    asked = [near.search(x[i : i + BLOCK], probes) for i in range(0, len(x), BLOCK)]
    for group in groups(pool, cells.codebook):
        compared = _inverted(pool, cells, group)
        compared.nprobe = probes
        for block, (close, which) in enumerate(asked):
            rows = slice(block * BLOCK, block * BLOCK + len(which))
            found = compared.search_preassigned(x[rows], kept, which, close)
            before = (index[rows], cosine[rows])
            index[rows], cosine[rows] = _merged(before, (found[1], found[0]), kept)
    if coded:
        cosine = _cosines(pool, x, index)
    none = (index[:, :0], cosine[:, :0])
    return _without_self(samples, *_merged(none, (index, cosine), k + 1))


def groups(pool: PoolShards, codebook: np.ndarray | None = None) -> list[range]:
    """Shards that lie one after the other, as many as are compared with at once."""
    bytes_of_one = 4 * pool.dim if codebook is None else len(codebook)
    size = max(1, GROUP // (bytes_of_one * max(pool.counts)))
    shards = len(pool.counts)
    return [range(i, min(i + size, shards)) for i in range(0, shards, size)]


def _cosines(pool: PoolShards, x: np.ndarray, index: np.ndarray) -> np.ndarray:
    """The cosines (m, R) of features (m, d) to the samples (m, R) that were found, -1 for none."""
    cosine = np.full(index.shape, -1.0, np.float32)
    at_once = max(1, GROUP // (4 * pool.dim * index.shape[1]))
    for start in range(0, len(x), at_once):
        some = slice(start, start + at_once)
        there = index[some] >= 0
        found = pool.rows(index[some][there])
        of = np.nonzero(there)[0]
        cosine[some][there] = np.einsum("ed,ed->e", x[some][of], found)
    return cosine


def _index_of(centers: np.ndarray) -> Any:
    """An index of faiss that compares with all of some vectors of length 1."""
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    index = faiss.IndexFlatIP(centers.shape[1])
    index.add(centers)
    return index


def _quantizer_of(codebook: np.ndarray) -> Any:
    """The product quantizer of faiss that a codebook (M, 256, d / M) belongs to."""
    import faiss

    parts, _, length = codebook.shape
    quantizer = faiss.ProductQuantizer(parts * length, parts, 8)
    faiss.copy_array_to_vector(codebook.ravel(), quantizer.centroids)
    return quantizer


def _inverted(pool: PoolShards, cells: Cells, shards: Sequence[int]) -> Any:
    """An inverted file of faiss with the samples of some shards, or their codes, but no copies."""
    import faiss

    dim, count = cells.centers.shape[1], len(cells.centers)
    shape = (_index_of(cells.centers), dim, count)
    index: Any
    if cells.codebook is None:
        index = faiss.IndexIVFFlat(*shape, faiss.METRIC_INNER_PRODUCT)
    else:
        index = faiss.IndexIVFPQ(*shape, len(cells.codebook), 8, faiss.METRIC_INNER_PRODUCT)
        index.by_residual = False
        index.pq = _quantizer_of(cells.codebook)
    index.is_trained = True
    for shard in shards:
        cell = read_cells(pool.folder, shard)
        rows = np.flatnonzero(cell >= 0)
        samples = pool.starts[shard] + rows
        if cells.codebook is None:
            _add(index, pool.unit(shard)[rows].view(np.uint8), cell[rows], samples)
        else:
            stored = read_shard(shard_file(pool.folder, CELLS, shard))
            _add(index, stored["code"].numpy()[rows], cell[rows], samples)
    return index


def _add(index: Any, entries: np.ndarray, cell: np.ndarray, samples: np.ndarray) -> None:
    """Put samples into the lists of their cells, as the bytes (m, b) that the index holds."""
    import faiss

    order = np.argsort(cell, kind="stable")
    entries, samples = np.ascontiguousarray(entries[order]), samples[order]
    numbers, first, counts = np.unique(cell[order], return_index=True, return_counts=True)
    for number, start, end in zip(numbers.tolist(), first, first + counts, strict=True):
        pointers = faiss.swig_ptr(samples[start:end]), faiss.swig_ptr(entries[start:end])
        index.invlists.add_entries(number, int(end - start), *pointers)
    index.ntotal += len(cell)


Found = tuple[np.ndarray, np.ndarray]  # (m, k) numbers of samples, -1 for none, and cosines


def _merged(first: Found, second: Found, k: int) -> Found:
    """The k nearest of what two groups hold, the nearest first."""
    index = np.concatenate([first[0], second[0]], 1)
    cosine = np.concatenate([first[1], second[1]], 1)
    cosine[index < 0] = -np.inf
    order = np.argsort(-cosine, 1, kind="stable")[:, :k]
    return np.take_along_axis(index, order, 1), np.take_along_axis(cosine, order, 1)


def _without_self(samples: np.ndarray, index: np.ndarray, cosine: np.ndarray) -> Found:
    """Every sample's neighbours but itself."""
    own = index == samples[:, None]
    own[~own.any(1), -1] = True
    shape = (len(samples), index.shape[1] - 1)
    return index[~own].reshape(shape), cosine[~own].reshape(shape)


def neighbors_key(pool: PoolShards, k: int, coded: bool) -> str:
    """A digest of all that the neighbours of a pool depend on."""
    return digest(
        pool.key, k, coded and [CODED, READ], PER_CELL, STEPS, SEED, RECALL, SAMPLED, EXACT
    )
