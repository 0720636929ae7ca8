"""Which samples of a pool in shards are copies of another, equal up to rounding."""

from __future__ import annotations

import numpy as np

from graphfsl.apply.label.shards.shard_files import PoolShards
from graphfsl.functional.distinct_neighbors import ROUNDING, along, components, side_by_side

DIRECTIONS, SEED = 4, 0


def copies(pool: PoolShards) -> np.ndarray:
    """The first sample (n,) that each sample is a copy of, itself where it is none.

    Copies lie side by side in a random direction, and close in all. Of a pool of n samples 4 n
    numbers are held.
    """
    rng = np.random.default_rng(SEED)
    directions = rng.standard_normal((DIRECTIONS, pool.dim))
    at = np.concatenate([along(pool.unit(s), directions) for s in range(len(pool.counts))])
    limit = np.sqrt(2 * ROUNDING) * np.linalg.norm(directions, axis=1)
    pairs = [np.empty((0, 2), np.int64)]
    for number, direction in enumerate(directions):
        ends = side_by_side(at[:, number], direction)
        close = (np.abs(at[ends[:, 0]] - at[ends[:, 1]]) <= limit).all(1)
        pairs.append(_equal(pool, ends[close]))
    part = components(len(pool), np.concatenate(pairs))
    first_of = np.unique(part, return_index=True)[1]
    node: np.ndarray = first_of[part]
    return node


def _equal(pool: PoolShards, pairs: np.ndarray) -> np.ndarray:
    """Those pairs (e, 2) whose features are equal up to rounding."""
    first, second = pool.rows(pairs[:, 0]), pool.rows(pairs[:, 1])
    apart = np.square(first - second).sum(1) / 2  # 1 - cosine, but exact near 0
    equal: np.ndarray = pairs[apart <= ROUNDING]
    return equal
