"""Data sets, splits, and the sampler that draws episodes from them."""

from __future__ import annotations

import importlib
import inspect
import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from graphfsl.core.schema import check_options, signature
from graphfsl.data.episodes import Episodes
from graphfsl.data.from_torch import from_dataset
from graphfsl.data.split import (
    Split,
    channel_statistics,
    few_classes,
    join,
    large_classes,
    other_classes,
)
from graphfsl.data.tasks._class_sampler import Sampler
from graphfsl.data.tasks.classes import Setting
from graphfsl.data.transforms import Transform
from graphfsl.io.errors import InputError, unknown

__all__ = [
    "Episodes",
    "Sampler",
    "Setting",
    "Split",
    "Transform",
    "channel_statistics",
    "download",
    "few_classes",
    "from_dataset",
    "join",
    "large_classes",
    "load",
    "loader",
    "names",
    "other_classes",
    "takes_root",
]


def names() -> list[str]:
    """The data sets that there are."""
    return sorted(
        p.stem for p in (Path(__file__).parent / "sets").glob("*.py") if p.stem != "__init__"
    )


def loader(name: str) -> Callable[..., Split]:
    """The `load` function of a data set; an unknown name raises InputError with the nearest one."""
    if name not in names():
        raise unknown("data set", name, names())
    load_set: Callable[..., Split] = importlib.import_module(f"graphfsl.data.sets.{name}").load
    return load_set


def load(
    name: str, split: str, root: str | os.PathLike[str] | None = None, **options: Any
) -> Split:
    """One split of a data set.

    Args:
        name: of the data set.
        split: "train", "val" or "test".
        root: where its files are; GRAPHFSL_DATA where it is not given. Data sets that need no files
            take no root.
        options: of the set's own `load`.

    Raises:
        InputError: for an unknown set or option, and for files that are missing or not what they
            should be.
    """
    if name not in names() and Path(name).is_dir():
        raise InputError(
            f'{name} is a folder; load_data("folder", "test", root={str(name)!r}) reads one'
        )
    if takes_root(name):
        options["root"] = _root(name, root)
    check_options(
        {k: (kind, False) for k, (kind, _) in signature(loader(name)).items()},
        options,
        f"data set {name}",
    )
    return loader(name)(split, **options)


def takes_root(name: str) -> bool:
    """Whether a data set lies in files that a user has."""
    return "root" in inspect.signature(loader(name)).parameters


def _root(name: str, root: str | os.PathLike[str] | None) -> str:
    root = root or os.environ.get("GRAPHFSL_DATA")
    if not root:
        raise InputError(
            f"data set {name!r} needs data.root=FOLDER, or GRAPHFSL_DATA, the folder that holds it"
        )
    return os.fspath(root)


def download(name: str, root: str | os.PathLike[str] | None = None) -> str:
    """Fetch the files of a data set into `root`, or GRAPHFSL_DATA, and say where.

    Raises:
        InputError: where it cannot be.
    """
    loader(name)
    fetch = getattr(importlib.import_module(f"graphfsl.data.sets.{name}"), "download", None)
    if fetch is None:
        raise InputError(f"data set {name!r} has nothing to download")
    fetch(_root(name, root))
    return _root(name, root)


def about(name: str) -> str:
    """What a data set is and whose, on one line.

    It is the documentation of its file, up to the first table or equation.
    """
    text = importlib.import_module(f"graphfsl.data.sets.{name}").__doc__ or ""
    prose = itertools.takewhile(lambda part: part[0] not in "| ", text.strip().split("\n\n"))
    return " ".join(" ".join(prose).split())


def is_ink(name: str) -> bool:
    """Whether the samples of a data set are drawings, ink bright on dark.

    Whatever their files are.
    """
    return bool(getattr(importlib.import_module(f"graphfsl.data.sets.{name}"), "DRAWINGS", False))
