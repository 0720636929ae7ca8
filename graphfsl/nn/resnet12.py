"""ResNet-12 as in MetaOptNet (Lee 2019, arXiv:1904.03758) and RFS (Tian 2020, arXiv:2003.11539)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphfsl.core.batchnorm import BatchNorm
from graphfsl.nn.dropblock import DropBlock


class Block(nn.Module):
    """Three of [3x3 convolution, BatchNorm] with a shortcut, 2x2 max-pool and dropout.

    Between the convolutions stands a leaky ReLU of slope 0.1; the shortcut is a 1x1 convolution
    with BatchNorm.
    """

    def __init__(self, c: int, width: int, drop: nn.Module) -> None:
        super().__init__()
        widths = [c, width, width, width]
        self.convs = nn.ModuleList(
            nn.Conv2d(a, b, 3, padding=1, bias=False) for a, b in itertools.pairwise(widths)
        )
        self.norms = nn.ModuleList(BatchNorm(width) for _ in range(3))
        self.shortcut = nn.Sequential(nn.Conv2d(c, width, 1, bias=False), BatchNorm(width))
        self.drop = drop

    def forward(self, x: Tensor) -> Tensor:
        """Maps (M, c, h, w) -> maps (M, width, h//2, w//2)."""
        y = x
        for k, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            y = norm(conv(y if k == 0 else F.leaky_relu(y, 0.1)))
        maps: Tensor = F.max_pool2d(F.leaky_relu(y + self.shortcut(x), 0.1), 2)
        dropped: Tensor = self.drop(maps)
        return dropped


class ResNet12(nn.Module):
    """Four residual blocks of three convolutions; 12,424,320 parameters for colour images.

    Args:
        in_channels: of the images.
        widths: of the four blocks; papers call others "ResNet-12" too (64-128-256-512).
        drop_rate: of dropout behind the first two blocks and DropBlock behind the last two, whose
            rate grows over the first 40,000 steps; 0 for none.
        block_size: DropBlock's; the authors take 5 on ImageNet, 2 on CIFAR-FS and FC100.

    Shapes:
        forward: (M, in_channels, h, w) -> maps (M, 640, h//16, w//16).
        readout: their spatial mean, 640-d at any size.
    """

    def __init__(
        self,
        in_channels: int = 3,
        widths: Sequence[int] = (64, 160, 320, 640),
        drop_rate: float = 0.1,
        block_size: int = 5,
    ) -> None:
        super().__init__()
        drops = [
            nn.Dropout(drop_rate) if k < 2 else DropBlock(drop_rate, block_size)
            for k in range(len(widths))
        ]
        pairs = itertools.pairwise([in_channels, *widths])
        self.blocks = nn.Sequential(
            *(Block(a, b, drop) for (a, b), drop in zip(pairs, drops, strict=True))
        )
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="leaky_relu")
        self.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        """Images (M, in_channels, h, w) -> maps (M, widths[-1], h//16, w//16)."""
        maps: Tensor = self.blocks(x)
        return maps

    def readout(self, maps: Tensor) -> Tensor:
        """(M, C, h, w) -> (M, C)."""
        return maps.mean((2, 3))
