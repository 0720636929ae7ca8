"""DropBlock (Ghiasi 2018, arXiv:1810.12890): dropout of square blocks of a map.

Neighbours on a map hold the same, so that dropping single places hides nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphfsl.core.batchnorm import is_adapting


class DropBlock(nn.Module):
    """Dropout of square blocks of a map, with the rest scaled up to make up for it.

    Every channel draws its own blocks,

        gamma = rate / block_size² · h·w / ((h-block_size+1)(w-block_size+1))

    in which h·w makes up for blocks that would not fit. The rate grows linearly over the first
    `ramp` training calls, counted in a buffer, so that a resumed training goes on where it was;
    within an inner loop (`Adapt`) the count stands still.

    Args:
        rate: the share that is dropped in the end.
        block_size: of a side; a smaller map is dropped as a whole. (torchvision's drop_block2d
            refuses even sizes.)
        ramp: training calls until the rate is whole.

    Shapes:
        forward: maps (M, C, h, w) -> maps of that shape.
    """

    calls: Tensor

    def __init__(self, rate: float = 0.1, block_size: int = 5, ramp: int = 40_000) -> None:
        super().__init__()
        self.rate, self.block_size, self.ramp = rate, block_size, ramp
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        """Maps (M, C, h, w) -> the same with blocks dropped in training."""
        if not self.training or self.rate == 0:
            return x
        if not is_adapting():
            self.calls.add_(1)
        h, w = x.shape[-2:]
        side = min(self.block_size, h, w)
        places = (h - side + 1) * (w - side + 1)
        gamma = self.rate * (self.calls / self.ramp).clamp_max(1) / side**2 * (h * w / places)
        corners = torch.rand(*x.shape[:2], h - side + 1, w - side + 1, device=x.device) < gamma
        keep = kept(corners, side)
        return x * (keep * (keep.numel() / keep.sum().clamp_min(1))).to(x.dtype)


def kept(corners: Tensor, side: int) -> Tensor:
    """Where no block covers a map: 1 there, else 0, (M, C, h, w).

    Args:
        corners: (M, C, h-side+1, w-side+1) the upper left ones of blocks.
        side: of a block, in pixels.
    """
    return 1 - F.max_pool2d(F.pad(corners.float(), [side - 1] * 4), side, 1)
