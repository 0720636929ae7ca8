"""What an encoder is, as bytes: its layers, all of their options, code of a user's own, weights."""

from __future__ import annotations

import functools
import hashlib
import types
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

PLAIN = (bool, int, float, str, tuple, type(None))
BARE = vars(nn.Module()).keys()
HOOKS = ("_forward_hooks", "_forward_pre_hooks")
# code that does not change under a user's hands
RELEASED = ("torch", "torchvision", "timm", "graphfsl")


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
        options = {k: v for k, v in vars(m).items() if isinstance(v, PLAIN) and k != "training"}
        home = FORMERLY.get(type(m).__module__, type(m).__module__)
        key.update(repr((name, home, type(m).__qualname__, options)).encode())
        for part in _rest(m):
            key.update(part)
    stored = encoder.state_dict()
    for name, tensor in stored.items():
        key.update(repr((name, tensor.dtype, tuple(tensor.shape))).encode())
        key.update(tensor.detach().cpu().flatten().view(torch.uint8).numpy())
    for name, buffer in encoder.named_buffers():
        if name not in stored:  # a buffer that is not saved counts as well
            key.update(name.encode() + b"".join(_told(buffer, set())))
    return key


def _rest(m: nn.Module) -> Iterator[bytes]:
    """What a layer holds beside plain values.

    These are lists, mappings, functions, objects, hooks, and a user's own code.
    """
    for name, value in vars(m).items():
        if name not in BARE and not isinstance(value, PLAIN):
            yield name.encode()
            yield from _told(value, set())
        elif name in HOOKS and value:
            yield from _told(list(value.values()), set())
    if type(m).__module__.partition(".")[0] not in RELEASED:
        for cls in type(m).__mro__:
            if cls.__module__.partition(".")[0] not in (*RELEASED, "builtins"):
                yield from _told(
                    {k: v for k, v in vars(cls).items() if isinstance(v, types.FunctionType)}, set()
                )


def _told(value: Any, seen: set[int]) -> Iterator[bytes]:
    """The bytes of a value, the same in every process.

    It may be nested, a function or an object. `seen` are the objects that are being told or were,
    each of which is told once.
    """
    if hasattr(value, "__dict__") and not isinstance(value, type):
        if id(value) in seen:
            return
        seen.add(id(value))
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
        yield from _told(value.__func__, seen)
    elif isinstance(value, types.FunctionType):
        cells = [c.cell_contents for c in value.__closure__ or () if c.cell_contents is not value]
        yield from _told([value.__code__, value.__defaults__, value.__kwdefaults__, cells], seen)
    elif isinstance(value, types.CodeType):
        yield value.co_code + repr((value.co_names, value.co_varnames)).encode()
        yield from _told(value.co_consts, seen)
    elif isinstance(value, (type, types.BuiltinFunctionType)):
        yield f"{value.__module__}.{value.__qualname__}".encode()
    elif isinstance(value, nn.Module):  # a layer that is registered is told by itself
        own = {k: v for k, v in vars(value).items() if isinstance(v, PLAIN)}
        yield from _told([own, value.state_dict()], seen)
    elif hasattr(value, "__dict__") and vars(value):
        yield from _told(dict(vars(value)), seen)
    elif " at 0x" not in (text := repr(value)):  # a place in memory says nothing
        yield text.encode()
