"""DropBlock (Ghiasi 2018, arXiv:1810.12890): dropout of square blocks, since neighbours on a map
hold the same.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphfsl.core.batchnorm import is_adapting


class DropBlock(nn.Module):
    """Maps (M, C, h, w) -> the same with blocks set to 0 in training, and the rest scaled up to
    make up for it.

    Every channel draws its own blocks, gamma = rate / block_size² · h·w /
    ((h-block_size+1)(w-block_size+1)), in which h·w makes up for blocks that would not fit. The
    rate grows linearly over the first `ramp` training calls, counted in a buffer, so that a resumed
    training goes on where it was; within an inner loop (`Adapt`) the count stands still.
    block_size: of a side; a smaller map is dropped as a whole. (torchvision's drop_block2d refuses
        even sizes.)
    """

    calls: Tensor

    def __init__(self, rate: float = 0.1, block_size: int = 5, ramp: int = 40_000) -> None:
        super().__init__()
        self.rate, self.block_size, self.ramp = rate, block_size, ramp
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
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
    """Upper left corners of blocks (M, C, h-side+1, w-side+1) -> 1 for what no block covers, (M, C,
    h, w).
    """
    return 1 - F.max_pool2d(F.pad(corners.float(), [side - 1] * 4), side, 1)
