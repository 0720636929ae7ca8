"""Options checked against the signature of what takes them: defaults live in `__init__` only."""

from __future__ import annotations

import inspect
import numbers
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

from graphfsl.io.errors import InputError, require, unknown
from graphfsl.io.limits import LARGEST


def make(cls: Callable[..., Any], options: Mapping[str, Any], where: str, **given: Any) -> Any:
    """Make an object of a class from options, each checked against the signature.

    Raises:
        InputError: names the key.
    """
    parameters = signature(cls)
    check_options(parameters, options, where, given)
    return cls(
        **options, **{k: v for k, v in given.items() if k in parameters and k not in options}
    )


def signature(cls: Callable[..., Any]) -> Mapping[str, tuple[Any, bool]]:
    """The options that a class or function can be configured by: name -> (type, required)."""
    return _signature(cls)


@cache  # each cell of a study asks again
def _signature(cls: Any) -> Mapping[str, tuple[Any, bool]]:
    function = cls.__init__ if isinstance(cls, type) else cls  # type: ignore[misc]
    hints = typing.get_type_hints(function)
    parameters = list(inspect.signature(function).parameters.values())[
        1 if isinstance(cls, type) else 0 :
    ]
    options = [p for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    return {p.name: (hints.get(p.name, Any), p.default is p.empty) for p in options}


def check_options(
    parameters: Mapping[str, tuple[Any, bool]],
    options: Any,
    where: str,
    given: Mapping[str, Any] | None = None,
) -> None:
    """Refuse an option that is unknown, of a wrong type, or lacking.

    Args:
        parameters: name -> (type, required), as `signature` has them.
        options: what was given.
        where: the section, for the message.
        given: names that are filled in elsewhere.

    Raises:
        InputError: names it.
    """
    require(isinstance(options, Mapping), f"{where} must be a mapping of options, not {options!r}")
    for key, value in options.items():
        if key not in parameters:
            raise unknown(f"option of {where}", key, parameters)
        if not _fits(value, parameters[key][0]):
            kind = words(parameters[key][0])
            raise InputError(f"{where}.{key} must be {kind}, not {value!r:.200}")
        if isinstance(value, (int, float)) and not abs(value) <= LARGEST:
            raise InputError(f"{where}.{key} must be a number of at most 2^53, not {value!r:.50}")
    for key, (_, required) in parameters.items():
        if required and key not in options and key not in (given or {}):
            raise InputError(f"{where} needs {key!r}")


def given_or(tree: Mapping[str, Any], key: str, absent: Any) -> Any:
    """What a file says under a key; `absent` where it says nothing or null.

    A 0 or an empty text is something, which the section's own check refuses.
    """
    value = tree.get(key)
    return absent if value is None else value


def words(kind: Any) -> str:
    """A type as a message names it."""
    return (
        str(kind).replace("collections.abc.", "").replace("typing.", "")
        if typing.get_args(kind)
        else kind.__name__
    )


def _fits(value: Any, kind: Any) -> bool:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, a) for a in args)
    if kind is float:
        return isinstance(value, numbers.Real) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if kind in (str, bool, type(None)):
        return isinstance(value, kind)
    if kind in (Mapping, dict) or (isinstance(origin, type) and issubclass(origin, Mapping)):
        return isinstance(value, Mapping)
    if origin in (list, tuple, Sequence) or (origin is not None and issubclass(origin, Sequence)):
        return isinstance(value, (list, tuple)) and all(_fits(v, args[0]) for v in value if args)
    return True
