"""Names of a package that are imported when they are first used, so that starting is fast."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def lazy_names(
    package: str, homes: Mapping[str, str], modules: Sequence[str] = ()
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """What a package calls `__getattr__` and `__dir__`, for names that live in other modules.

    Args:
        package: its `__name__`.
        homes: name -> the module below `graphfsl` that has it, and what it is called there where
            that is another name: "data:load".
        modules: modules of the package that are reached as its attributes without an import.
    """

    def get(name: str) -> Any:
        if name in modules:
            return importlib.import_module(f"{package}.{name}")
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        home, _, other_name = homes[name].partition(":")
        return getattr(importlib.import_module(f"graphfsl.{home}"), other_name or name)

    def names() -> list[str]:
        return [*vars(sys.modules[package]), *homes]

    return get, names
