"""Arrays on disk: built once, made again when broken, done without where nothing can be written."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from graphfsl.io import array_cache as cache
from tests.support.pictures import files

pytestmark = pytest.mark.usefixtures("home")  # an empty cache


class Trap:
    """Unpickling this makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def counting() -> tuple[list[int], Any]:
    calls: list[int] = []

    def fill(out: np.ndarray) -> None:
        calls.append(1)
        out[:] = np.arange(6).reshape(2, 3)

    return calls, fill


def cached(key: str, fill: Any) -> np.ndarray:
    return cache.cached(key, (2, 3), np.int64, fill)


def test_cache_builds_once_and_never_writes_back(home: Path) -> None:
    calls, build = counting()
    first, second = cached("a", build), cached("a", build)
    assert len(calls) == 1 and np.array_equal(first, second) and files(home) == ["a.npy"]
    second[:] = 9  # copy on write
    assert np.array_equal(cached("a", build), first) and len(calls) == 1
    cached("b", build)
    assert len(calls) == 2


@pytest.mark.parametrize(
    "content",
    [b"", b"junk", b"PK\3\4" + b"\0" * 40, b"\x93NUMPY\1\0\xff\xff{", "truncated", "pickle"],
)
def test_cache_rebuilds_a_corrupt_file(home: Path, content: Any, tmp_path: Path) -> None:
    calls, build = counting()
    expected = np.array(cached("a", build))
    path = home / "a.npy"
    whole = path.read_bytes()
    if content == "pickle":
        np.save(path, np.array([Trap(tmp_path / "sprung")], dtype=object), allow_pickle=True)
    else:
        path.write_bytes(whole[:-8] if content == "truncated" else content)
    assert np.array_equal(cached("a", build), expected) and len(calls) == 2
    assert (
        path.read_bytes() == whole
        and np.array_equal(cached("a", build), expected)
        and len(calls) == 2
    )
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("blocked", ["cache is a file", "entry is a folder"])
def test_an_unwritable_cache_is_done_without(home: Path, blocked: str) -> None:
    if blocked == "cache is a file":
        home.write_text("in the way")
    else:
        (home / "a.npy").mkdir(parents=True)
    build = counting()[1]
    with pytest.warns(UserWarning, match=r"a\.npy could not be written"):
        assert np.array_equal(cached("a", build), np.arange(6).reshape(2, 3))
    if blocked == "entry is a folder":
        assert files(home) == ["a.npy"], "no temporary file is left"


def test_the_cache_says_nothing_when_all_is_well() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.from_numpy(cached("a", counting()[1]))
        torch.from_numpy(cached("a", counting()[1]))
