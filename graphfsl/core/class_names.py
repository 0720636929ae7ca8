"""Names of classes as side information: keys that stand for them in tensors, and graphs of them."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from graphfsl.core.arguments import described
from graphfsl.io.errors import InputError, require, unknown
from graphfsl.io.package_data import class_list, class_lists

if TYPE_CHECKING:
    import networkx as nx

NO_CLASS = 0  # the key of a column without a class
KEY_BYTES = 7  # so that a key is a positive int64


def name_keys(names: Iterable[str]) -> Tensor:
    """A number (n,) for each name, the same in every process and data set; never `NO_CLASS`."""
    digests = [hashlib.blake2b(name.encode(), digest_size=KEY_BYTES) for name in names]
    keys = [int.from_bytes(digest.digest(), "big") + 1 for digest in digests]
    return torch.tensor(keys, dtype=torch.int64)


def class_graph(given: Any) -> nx.Graph:
    """An undirected graph of classes and what they have in common.

    Args:
        given: a networkx graph whose nodes are names; pairs [class, what it is a kind of]; a CSV
            file of such pairs without a header; or the name of a class list that ships with
            graphfsl and has superclasses, such as "fc100".

    Raises:
        InputError: where it is none of these, or has no edge.
    """
    import networkx as nx  # takes a while, and few learners have such a graph

    if isinstance(given, nx.Graph):
        graph = nx.Graph()
        graph.add_edges_from((str(one), str(other)) for one, other in given.edges())
    else:
        graph = nx.Graph(_pairs(given))
    require(graph.number_of_edges(), "a class graph needs an edge, such as [beaver, mammal]")
    return graph


def superclasses(given: Any) -> dict[str, set[str]]:
    """What each class is a kind of, by the names that `class_graph` takes, but for a graph.

    Raises:
        InputError: where there is no pair.
    """
    found: dict[str, set[str]] = {}
    for child, parent in _pairs(given):
        found.setdefault(child, set()).add(parent)
    require(found, "a class graph needs an edge, such as [beaver, mammal]")
    return found


def _pairs(given: Any) -> list[tuple[str, str]]:
    """The edges that a list, a file or a name stands for."""
    if isinstance(given, str):
        return _of_file(Path(given)) if given.endswith(".csv") else _of_list(given)
    if not isinstance(given, Sequence):
        raise InputError(f"{A_GRAPH}, not {described(given)}")
    return [_pair(one, A_GRAPH) for one in given]


A_GRAPH = (
    "a class graph is a networkx graph, a list of pairs such as [[beaver, mammal]], a CSV file of "
    "such pairs, or the name of a class list such as fc100"
)


def _pair(given: Any, where: str) -> tuple[str, str]:
    if isinstance(given, str) or not isinstance(given, Sequence) or len(given) != 2:
        raise InputError(f"{where}; {given!r} is no pair")
    one, other = (str(name).strip() for name in given)
    require(one and other, f"{where}; {list(given)!r} has an empty name")
    return one, other


def _of_file(path: Path) -> list[tuple[str, str]]:
    """The pairs of a CSV file; empty lines are passed over."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise InputError(f"{path} is no CSV file in UTF-8") from None
    try:
        rows = [row for row in csv.reader(text.splitlines()) if row]
    except csv.Error as error:
        raise InputError(f"{path} is not readable ({error}); each line is class,ancestor") from None
    return [_pair(row, f"{path}: each line is class,ancestor") for row in rows]


def _of_list(name: str) -> list[tuple[str, str]]:
    """The pairs class, superclass of a list whose splits are mappings."""
    splits = [split for split in class_list(name).values() if isinstance(split, dict)]
    if not splits:
        known = [one for one in class_lists() if isinstance(class_list(one).get("train"), dict)]
        raise unknown("class list with superclasses", name, known)
    return [
        (child, parent)
        for split in splits
        for parent, children in split.items()
        for child in children
    ]
