"""WRN-28-10, a wide residual network (Zagoruyko & Komodakis 2016, arXiv:1605.07146).

Dhillon and S2M2 build on it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphfsl.core.batchnorm import BatchNorm
from graphfsl.io.errors import require


class Block(nn.Module):
    """x + two of [BatchNorm, ReLU, 3x3 convolution].

    Where the width changes, a 1x1 convolution of ReLU(BatchNorm(x)) takes the place of x.
    """

    def __init__(self, c: int, width: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = BatchNorm(c), BatchNorm(width)
        self.conv1 = nn.Conv2d(c, width, 3, stride, padding=1, bias=False)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.shortcut = nn.Conv2d(c, width, 1, stride, bias=False) if c != width else None
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (M, c, h, w) -> maps (M, width, h/stride, w/stride)."""
        y = F.relu(self.norm1(x))
        shortcut = x if self.shortcut is None else self.shortcut(y)
        residual: Tensor = self.conv2(self.dropout(F.relu(self.norm2(self.conv1(y)))))
        return shortcut + residual


class WRN28x10(nn.Module):
    """A wide residual network of 28 layers; 36,472,784 parameters for colour images.

    It has a 3x3 convolution, three groups of four residual blocks, BatchNorm and ReLU. The strides
    of the groups are the original's 1, 2, 2, at any size of image: 21 x 21 maps for 84 x 84 images.
    Some few-shot codes take a strided first convolution there, which is faster and another network.

    Args:
        in_channels: of the images.
        depth: 6n + 4 layers for n blocks in a group.
        width: times 16, 32 and 64 filters.
        dropout: between the convolutions of a block; the paper's variant with dropout takes 0.3.

    Shapes:
        forward: (M, in_channels, h, w) -> maps (M, 640, ⌈h/4⌉, ⌈w/4⌉).
        readout: their spatial mean, 640-d at any size.

    Raises:
        InputError: for a depth that is not 6n + 4.
    """

    def __init__(
        self, in_channels: int = 3, depth: int = 28, width: int = 10, dropout: float = 0.0
    ) -> None:
        super().__init__()
        require(
            depth >= 10 and (depth - 4) % 6 == 0,
            f"the depth of a wide ResNet must be 6n + 4, such as 16 or 28, not {depth}",
        )
        c, blocks = 16, []
        self.stem = nn.Conv2d(in_channels, c, 3, padding=1, bias=False)
        for group in range(3):
            for k in range((depth - 4) // 6):
                blocks.append(Block(c, 16 * 2**group * width, 2 if group and not k else 1, dropout))
                c = 16 * 2**group * width
        self.blocks, self.norm = nn.Sequential(*blocks), BatchNorm(c)
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, mode="fan_out")
        self.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        """Images (M, in_channels, h, w) -> maps (M, 64 width, ⌈h/4⌉, ⌈w/4⌉)."""
        return F.relu(self.norm(self.blocks(self.stem(x))))

    def readout(self, maps: Tensor) -> Tensor:
        """(M, C, h, w) -> (M, C)."""
        return maps.mean((2, 3))
