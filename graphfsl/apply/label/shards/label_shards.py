"""A pool in shards, labelled from a handful: as `label_pool`, without holding features or graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from graphfsl.apply.label.label_pool import Labels, columns_of, how_found, label_graph
from graphfsl.apply.label.pool_arguments import check_options
from graphfsl.apply.label.shards.copies import copies
from graphfsl.apply.label.shards.shard_files import (
    PoolShards,
    digest,
    is_made,
    read_shard,
    shard_facts,
    shard_file,
    write_shard,
)
from graphfsl.apply.label.shards.shard_graph import BuildBlock, ShardGraph, open_graph
from graphfsl.apply.label.shards.shard_neighbors import (
    CELLS,
    Cells,
    FindNeighbors,
    SortIntoCells,
    check_faiss,
    find_centers,
    is_coded,
    measured,
    neighbors_key,
)
from graphfsl.apply.label.shards.workers import Work, one_process
from graphfsl.functional.neighbors import Bar, silent

COLUMNS = "columns"
HELD = 2**29  # bytes that propagation holds at once, where one column needs no more
VECTORS = 9  # of n numbers that a column needs while it is solved


def label_shards(
    pool: PoolShards,
    support: np.ndarray,
    label: np.ndarray,
    neighbors: int = 10,
    alpha: float = 0.9,
    prior: str = "none",
    none: float | None = None,
    chunk: int = 64,
    bar: Bar | None = None,
    work: Work | None = None,
) -> Labels:
    """Label a pool in shards by a few of its samples, by propagation over its nearest neighbours.

    1. Copies, equal up to rounding, count as one sample.
    2. Each shard's samples are sorted into the cells of the pool, and their neighbours found.
    3. Each shard's rows of the graph are written.
    4. Labels go over the graph as `label_pool` says, a few support samples at a time, while its
       blocks stay in their files.

    Steps 2 and 3 are a task for each shard, which may run anywhere; what is written is not made
    again, so that a run that was stopped goes on. Memory is some numbers for each sample, a group
    of shards, and at most `HELD` bytes of propagation, or one column.

    Args:
        pool: the features.
        support: see `label_pool`.
        label: see `label_pool`.
        neighbors: see `label_pool`.
        alpha: see `label_pool`.
        prior: see `label_pool`.
        none: see `label_pool`.
        chunk: support samples propagated at once, at the most.
        bar: shows progress.
        work: does a task for each shard; None takes this process.

    Returns:
        What was found of each sample.

    Raises:
        InputError: for options or a support that cannot be used, and without faiss.

    Deviations:
        from `label_pool`: samples that are nearly equal, but not up to rounding, are no copies, and
        islands without a label are not joined to the rest; they are not reached, and said to be so.
    """
    check_options(len(pool), support, label, neighbors, alpha, prior, none, chunk)
    check_faiss()
    bar = bar or silent
    work = work or one_process(bar)
    neighbors = min(neighbors, len(pool) - 1)

    coded = is_coded(pool)
    cells = _find_neighbors(pool, neighbors, coded, work)
    graph_key = digest(neighbors_key(pool, neighbors, coded), "graph")
    work(BuildBlock(pool, graph_key), range(len(pool.counts)))
    graph = open_graph(pool, read_shard(_copies_file(pool))["node"])

    at_once = max(1, min(chunk, HELD // (4 * VECTORS * len(pool))))

    def columns() -> list[Tensor]:
        return _columns(pool, graph, support, alpha, at_once, graph_key, bar)

    found = label_graph(graph, support, label, alpha, prior, none, at_once, bar, columns)
    facts = {
        "k": neighbors,
        "alpha": alpha,
        "prior": prior,
        "neighbours": how_found(len(cells.centers), cells.probes) + (", by codes" if coded else ""),
        "recall": cells.recall,
    }
    return replace(found, facts=facts | found.facts)


def _find_neighbors(pool: PoolShards, k: int, coded: bool, work: Work) -> Cells:
    """Write copies, cells and neighbours of all shards."""
    shards = range(len(pool.counts))
    if not is_made(_copies_file(pool), pool.key):
        write_shard(_copies_file(pool), {"node": torch.from_numpy(copies(pool))}, pool.key)

    key = neighbors_key(pool, k, coded)
    if not is_made(_centers_file(pool), key):
        centers, codebook = find_centers(pool, coded)
        work(SortIntoCells(pool, key, centers, codebook, _copies_file(pool)), shards)
        _keep(pool, key, measured(pool, centers, codebook, k))
    cells = _kept(pool)
    work(SortIntoCells(pool, key, cells.centers, cells.codebook, _copies_file(pool)), shards)
    work(FindNeighbors(pool, key, cells, k), shards)
    return cells


def _keep(pool: PoolShards, key: str, cells: Cells) -> None:
    """Write the cells of a pool."""
    tensors = {"centers": torch.from_numpy(cells.centers)}
    if cells.codebook is not None:
        tensors["codebook"] = torch.from_numpy(cells.codebook)
    write_shard(_centers_file(pool), tensors, key, probes=cells.probes, recall=cells.recall)


def _kept(pool: PoolShards) -> Cells:
    """The cells of a pool, which were written."""
    stored, facts = read_shard(_centers_file(pool)), shard_facts(_centers_file(pool)) or {}
    codebook = stored["codebook"].numpy() if "codebook" in stored else None
    return Cells(stored["centers"].numpy(), facts["probes"], facts["recall"], codebook)


def _centers_file(pool: PoolShards) -> Path:
    return pool.folder / CELLS / "centers.safetensors"


def _copies_file(pool: PoolShards) -> Path:
    return pool.folder / "copies.safetensors"


def _columns(
    pool: PoolShards,
    graph: ShardGraph,
    support: Sequence[int] | np.ndarray,
    alpha: float,
    chunk: int,
    graph_key: str,
    bar: Bar,
) -> list[Tensor]:
    """What each support sample gives to every sample: (n, m) in blocks that stay in their files."""
    nodes = graph.node[torch.as_tensor(np.asarray(support, np.int64))]
    blocks = []
    for number, some in enumerate(bar(nodes.split(chunk), "propagating")):
        path = shard_file(pool.folder, COLUMNS, number)
        key = digest(graph_key, alpha, some.tolist())
        if not is_made(path, key):
            write_shard(path, {"columns": columns_of(graph, some, alpha)}, key)
        blocks.append(read_shard(path)["columns"])
    return blocks
