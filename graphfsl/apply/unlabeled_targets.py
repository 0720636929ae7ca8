"""Which samples have no label, in what scikit-learn calls `y`."""

from __future__ import annotations

import numbers
import warnings
from typing import Any

import numpy as np

from graphfsl.io.errors import require

# the types of its marks of a missing value, which need no import of pandas
PANDAS = ("NAType", "NaTType")
# what labels of a NumPy type are; objects are looked at one by one
KINDS = {"b": "booleans", "i": "numbers", "u": "numbers", "f": "numbers", "U": "words"}


def missing(y: np.ndarray) -> np.ndarray:
    """Which of y (n,) hold None, NaN or pandas' NA: (n,) bool."""
    if y.dtype.kind != "O":
        unequal: np.ndarray = y != y
        return unequal
    return np.array([_is_missing(value) for value in y.tolist()], bool)


def unlabeled(y: np.ndarray) -> np.ndarray:
    """Which of y (n,) mark a sample without a label: (n,) bool.

    The marks are None, NaN, pandas' NA, "" and the number -1 of any type.

    Raises:
        InputError: for a text such as "-1", which may be a class or what numpy made of a list of
            words and numbers, and for a blank one.
    """
    if y.dtype.kind in "biufc":
        none: np.ndarray = missing(y) | (y == -1)
        return none
    return np.array([_is_missing(value) or _is_marker(value) for value in y.tolist()], bool)


def none_unlabeled(y: np.ndarray) -> np.ndarray:
    """Mark no sample as unlabeled, for a learner without a pool: (n,) false everywhere.

    There is a warning where -1 looks like a mark and not like a class: beside two or more classes
    with numbers from 0 on.
    """
    if y.dtype.kind in "if" and (y == -1).any() and (y >= -1).all() and len(np.unique(y)) > 2:
        warnings.warn(
            "this learner uses no unlabeled samples, so that -1 in y is a class like the others: "
            "leave these samples "
            "out, or take a learner with a pool, such as {'head': 'protonet', 'refine': "
            "'soft_kmeans'}",
            stacklevel=4,
        )
    return np.zeros(len(y), bool)


def with_stand_in(y: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """y with a label of another sample wherever `hidden`.

    It is for checks that know no samples without a label.
    """
    shown = y.copy()
    shown[hidden] = y[~hidden][0] if not hidden.all() else 0
    return shown


def labels_of(y: np.ndarray) -> np.ndarray:
    """Labels as an array of numbers where all are numbers; beside a None they are objects.

    Raises:
        InputError: for labels of several kinds: "a" and 1 have no order, True and 1 are equal.
    """
    kinds = kinds_of(y)
    require(
        len(kinds) <= 1,
        f"labels are {' and '.join(kinds)}; give labels of one kind, such as words alone",
    )
    if y.dtype.kind == "O" and all(isinstance(value, numbers.Number) for value in y.tolist()):
        return np.asarray(y.tolist())
    return y


def kinds_of(y: np.ndarray) -> list[str]:
    """What labels are, in words: numbers, words, booleans or other things; None counts not."""
    if y.dtype.kind != "O":
        return [KINDS.get(y.dtype.kind, y.dtype.name)]
    return sorted({_kind(value) for value in y.tolist() if not _is_missing(value)})


def _kind(value: Any) -> str:
    if isinstance(value, (bool, np.bool_)):
        return "booleans"
    if isinstance(value, numbers.Number):
        return "numbers"
    return "words" if isinstance(value, str) else f"objects of type {type(value).__name__}"


def _is_missing(value: Any) -> bool:
    return (
        value is None
        or type(value).__name__ in PANDAS
        or (isinstance(value, numbers.Number) and bool(value != value))
    )


def _is_marker(value: Any) -> bool:
    if not isinstance(value, str):
        return isinstance(value, numbers.Number) and bool(value == -1)  # type: ignore[comparison-overlap]
    require(
        value.strip().lower() not in ("-1", "-1.0", "nan", "none", "<na>"),
        f"y holds the text {value!r}, which numpy makes of a list of words and numbers; mark "
        f"unlabeled samples by "
        '"" or None, or give y as an array of dtype object; rename it if it is a class',
    )
    require(
        not value or value.strip(),
        f'y holds the blank text {value!r}; mark unlabeled samples by "" or '
        f"None, or rename the class",
    )
    return value == ""
