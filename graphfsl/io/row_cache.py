"""Rows that are expensive to make: written block by block, kept on disk, and resumed."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from filelock import FileLock
from rich.markup import escape
from rich.progress import track
from torch import Tensor

from graphfsl.io.array_cache import UNWRITABLE, cache_dir, made_once


def stored_rows(
    key: str, n: int, size: int, encoded: Callable[[int, int], Tensor], name: str
) -> np.ndarray:
    """The (n, d) rows of encoded(first, last + 1), made in blocks of `size`.

    They are in <cache>/features/<key>.npy, or in RAM.

    Blocks are appended to <key>.part, each brought to the disk before the next, and the complete
    file is renamed. What was stopped in between goes on behind its last block but one: the last may
    be half written, those before it are not. A second process waits, and finds the file. A cache
    that cannot be written is done without.

    Args:
        key: names everything that the rows depend on.
        n: how many rows there are.
        size: rows of a block.
        encoded: makes the rows from `first` to before `last`.
        name: what the progress bar calls them.
    """
    folder = cache_dir() / "features"

    def fits(found: np.ndarray) -> bool:
        return len(found) == n

    def write(part: Path) -> None:
        _fill(part, n, size, encoded, name)

    try:
        return made_once(folder / f"{key}.npy", folder / f"{key}.part", fits, write)
    except UNWRITABLE as error:
        warnings.warn(
            f"features are not kept in {folder} ({error}): they will be computed again",
            stacklevel=3,
        )
        return torch.cat([encoded(*ids).cpu() for ids in _blocks(0, n, size, name)]).numpy()


def fresh_rows(n: int, size: int, encoded: Callable[[int, int], Tensor]) -> np.ndarray:
    """The (n, d) rows of encoded(first, last + 1), made in blocks of `size` and kept nowhere.

    Args:
        n: how many rows there are.
        size: rows of a block.
        encoded: makes the rows from `first` to before `last`.
    """
    blocks = [encoded(first, min(first + size, n)).cpu() for first in range(0, n, size)]
    rows: np.ndarray = torch.cat(blocks).numpy()
    return rows


def keep_rows(key: str, first: int, rows: np.ndarray) -> None:
    """Put rows (k, d) into the file of `stored_rows`, from row `first` on.

    A cache that cannot be written is left.
    """
    path = cache_dir() / "features" / f"{key}.npy"
    with suppress(OSError, ValueError), FileLock(path.with_suffix(".lock")):
        kept = np.load(path, mmap_mode="r+", allow_pickle=False)
        kept[first : first + len(rows)] = rows
        kept.flush()


def _fill(part: Path, n: int, size: int, encoded: Callable[[int, int], Tensor], name: str) -> None:
    part.touch()
    with part.open("r+b") as file:
        for first, last in _blocks(_rows_done(file, size), n, size, name):
            x = encoded(first, last).cpu().numpy()
            if first == 0:
                file.seek(0)
                header = {"descr": np.lib.format.dtype_to_descr(x.dtype), "fortran_order": False}
                np.lib.format.write_array_header_1_0(file, {**header, "shape": (n, x.shape[1])})
                file.truncate()
            file.write(x.tobytes())
            file.flush()
            os.fsync(file.fileno())


def _rows_done(file: BinaryIO, size: int) -> int:
    """How many rows of an array that was being written are surely whole.

    The file is cut off, and stands, behind them.

    0 where it holds nothing of the kind.
    """
    try:
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    except ValueError:
        return 0
    start, row = file.tell(), shape[-1] * dtype.itemsize
    rows = max((file.seek(0, os.SEEK_END) - start) // row // size - 1, 0) * size
    file.seek(start + rows * row)
    file.truncate()
    return rows


def _blocks(first: int, n: int, size: int, name: str) -> Iterable[tuple[int, int]]:
    """(first, last + 1) of each block of rows, with a progress bar for 1000 images or more."""
    ranges = [(i, min(i + size, n)) for i in range(first, n, size)]
    return track(ranges, f"encoding {escape(name)}", disable=n - first < 1000, transient=True)
