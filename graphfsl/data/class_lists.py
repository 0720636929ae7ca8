"""Which classes a split has, by the published list in data/<name>.json, and their superclasses."""

from __future__ import annotations

from graphfsl.io.errors import unknown
from graphfsl.io.package_data import class_list


def classes_of(name: str, split: str) -> tuple[list[str], tuple[str, ...] | None]:
    """The classes of a split in the order of the list, and their superclasses where it has them.

    A split of data/<name>.json is a list of classes, or superclass -> classes. Raises InputError
    for another split.
    """
    lists = class_list(name)
    if split not in lists:
        raise unknown("split", split, lists)
    of = lists[split]
    if isinstance(of, list):
        return of, None
    return [c for classes in of.values() for c in classes], tuple(
        s for s, classes in of.items() for _ in classes
    )
