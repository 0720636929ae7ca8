"""A small convolutional encoder of dense features, which trains on a CPU."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphfsl.core.arguments import whole_number
from graphfsl.core.batchnorm import BatchNorm
from graphfsl.nn.conv4 import channels_last

DILATIONS = (1, 2, 4, 1)  # of the layers behind the smaller maps


class DenseConv(nn.Module):
    """Six layers of [3x3 convolution, BatchNorm, ReLU]: two of stride 2, then four dilated ones.

    The last has no ReLU. A cell has 4 pixels a side and sees 71 of them.

    Args:
        in_channels: of the images.
        width: filters of every layer.

    Shapes:
        forward: (M, in_channels, h, w) -> maps (M, width, ⌈h/4⌉, ⌈w/4⌉).
        readout: their spatial mean, (M, width).
    """

    def __init__(self, in_channels: int = 1, width: int = 64) -> None:
        super().__init__()
        width = whole_number(width, "width", 1)
        first = [nn.Conv2d(whole_number(in_channels, "in_channels", 1), width, 3, 2, 1)]
        second = [nn.Conv2d(width, width, 3, 2, 1)]
        dilated = [nn.Conv2d(width, width, 3, 1, k, dilation=k) for k in DILATIONS]
        self.convs = nn.ModuleList([*first, *second, *dilated])
        self.norms = nn.ModuleList(BatchNorm(width) for _ in self.convs)
        self.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        """Images (M, in_channels, h, w) -> maps (M, width, ⌈h/4⌉, ⌈w/4⌉)."""
        x = channels_last(x)
        last = len(self.convs) - 1
        for i, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            x = norm(conv(x))
            x = x if i == last else F.relu(x)
        return x

    def readout(self, maps: Tensor) -> Tensor:
        """(M, C, h, w) -> (M, C)."""
        return maps.mean((-2, -1))
