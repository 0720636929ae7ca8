"""Pools in shards, and what is done to them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from graphfsl.apply.label.shards.shard_files import (
    PoolShards,
    open_shards,
    write_features,
    write_manifest,
)
from graphfsl.apply.label.shards.workers import Task


def written(folder: Path, x: np.ndarray, shards: int, encoder: str = "an encoder") -> PoolShards:
    """Features in a number of shards, nearly as large as each other."""
    write_manifest(folder, encoder, "these samples", shards)
    for number, rows in enumerate(np.array_split(x, shards)):
        write_features(folder, number, rows, encoder)
    return open_shards(folder)[0]


class Recording:
    """Does tasks in this process, and remembers which; dies in the task of a number."""

    def __init__(self, dies_in: int | None = None) -> None:
        self.dies_in = dies_in
        self.done: list[tuple[str, int]] = []

    def __call__(self, task: Task, shards: Sequence[int]) -> None:
        for shard in shards:
            if task.is_done(shard):
                continue
            if len(self.done) == self.dies_in:
                raise KeyboardInterrupt
            task(shard)
            self.done.append((task.what, shard))
