"""(slot, name) -> class, read from each file's `__all__` without importing it, so that starting is
fast.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import re
import sys
from functools import cache
from pathlib import Path
from typing import Any

from graphfsl.io.errors import InputError, unknown

SLOTS = ("head", "graph", "refine", "augment", "adapt", "pretrain")
FOLDERS = {"head": "heads"}  # of a package; the other slots have their own name
PACKAGE = "graphfsl.methods"


def snake(name: str) -> str:
    """Class name -> the name in a config: ProtoNet -> protonet, NearestNeighbor ->
    nearest_neighbor, GNN -> gnn.

    An acronym or a `…Net` stays one word, as people say it.
    """
    name = re.sub(r"(?<=[a-z])Net(?![a-z])", "net", name)
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def exported(path: Path) -> list[str]:
    """The names in a file's `__all__`, without running the file."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except SyntaxError as error:
        raise InputError(f"{path}:{error.lineno}: {error.msg}") from None
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(
            isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets
        ):
            return list(ast.literal_eval(node.value))
    return []


@cache
def find(package: str = PACKAGE) -> dict[tuple[str, str], tuple[str, str]]:
    """All methods of a package: (slot, name) -> (module, class). Its sub-folders are the slots, see
    FOLDERS.

    A file of one class gives it its own name, as people say it; one of several variants names each
    by its class. Raises InputError where two files claim one name.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise InputError(f"no package {package!r} to look for methods in")
    table: dict[tuple[str, str], tuple[str, str]] = {}
    for slot in SLOTS:
        folder = FOLDERS.get(slot, slot)
        for path in sorted(Path(spec.submodule_search_locations[0], folder).glob("*.py")):
            module, classes = f"{package}.{folder}.{path.stem}", exported(path)
            for cls in classes:
                key = (slot, path.stem if len(classes) == 1 else snake(cls))
                if key in table:
                    raise InputError(
                        f"{slot} {key[1]!r} is defined twice: in {table[key][0]} and in {module}"
                    )
                table[key] = (module, cls)
    return table


def names(slot: str, package: str = PACKAGE) -> list[str]:
    """The names that fill a slot."""
    if slot not in SLOTS:
        raise unknown("slot", slot, SLOTS)
    return [name for s, name in find(package) if s == slot]


def get(slot: str, name: str, package: str = PACKAGE) -> Any:
    """The class behind a name; an unknown name raises InputError with the nearest one."""
    known = names(slot, package)
    if name not in known:
        raise unknown(slot, name, known)
    module, cls = find(package)[slot, name]
    return getattr(importlib.import_module(module), cls)


TRAITS = (
    "transductive",
    "per_query",
    "uses_unlabeled",
    "needs_balance",
    "needs_balanced_pool",
    "needs_nonnegative",
    "wants_maps",
)


def describe(slot: str, name: str, package: str = PACKAGE) -> dict[str, Any]:
    """What `graphfsl methods` shows: slot, name, family, class, traits, source (its file's first
    line), options.
    """
    cls = get(slot, name, package)
    about = " ".join((sys.modules[cls.__module__].__doc__ or "").split())
    options = [
        str(p)
        for p in list(inspect.signature(cls.__init__).parameters.values())[1:]
        if p.kind not in (2, 4)
    ]
    traits = [t for t in TRAITS if getattr(cls, t, False) is True]
    names = {"slot": slot, "name": name, "family": cls.family, "class": cls.__name__}
    return {**names, "traits": traits, "source": about, "options": options}
