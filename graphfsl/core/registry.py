"""(slot, name) -> class, of graphfsl's own methods and of plugins.

The names are read from each file's `__all__` without importing it, so that starting is fast.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from graphfsl.core.plugins import give, location, used
from graphfsl.core.traits import TRAITS
from graphfsl.io.errors import InputError, unknown

SLOTS = ("head", "graph", "refine", "augment", "acquire", "adapt", "novelty", "pretrain")
ENCODER = "encoder"  # what a plugin may bring beside methods
# of a package; the other slots have their own name
FOLDERS = {"head": "heads", ENCODER: "encoders"}
PACKAGE = "graphfsl.methods"


def snake(name: str) -> str:
    """Class name -> the name in a config: ProtoNet -> protonet, GNN -> gnn.

    NearestNeighbor is nearest_neighbor.

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


Table = dict[tuple[str, str], tuple[str, str]]  # (slot, name) -> (module, class)


@cache
def find(package: str = PACKAGE) -> Table:
    """Find all parts of a package: (slot, name) -> (module, class).

    Its sub-folders are the slots, see FOLDERS; nothing is imported.

    A file of one class gives it its own name, as people say it; one of several variants names each
    by its class.

    Raises:
        InputError: where two files claim one name, or there is no such package.
    """
    root = location(package)
    tables = []
    for slot in (*SLOTS, ENCODER):
        folder = FOLDERS.get(slot, slot)
        for path in sorted((root / folder).glob("*.py")):
            module, classes = f"{package}.{folder}.{path.stem}", exported(path)
            tables += [
                {(slot, path.stem if len(classes) == 1 else snake(cls)): (module, cls)}
                for cls in classes
            ]
    return _joined(tables)


def _joined(tables: Iterable[Table]) -> Table:
    """All tables in one; InputError where two claim one name."""
    joined: Table = {}
    for table in tables:
        for key, (module, cls) in table.items():
            if key in joined:
                raise InputError(
                    f"{key[0]} {key[1]!r} is defined twice: in {joined[key][0]} and in {module}"
                )
            joined[key] = (module, cls)
    return joined


def known(package: str | None = None) -> Table:
    """The parts of a package, or without one graphfsl's own methods and all parts of plugins."""
    if package is not None:
        return find(package)
    return _joined([find(), *map(find, used())])


def methods() -> list[tuple[str, str]]:
    """(slot, name) of every method that there is, of plugins too."""
    return [key for key in known() if key[0] != ENCODER]


def use_plugins(packages: str | Iterable[str]) -> None:
    """Find parts and encoders by name in these packages too, from now on; nothing is imported.

    Raises:
        InputError: for a package that is none, that holds no part, or that claims a name which
            another has.
    """
    wanted = [packages] if isinstance(packages, str) else list(packages)
    for package in wanted:
        if not isinstance(package, str):
            raise InputError(f"a plugin is the name of a package, not {package!r:.60}")
        if not find(package):
            folders = ", ".join(FOLDERS.get(slot, slot) for slot in (*SLOTS, ENCODER))
            raise InputError(
                f"the plugin {package!r} holds no part: its folders must be some of {folders}, "
                f"with files that name their classes in __all__"
            )
    if wanted:
        _joined([find(), *map(find, dict.fromkeys([*used(), *wanted]))])
        give(wanted)


def names(slot: str, package: str | None = None) -> list[str]:
    """The names that fill a slot."""
    if slot not in (*SLOTS, ENCODER):
        raise unknown("slot", slot, SLOTS)
    return [name for s, name in known(package) if s == slot]


def get(slot: str, name: str, package: str | None = None) -> Any:
    """The class behind a name.

    Args:
        slot: that it fills.
        name: as configurations write it.
        package: where to look; None looks among graphfsl's own first, and then in plugins.

    Raises:
        InputError: for an unknown name, with the nearest one.
    """
    own = find(package or PACKAGE)
    table = own if package or (slot, name) in own else known()
    if (slot, name) not in table:
        raise missing(slot, name, names(slot, package))
    module, cls = table[slot, name]
    return getattr(importlib.import_module(module), cls)


def missing(slot: str, name: str, known: Iterable[str]) -> InputError:
    """The error for a part that has no such name; it says how the package that has it is given."""
    package, dotted, _ = str(name).partition(".")
    if dotted:
        why = f"a configuration imports nothing: name the {slot} alone, and give its package"
    else:
        package, why = "PACKAGE", "one of a package of yours is found once you give it"
    hint = f"({why} by --plugin {package}, in Python plugins=[{package!r}])"
    return InputError(f"{unknown(slot, name, known)} {hint}")


def describe(slot: str, name: str, package: str | None = None) -> dict[str, Any]:
    """What `graphfsl methods` shows of a method.

    It is slot, name, family, class, traits, source (what stands at the top of its file) and
    options.
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
