"""Encoders and layers."""

from torch import nn

from graphfsl.nn.conv4 import Conv4, Conv4Maps, Conv4R2D2, Conv4Stride2
from graphfsl.nn.dropblock import DropBlock
from graphfsl.nn.efficientnet_lite0 import EfficientNetLite0
from graphfsl.nn.resnet12 import ResNet12
from graphfsl.nn.timm_encoder import Timm
from graphfsl.nn.wrn28_10 import WRN28x10

__all__ = [
    "ENCODERS",
    "Conv4",
    "Conv4Maps",
    "Conv4R2D2",
    "Conv4Stride2",
    "DropBlock",
    "EfficientNetLite0",
    "ResNet12",
    "Timm",
    "WRN28x10",
]

ENCODERS: dict[str, type[nn.Module]] = {
    "conv4": Conv4,
    "conv4_maps": Conv4Maps,
    "conv4_r2d2": Conv4R2D2,
    "conv4_stride2": Conv4Stride2,
    "resnet12": ResNet12,
    "wrn28_10": WRN28x10,
    "timm": Timm,
    "efficientnet_lite0": EfficientNetLite0,
}
