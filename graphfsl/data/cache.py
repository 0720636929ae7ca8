"""Arrays that are expensive to make are made once, in GRAPHFSL_CACHE, and memory-mapped from there."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np


def cache_dir() -> Path:
    """GRAPHFSL_CACHE, or ~/.cache/graphfsl."""
    return Path(os.environ.get("GRAPHFSL_CACHE") or Path.home() / ".cache" / "graphfsl")


def cached(key: str, build: Callable[[], np.ndarray]) -> np.ndarray:
    """The array under `key`, built at most once; `key` names everything that it depends on.

    The file is written to a temporary name and renamed, so that a reader never sees half of it and two
    processes may build at once. A cache that cannot be read is built anew, one that cannot be written is
    done without.
    """
    path = cache_dir() / f"{key}.npy"
    try:
        return np.load(path, mmap_mode="c", allow_pickle=False)
    except Exception:  # bytes that are not an array's make NumPy raise almost anything
        array = np.ascontiguousarray(build())
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as file:
            temporary = file.name
            np.save(file, array, allow_pickle=False)
        os.replace(temporary, path)
    except OSError as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        warnings.warn(f"{path} could not be written ({error.strerror}): it will be built again", stacklevel=2)
    return array
