"""Samples that stay on disk.

A memory map larger than RAM is read row by row, not through its pages.
"""

from __future__ import annotations

import functools
import mmap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from graphfsl.io.errors import InputError

IN_RAM = 2**30  # bytes; a memory map up to this size is read into memory at once
READERS, MIN_ROWS = 4, 32  # threads, which a disk needs to be busy, and the rows that are worth one


@functools.cache
def _readers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(READERS, "graphfsl-read")


class Stored:
    """The rows of a large memory map, read from its file.

    Through the map itself a random row would make the system map up to 2 MB around it, so that a
    process that draws episodes seems to hold the whole file; and no portable call gives such pages
    back. A read leaves the bytes to the file cache of the system.
    """

    def __init__(self, array: np.memmap) -> None:
        self.path, self.row = Path(str(array.filename)), array[0].nbytes
        # `offset` is that of the map's first view; a slice of it starts later in the file.
        start = np.frombuffer(array._mmap, np.uint8).__array_interface__["data"][0]  # type: ignore[attr-defined]
        into = array.__array_interface__["data"][0] - start
        self.start = array.offset - array.offset % mmap.ALLOCATIONGRANULARITY + into
        self.shape, self.dtype = array.shape[1:], array.dtype

    def gather(self, ids: np.ndarray) -> Tensor:
        """The rows of these ids, in the stored type: (k,) -> (k, *S)."""
        out = np.empty((len(ids), *self.shape), self.dtype)
        rows = memoryview(out.view(np.uint8).reshape(-1))  # type: ignore[arg-type]
        wanted, share = ids.tolist(), max(MIN_ROWS, -(-len(ids) // READERS))

        def read(first: int) -> None:
            # a handle has one position: each reader has its own
            with self.path.open("rb", buffering=0) as file:
                for k in range(first, min(first + share, len(wanted))):
                    file.seek(self.start + wanted[k] * self.row)
                    if file.readinto(rows[k * self.row : (k + 1) * self.row]) != self.row:
                        raise InputError(
                            f"{self.path} is shorter than its header says; make it again"
                        )

        list(_readers().map(read, range(0, len(wanted), share)))
        return torch.from_numpy(out)


def opened(array: np.ndarray) -> tuple[Tensor, Stored | None]:
    """An array as a tensor, and the reader of its rows.

    There is one where the array is a memory map too large for RAM.
    """
    file = getattr(array, "_mmap", None)
    if file is None or array.nbytes <= IN_RAM or not array.flags.c_contiguous:
        return torch.from_numpy(
            np.array(array) if file is not None else np.ascontiguousarray(array)
        ), None
    stored = Stored(array)  # type: ignore[arg-type]
    # torch warns of any other
    writable = np.memmap(stored.path, array.dtype, "c", stored.start, array.shape)
    return torch.from_numpy(writable), stored
