"""The graph of a pool in shards: written block by block, and propagated over from its files.

A block holds the rows of W = A + A^T that belong to the samples of one shard, where a_ij = cos^3 of
sample i to its neighbour j. Labels go over S = D^-1/2 W D^-1/2 as in `label_pool`.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from graphfsl.apply.label.pool_graph import POWER
from graphfsl.apply.label.shards.shard_files import (
    PoolShards,
    is_made,
    read_shard,
    shard_file,
    write_shard,
)
from graphfsl.apply.label.shards.shard_neighbors import NEIGHBORS
from graphfsl.functional.sparse_propagation import propagate_with
from graphfsl.functional.statistics import or_one

GRAPH = "graph"


@dataclass(frozen=True)
class BuildBlock:
    """Writes the rows of W that belong to the samples of a shard.

    Args:
        pool: the features.
        key: a digest of all that it depends on.
    """

    pool: PoolShards
    key: str
    what: str = "joining neighbours"

    def is_done(self, shard: int) -> bool:
        """Whether the shard's file is there."""
        return is_made(shard_file(self.pool.folder, GRAPH, shard), self.key)

    def __call__(self, shard: int) -> None:
        """Write the block as CSR, `start`, `column` and `weight`, and the `degree` of its rows."""
        folder, n = self.pool.folder, len(self.pool)
        first, last = self.pool.starts[shard : shard + 2].tolist()
        own = read_shard(shard_file(folder, NEIGHBORS, shard))
        row, column, cosine = [own["of"]], [own["to"]], [own["cosine"]]
        for other in range(len(self.pool.counts)):
            edges = read_shard(shard_file(folder, NEIGHBORS, other))
            into = slice(*edges["offset"][shard : shard + 2].tolist())
            row.append(edges["to"][into])
            column.append(edges["of"][into])
            cosine.append(edges["cosine"][into])
        weight = torch.cat(cosine).clamp_min(0) ** POWER
        small = np.int32 if n < 2**31 else np.int64  # half the bytes, and what MKL takes as it is
        rows, columns = torch.cat(row) - first, torch.cat(column)
        ends = (rows.numpy().astype(small), columns.numpy().astype(small))
        w = csr_array((weight.numpy(), ends), shape=(last - first, n))  # repeated edges are summed
        w.sort_indices()
        tensors = {
            "start": torch.from_numpy(w.indptr),
            "column": torch.from_numpy(w.indices),
            "weight": torch.from_numpy(w.data),
            "degree": torch.from_numpy(np.asarray(w.sum(1), np.float32)),
        }
        write_shard(shard_file(folder, GRAPH, shard), tensors, self.key)


@dataclass(frozen=True)
class ShardGraph:
    """The graph of a pool whose blocks lie in files.

    Attributes:
        blocks: (r, n) sparse, the rows of W of each shard, memory-mapped.
        degree: (n,).
        node: (n,) the sample that each sample is a copy of, itself where it is none.
        distinct: how many samples are no copies.
    """

    blocks: Sequence[Tensor]
    degree: Tensor
    node: Tensor
    distinct: int

    def propagate(self, y: Tensor, alpha: float) -> Tensor:
        """(I - alpha S)^-1 Y of (n, m) label weights, one block of rows after the other.

        It holds 9 n m numbers.
        """
        scale = or_one(self.degree).rsqrt()[:, None]

        def apply(p: Tensor) -> Tensor:
            scaled = scale * p
            rows = [block @ scaled for block in self.blocks]
            return torch.cat(rows).mul_(-alpha * scale).add_(p)

        return propagate_with(apply, y, alpha)


def open_graph(pool: PoolShards, node: Tensor) -> ShardGraph:
    """The graph of a pool, whose blocks have been built.

    Args:
        pool: the features.
        node: (n,) the sample that each sample is a copy of.
    """
    blocks, degrees = [], []
    for shard, count in enumerate(pool.counts):
        stored = read_shard(shard_file(pool.folder, GRAPH, shard))
        parts = (stored["start"], stored["column"], stored["weight"])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # CSR is in beta
            blocks.append(
                torch.sparse_csr_tensor(*parts, (count, len(pool)), check_invariants=False)
            )
        degrees.append(stored["degree"])
    distinct = int((node == torch.arange(len(node))).sum())
    return ShardGraph(blocks, torch.cat(degrees), node, distinct)
