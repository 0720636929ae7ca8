"""Small convolutional nets between images and vectors, for generators of images."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn


def image_encoder(shape: Sequence[int], width: int, outputs: int) -> nn.Sequential:
    """Images (M, *shape) -> vectors (M, outputs): three convolutions, each halving the sides.

    Args:
        shape: (C, H, W).
        width: channels of the first convolution; the others have twice as many.
        outputs: length of the vectors.
    """
    channels, height, side = shape
    down = [(channels, width), (width, 2 * width), (2 * width, 2 * width)]
    layers = [halved(before, behind) for before, behind in down]
    inputs = 2 * width * math.ceil(height / 8) * math.ceil(side / 8)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(inputs, outputs), nn.LeakyReLU(0.2))


def image_decoder(inputs: int, width: int, shape: Sequence[int]) -> nn.Sequential:
    """Vectors (M, inputs) -> images (M, *shape) of any values, the encoder's way back.

    Args:
        inputs: length of the vectors.
        width: channels before the last convolution; the others have twice as many.
        shape: (C, H, W).
    """
    channels, height, side = shape
    first = (2 * width, math.ceil(height / 8), math.ceil(side / 8))
    return nn.Sequential(
        nn.Linear(inputs, math.prod(first)),
        nn.Unflatten(1, first),
        nn.LeakyReLU(0.2),
        Doubled(2 * width, 2 * width),
        Doubled(2 * width, 2 * width),
        Doubled(2 * width, width),
        Cut(height, side),
        nn.Conv2d(width, channels, 3, padding=1),
    )


def halved(inputs: int, outputs: int) -> nn.Sequential:
    """Maps (M, inputs, h, w) -> (M, outputs, h / 2, w / 2), rounded up."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride=2, padding=1), nn.LeakyReLU(0.2))


class Doubled(nn.Module):
    """Maps (M, inputs, h, w) -> (M, outputs, 2 h, 2 w), without the pattern of a transposed one."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Each cell becomes four; then a convolution."""
        larger = nn.functional.interpolate(x, scale_factor=2, mode="nearest")
        return nn.functional.leaky_relu(self.conv(larger), 0.2)


class Cut(nn.Module):
    """Maps (M, C, h, w) -> their upper left part of a given size."""

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.height, self.width = height, width

    def forward(self, x: Tensor) -> Tensor:
        """The part of height x width."""
        return x[..., : self.height, : self.width]
