"""What an encoder is, as bytes: its layers, all of their options, code of a user's own, weights."""

from __future__ import annotations

import functools
import hashlib
import sys
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

PLAIN = (bool, int, float, str, type(None))
BARE = vars(nn.Module()).keys()
HOOKS = ("_forward_hooks", "_forward_pre_hooks")
# code that does not change under a user's hands
RELEASED = ("torch", "torchvision", "timm", "graphfsl")
INSTALLED = {"site-packages", "dist-packages"}  # folders of packages that are not edited
# what a name in a user's code may stand for that decides what the code does
CONSTANTS = (*PLAIN, tuple, list, dict, set, frozenset, Tensor, np.ndarray)
FUNCTIONS = (types.FunctionType, types.MethodType, functools.partial, functools._lru_cache_wrapper)
Seen = dict[int, tuple[int, Any]]  # id -> number and object, which the id is of as long as it lives


# where a class of ours stood when the first features were kept
FORMERLY = {"graphfsl.core.batchnorm": "graphfsl.batchnorm"}


def encoder_digest(encoder: nn.Module, *also: Any) -> hashlib.blake2b:
    """A digest of all that decides what an encoder makes of an image; more can be added to it.

    Args:
        encoder: any module.
        also: plain values beside it, such as the normalisation.
    """
    key = hashlib.blake2b(digest_size=16)
    key.update(repr(also).encode())
    for name, m in encoder.named_modules():
        options = {k: v for k, v in vars(m).items() if _is_plain(v) and k != "training"}
        home = FORMERLY.get(type(m).__module__, type(m).__module__)
        key.update(repr((name, home, type(m).__qualname__, options)).encode())
        for part in _rest(m, None):
            key.update(part)
    stored = encoder.state_dict()
    for name, tensor in stored.items():
        key.update(repr((name, tensor.dtype, tuple(tensor.shape))).encode())
        key.update(tensor.detach().cpu().flatten().view(torch.uint8).numpy())
    for name, buffer in encoder.named_buffers():
        if name not in stored:  # a buffer that is not saved counts as well
            key.update(name.encode() + b"".join(_told(buffer, {})))
    return key


def _is_plain(value: Any) -> bool:
    """Whether the text of a value says all of it; that of a tensor leaves most numbers out."""
    return isinstance(value, PLAIN) or (isinstance(value, tuple) and all(map(_is_plain, value)))


def _rest(m: nn.Module, seen: Seen | None) -> Iterator[bytes]:
    """What a layer holds beside plain values.

    These are lists, mappings, functions, objects, hooks, and a user's own code. `seen` is as in
    `_told`; without it each value of a layer is told by itself.
    """
    for name, value in vars(m).items():
        if name not in BARE and not _is_plain(value):
            yield name.encode()
            yield from _told(value, {} if seen is None else seen)
        elif name in HOOKS and value:
            yield from _told(list(value.values()), {} if seen is None else seen)
    yield from _code(type(m), {} if seen is None else seen)


def _code(cls: type, seen: Seen) -> Iterator[bytes]:
    """The code of a user's own class, and of those that it is derived from.

    It is functions and properties, with all that `_of_function` tells of them, and constants.
    """
    if _is_released(cls.__module__):
        return
    for base in cls.__mro__:
        if _is_released(base.__module__):
            continue
        for name, value in vars(base).items():
            if isinstance(value, property):
                yield from _told([value.fget, value.fset], seen)
            elif isinstance(value, (staticmethod, classmethod)):
                yield from _told(value.__func__, seen)
            elif isinstance(value, types.FunctionType) or (
                not name.startswith("__") and _decides(value)
            ):
                yield name.encode()
                yield from _told(value, seen)


def _is_released(module: str) -> bool:
    return module.partition(".")[0] in (*RELEASED, "builtins")


def _is_edited(module: str) -> bool:
    """Whether a module may be a user's own, and so may change from one run to the next."""
    if _is_released(module) or module.partition(".")[0] in sys.stdlib_module_names:
        return False
    file = getattr(sys.modules.get(module), "__file__", None)
    return file is None or not INSTALLED.intersection(Path(file).parts)


def _decides(value: Any) -> bool:
    """Whether a value that code names may decide what the code does; a logger does not."""
    own_class = isinstance(value, type) and _is_edited(value.__module__)
    return own_class or isinstance(value, (*CONSTANTS, *FUNCTIONS))


def _of_function(function: types.FunctionType) -> Iterator[Any]:
    """The code of a function, what it was defined with, and what the names in it stand for."""
    yield function.__code__
    yield function.__defaults__
    yield function.__kwdefaults__
    cells = function.__closure__ or ()
    yield [c.cell_contents for c in cells if c.cell_contents is not function]
    if _is_edited(function.__module__ or ""):
        yield _named(function.__globals__, _names(function.__code__))


def _names(code: types.CodeType) -> set[str]:
    """All global names and attributes in a function and in those that it defines."""
    inner = [_names(c) for c in code.co_consts if isinstance(c, types.CodeType)]
    return set(code.co_names).union(*inner)


def _named(space: Mapping[str, Any], names: set[str]) -> dict[str, Any]:
    """What names stand for in a module, and in the user's own modules that it imports."""
    found = {}
    for name in sorted(names & space.keys()):
        value = space[name]
        if isinstance(value, types.ModuleType):
            if _is_edited(value.__name__):
                own = {k: v for k, v in vars(value).items() if _decides(v)}
                found[name] = {k: own[k] for k in sorted(names & own.keys())}
        elif _decides(value):
            found[name] = value
    return found


def _told(value: Any, seen: Seen) -> Iterator[bytes]:
    """The bytes of a value, the same in every process.

    It may be nested, a function or an object. `seen` are the objects that are being told or were,
    each of which is told once, and then by its number.
    """
    if hasattr(value, "__dict__") and (not isinstance(value, type) or _is_edited(value.__module__)):
        if id(value) in seen:
            yield b"object %d" % seen[id(value)][0]
            return
        seen[id(value)] = len(seen), value
    yield type(value).__qualname__.encode()
    if isinstance(value, Tensor):
        value = (
            value.detach().cpu().float().numpy()
            if value.dtype == torch.bfloat16
            else value.detach().cpu().numpy()
        )
    if isinstance(value, np.ndarray):
        yield repr((str(value.dtype), value.shape)).encode() + np.ascontiguousarray(value).tobytes()
    elif isinstance(value, Mapping):
        for k, v in value.items():
            yield repr(k).encode()
            yield from _told(v, seen)
    elif isinstance(value, (list, tuple)):
        for v in value:
            yield from _told(v, seen)
    elif isinstance(value, (set, frozenset)):
        yield repr(sorted(map(repr, value))).encode()
    elif isinstance(value, functools.partial):
        yield from _told([value.func, value.args, value.keywords], seen)
    elif isinstance(value, types.MethodType):
        yield from _told([value.__func__, value.__self__], seen)
    elif isinstance(value, types.FunctionType):
        for part in _of_function(value):
            yield from _told(part, seen)
    elif isinstance(value, types.CodeType):
        yield value.co_code + repr((value.co_names, value.co_varnames)).encode()
        yield from _told(value.co_consts, seen)
    elif isinstance(value, (type, types.BuiltinFunctionType)):
        yield f"{value.__module__}.{value.__qualname__}".encode()
        if isinstance(value, type) and _is_edited(value.__module__):
            yield from _code(value, seen)
    elif isinstance(value, nn.Module):  # a layer that is registered is told by itself
        for name, m in value.named_modules():
            own = {k: v for k, v in vars(m).items() if _is_plain(v)}
            yield repr((name, type(m).__qualname__, own)).encode()
            yield from _rest(m, seen)
        yield from _told(value.state_dict(), seen)
    elif hasattr(value, "__dict__") and (vars(value) or _is_edited(type(value).__module__)):
        yield from _told(dict(vars(value)), seen)
        if _is_edited(type(value).__module__):
            yield from _code(type(value), seen)
    elif " at 0x" not in (text := repr(value)):  # a place in memory says nothing
        yield text.encode()
