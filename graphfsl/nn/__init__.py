"""Encoders and layers."""

from graphfsl.nn.conv4 import Conv4

__all__ = ["ENCODERS", "Conv4"]

ENCODERS = {"conv4": Conv4}
