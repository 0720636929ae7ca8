"""Arrays that are expensive to make: made once, in GRAPHFSL_CACHE, and memory-mapped from there."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from filelock import FileLock

# What the system says of a folder that cannot be written; the latter where it knows no locks.
UNWRITABLE = (OSError, NotImplementedError)


def cache_dir() -> Path:
    """The folder of the cache: GRAPHFSL_CACHE, or ~/.cache/graphfsl."""
    return Path(os.environ.get("GRAPHFSL_CACHE") or Path.home() / ".cache" / "graphfsl")


def cached(
    key: str, shape: tuple[int, ...], dtype: type, fill: Callable[[np.ndarray], None]
) -> np.ndarray:
    """The array under a key, which is filled at most once.

    `fill` writes straight into a memory map, so that an array may be larger than RAM. A cache that
    cannot be written is done without, in RAM.

    `key` names everything that the array depends on.

    Args:
        key: names everything that the array depends on.
        shape: of the array.
        dtype: of the array.
        fill: writes the values into the array that it is given.
    """
    path = cache_dir() / f"{key}.npy"

    def fits(found: np.ndarray) -> bool:
        return found.shape == shape and found.dtype == dtype

    def write(temporary: Path) -> None:
        try:
            _reserve(temporary, int(np.prod(shape)) * np.dtype(dtype).itemsize)
            array = np.lib.format.open_memmap(temporary, mode="w+", dtype=dtype, shape=shape)
            fill(array)
            array.flush()
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    try:
        return made_once(path, path.with_suffix(".tmp"), fits, write)
    except UNWRITABLE as error:
        reason = getattr(error, "strerror", None) or error
        warnings.warn(
            f"{path} could not be written ({reason}): it will be built again", stacklevel=2
        )
        in_ram: np.ndarray = np.empty(shape, dtype)
        fill(in_ram)
        return in_ram


def made_once(
    path: Path,
    temporary: Path,
    fits: Callable[[np.ndarray], bool],
    write: Callable[[Path], None],
) -> np.ndarray:
    """The array in a file, memory-mapped; `write` makes the file where there is none.

    The file has the name `temporary` until it is complete and is then renamed: a reader never sees
    half of it; a second process waits for the first. One that cannot be read, or that does not fit,
    is made anew.

    Args:
        path: of the file.
        temporary: its name until it is complete.
        fits: whether an array that was found is the right one.
        write: makes the file under the name that it is given.

    Raises:
        OSError: where the folder cannot be written.
        NotImplementedError: where it cannot be locked.
    """
    found = _read(path, fits)
    if found is not None:
        return found
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        found = _read(path, fits)
        if found is not None:
            return found
        write(temporary)
        try:
            os.replace(temporary, path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
    made: np.ndarray = np.load(path, mmap_mode="c", allow_pickle=False)
    return made


def _read(path: Path, fits: Callable[[np.ndarray], bool]) -> np.ndarray | None:
    try:
        found: np.ndarray = np.load(path, mmap_mode="c", allow_pickle=False)
    except Exception:  # bytes that are not an array's make NumPy raise almost anything
        return None
    return found if fits(found) else None


def _reserve(path: Path, size: int) -> None:
    """Claim the disk space now.

    A memory map that meets a full disk later is killed by the system, not told.
    """
    with path.open("wb") as file:
        if hasattr(os, "posix_fallocate") and size:
            os.posix_fallocate(file.fileno(), 0, size)
