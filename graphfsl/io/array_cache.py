"""Arrays that are expensive to make are made once, in GRAPHFSL_CACHE, and memory-mapped from
there.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from filelock import FileLock


def cache_dir() -> Path:
    """GRAPHFSL_CACHE, or ~/.cache/graphfsl."""
    return Path(os.environ.get("GRAPHFSL_CACHE") or Path.home() / ".cache" / "graphfsl")


def cached(
    key: str, shape: tuple[int, ...], dtype: type, fill: Callable[[np.ndarray], None]
) -> np.ndarray:
    """The array under `key`, filled at most once; `key` names everything that it depends on.

    `fill` writes straight into a memory map, so that an array may be larger than RAM. The file has
    a temporary name until it is complete and is then renamed: a reader never sees half of it; a
    second process waits for the first. A cache that cannot be read is built anew; one that cannot
    be written is done without, in RAM.
    """
    path = cache_dir() / f"{key}.npy"
    temporary = path.with_suffix(".tmp")
    found = _read(path, shape, dtype)
    if found is not None:
        return found
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            found = _read(path, shape, dtype)
            if found is not None:
                return found
            try:
                _reserve(temporary, int(np.prod(shape)) * np.dtype(dtype).itemsize)
                array = np.lib.format.open_memmap(temporary, mode="w+", dtype=dtype, shape=shape)
                fill(array)
                array.flush()
                del array  # Windows renames no file that is mapped
                os.replace(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)
        return np.load(path, mmap_mode="c", allow_pickle=False)
    except OSError as error:
        warnings.warn(
            f"{path} could not be written ({error.strerror}): it will be built again", stacklevel=2
        )
        in_ram: np.ndarray = np.empty(shape, dtype)
        fill(in_ram)
        return in_ram


def _read(path: Path, shape: tuple[int, ...], dtype: type) -> np.ndarray | None:
    try:
        found = np.load(path, mmap_mode="c", allow_pickle=False)
    except Exception:  # bytes that are not an array's make NumPy raise almost anything
        return None
    return found if found.shape == shape and found.dtype == dtype else None


def _reserve(path: Path, size: int) -> None:
    """Claim the disk space now: a memory map that meets a full disk later is killed by the system,
    not told.
    """
    with path.open("wb") as file:
        if hasattr(os, "posix_fallocate") and size:
            os.posix_fallocate(file.fileno(), 0, size)
