"""Encoders and layers."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Iterator

from torch import nn

from graphfsl.core import registry
from graphfsl.io.errors import InputError
from graphfsl.nn.conv4 import Conv4, Conv4Maps, Conv4R2D2, Conv4Stride2
from graphfsl.nn.dense_conv import DenseConv
from graphfsl.nn.dropblock import DropBlock
from graphfsl.nn.efficientnet_lite0 import EfficientNetLite0
from graphfsl.nn.ink_parts import InkParts
from graphfsl.nn.mlp import MLP
from graphfsl.nn.resnet12 import ResNet12
from graphfsl.nn.timm_encoder import Timm
from graphfsl.nn.wrn28_10 import WRN28x10

__all__ = [
    "ENCODERS",
    "MLP",
    "Conv4",
    "Conv4Maps",
    "Conv4R2D2",
    "Conv4Stride2",
    "DenseConv",
    "DropBlock",
    "EfficientNetLite0",
    "InkParts",
    "ResNet12",
    "Timm",
    "WRN28x10",
]


class Encoders(UserDict[str, type[nn.Module]]):
    """Encoders by name: graphfsl's own, and those of plugins, imported when they are asked for."""

    def _of_plugins(self) -> list[str]:
        names = registry.names(registry.ENCODER)
        if taken := sorted(self.data.keys() & set(names)):
            raise InputError(
                f"a plugin has an encoder {taken[0]!r}, as graphfsl has: give it another name"
            )
        return names

    def __contains__(self, name: object) -> bool:
        return name in self._of_plugins() or name in self.data

    def __missing__(self, name: str) -> type[nn.Module]:
        if name not in self._of_plugins():
            raise KeyError(name)
        encoder: type[nn.Module] = registry.get(registry.ENCODER, name)
        return encoder

    def __iter__(self) -> Iterator[str]:
        yield from self.data
        yield from self._of_plugins()

    def __len__(self) -> int:
        return len(self.data) + len(self._of_plugins())


ENCODERS = Encoders(
    {
        "conv4": Conv4,
        "conv4_maps": Conv4Maps,
        "conv4_r2d2": Conv4R2D2,
        "conv4_stride2": Conv4Stride2,
        "dense_conv": DenseConv,
        "resnet12": ResNet12,
        "wrn28_10": WRN28x10,
        "timm": Timm,
        "efficientnet_lite0": EfficientNetLite0,
        "ink_parts": InkParts,
        "mlp": MLP,
    }
)
