"""Packages of other authors: which ones are used, and where their files lie.

A plugin is a package laid out as `graphfsl.methods`: a folder for each slot that it fills (heads,
graph, refine, augment, acquire, adapt, pretrain) and `encoders`, whose files name their classes in
`__all__`. It is used where its distribution has an entry point of the group `graphfsl.plugins`, or
where somebody gives it: `--plugin PACKAGE`, `plugins=[PACKAGE]`. A configuration gives none: it
names parts, and nothing that it says is imported but a file of these packages.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterable
from functools import cache
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import entry_points
from pathlib import Path

from graphfsl.io.errors import InputError

GROUP = "graphfsl.plugins"
# Kept in the environment, so that the processes of a study have the same plugins.
VARIABLE = "GRAPHFSL_PLUGINS"


@cache
def installed() -> list[str]:
    """The packages that installed distributions offer; none of them is imported."""
    return sorted(entry.value for entry in entry_points(group=GROUP))


def given() -> list[str]:
    """The packages that were given to this process, or to the one that started it."""
    return [name for name in os.environ.get(VARIABLE, "").split(",") if name]


def used() -> list[str]:
    """Every plugin, each once: those that were given, then those that are installed."""
    return list(dict.fromkeys([*given(), *installed()]))


def give(packages: Iterable[str]) -> None:
    """Use these packages from now on, in this process and in those that it starts."""
    os.environ[VARIABLE] = ",".join(dict.fromkeys([*given(), *packages]))


def location(package: str) -> Path:
    """The folder of a package, found without importing it or what it lies in.

    Raises:
        InputError: where there is none.
    """
    top, *inner = package.split(".")
    spec = _spec_of(top)
    for name in inner:
        folders = spec.submodule_search_locations if spec is not None else None
        spec = PathFinder.find_spec(name, folders) if folders else None
    if spec is None or not spec.submodule_search_locations:
        raise InputError(
            f"there is no package {package!r}; give the name of one that is installed or on "
            f"PYTHONPATH, a folder with __init__.py"
        )
    return Path(next(iter(spec.submodule_search_locations)))


def _spec_of(top: str) -> ModuleSpec | None:
    try:
        return importlib.util.find_spec(top)
    except (ImportError, ValueError):  # no name of a package, or a module without a file
        return None
