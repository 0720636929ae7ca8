"""Plain values and byte arrays of a pickle that is read and never run.

Nothing that it names is imported or called.
"""

from __future__ import annotations

import pickletools
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from graphfsl.io.errors import InputError

_CORE = ("numpy.core", "numpy._core")  # the name until NumPy 1, and since NumPy 2
RECONSTRUCT = {f"{core}.multiarray _reconstruct" for core in _CORE}
FROMBUFFER = {f"{core}.numeric _frombuffer" for core in _CORE}
ARRAYS = {"numpy ndarray", "numpy dtype", "_codecs encode", *RECONSTRUCT, *FROMBUFFER}
DICTIONARY = "collections OrderedDict"
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
VALUES = {
    "BINFLOAT",
    "BININT",
    "BININT1",
    "BININT2",
    "LONG1",
    "LONG4",
    "BINSTRING",
    "SHORT_BINSTRING",
    "BINUNICODE",
    "SHORT_BINUNICODE",
    "BINUNICODE8",
    "BINBYTES",
    "SHORT_BINBYTES",
    "BINBYTES8",
    "BYTEARRAY8",
}
_MARK = object()


@dataclass
class Call:
    """What a pickle asks to be called.

    Only its name, its arguments and the state that would be set afterwards.
    """

    name: str
    arguments: tuple[Any, ...] | None = None
    state: Any = None


def read(path: Path, known: Set[str] | None, file: BinaryIO | None = None) -> Any:
    """The value in a pickle of protocol 2 to 5, with a `Call` for what is not plain.

    To unpickle is to run whatever a file says. `pickletools.genops` only takes it apart, and from
    its steps this stack rebuilds dictionaries, lists, tuples, numbers and strings; Python 2's
    strings come as latin-1, which keeps each byte.

    Args:
        path: of the file.
        known: what may be named ("module name"); None lets a file name anything, which makes no
            difference to what happens.
        file: `path` as it is open, where more follows; it then stands behind the pickle.

    Raises:
        InputError: for a file that is broken or names anything that is not in `known`.
    """
    try:
        if file is not None:
            return _rebuild(file, path, known)
        with path.open("rb") as own:
            return _rebuild(own, path, known)
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); fetch it again") from None
    except Exception as error:  # broken bytes make pickletools and the stack raise almost anything
        raise InputError(
            f"{path} is not a whole pickle ({type(error).__name__}); fetch it again"
        ) from None


def _rebuild(file: BinaryIO, path: Path, known: Set[str] | None) -> Any:
    stack: list[Any] = []
    memo: dict[Any, Any] = {}
    argument: Any

    def marked() -> list[Any]:
        items = []
        while (top := stack.pop()) is not _MARK:
            items.append(top)
        return items[::-1]

    def fill(holder: Any, items: Any) -> None:
        if isinstance(holder, list):
            holder.extend(items)
        elif isinstance(holder, dict):
            holder.update(items)
        # which stands for what is never made: its items are left out
        elif not isinstance(holder, Call):
            raise TypeError

    def named(name: str) -> Call:
        if known is not None and name not in known:
            raise InputError(
                f"{path} asks to run {name.replace(' ', '.')}, which no such file "
                f"does; do not use it"
            )
        return Call(name)

    for step, argument, _ in pickletools.genops(file):
        match step.name:
            case "PROTO" | "FRAME":
                pass
            case "STOP":
                return stack.pop()
            case "MARK":
                stack.append(_MARK)
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_LIST" | "EMPTY_SET":  # a set as a list: what is in it may have no hash here
                stack.append([])
            case "FROZENSET":
                stack.append(marked())
            case "TUPLE":
                stack.append(tuple(marked()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(step.name[-1])
                stack[-count:] = [tuple(stack[-count:])]
            case "APPEND":
                fill(stack[-2], [stack.pop()])
            case "APPENDS" | "ADDITEMS":
                items = marked()
                fill(stack[-1], items)
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                fill(stack[-1], {key: value})
            case "SETITEMS":
                items = marked()
                fill(stack[-1], dict(zip(items[::2], items[1::2], strict=True)))
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "GLOBAL":
                stack.append(named(argument))
            case "STACK_GLOBAL":
                name, module = stack.pop(), stack.pop()
                stack.append(named(f"{module} {name}"))
            case "REDUCE" | "NEWOBJ":
                arguments, call = stack.pop(), stack.pop()
                stack.append({} if call.name == DICTIONARY else Call(call.name, arguments))
            case "NEWOBJ_EX":
                _, arguments, call = stack.pop(), stack.pop(), stack.pop()
                stack.append(Call(call.name, arguments))
            case "BINPERSID":
                stack[-1] = Call("persistent", stack[-1])
            case "BUILD":
                state = stack.pop()
                # what a dictionary carries beside its items is left out
                if isinstance(stack[-1], Call):
                    stack[-1].state = state
            case other if other in CONSTANTS:
                stack.append(CONSTANTS[other])
            case other if other in VALUES:
                stack.append(argument)
            case other:
                raise InputError(
                    f"{path} has the pickle step {other}, which it should not have; fetch it again"
                )
    raise EOFError


def bytes_of(value: Any) -> np.ndarray | None:
    """The uint8 array (C order, any shape) that a `Call` describes.

    None where it describes something else.
    """
    match value:
        case Call(name, _, (_, shape, dtype, False, raw)) if name in RECONSTRUCT:
            pass
        case Call(name, (raw, dtype, shape, "C", *_)) if name in FROMBUFFER:
            pass
        case _:
            return None
    match raw:
        case Call("_codecs encode", (str(text), "latin1")) | str(text):
            raw = text.encode("latin-1", errors="replace")
    match dtype:
        case Call("numpy dtype", ("u1" | "|u1", *_)) if isinstance(raw, bytes | bytearray):
            try:
                return np.frombuffer(raw, np.uint8).reshape(shape)
            # a shape that is none, or that needs another number of bytes
            except (TypeError, ValueError):
                return None
    return None
