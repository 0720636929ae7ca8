"""The four-block convolutional encoders of the field (Vinyals 2016, Snell 2017; Finn 2017)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphfsl.core.arguments import whole_number
from graphfsl.core.batchnorm import BatchNorm
from graphfsl.io.errors import require


def channels_last(x: Tensor) -> Tensor:
    """Images (M, C, h, w) of one channel marked as channels_last; others as they are.

    One channel looks alike in both layouts, and PyTorch then takes the slow one for all maps that
    follow. Of several channels the weights decide.
    """
    return x.reshape(*x.shape[:-3], *x.shape[-2:], 1).movedim(-1, -3) if x.shape[-3] == 1 else x


class Conv4(nn.Module):
    """Four blocks of [3x3 convolution with padding, BatchNorm, ReLU, 2x2 max-pool].

    The weights are kept in channels_last.

    Args:
        in_channels: of the images.
        width: filters of every block, or of each of the four (R2-D2 has 96, 192, 384, 512).

    Shapes:
        forward: (M, in_channels, h, w) -> maps (M, width, h//16, w//16).
        readout: flattened maps, 64-d for 28x28 images, 256-d for 32x32, 1600-d for 84x84.

    Raises:
        InputError: where width is neither one number nor four.
    """

    def __init__(self, in_channels: int = 1, width: int | Sequence[int] = 64) -> None:
        super().__init__()
        widths = [width] * 4 if isinstance(width, int) else list(width)
        require(len(widths) == 4, f"width is one number or four, not {widths}")
        in_channels = whole_number(in_channels, "in_channels, of the images,", 1)
        widths = [whole_number(w, "width", 1) for w in widths]
        self.convs = nn.ModuleList(
            nn.Conv2d(a, b, 3, padding=1) for a, b in itertools.pairwise([in_channels, *widths])
        )
        self.norms = nn.ModuleList(BatchNorm(w) for w in widths)
        # channels_last weights make every map channels_last; to ask it of the input fails under
        # vmap.
        self.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        """Images (M, in_channels, h, w) -> maps (M, width, h//16, w//16)."""
        x = channels_last(x)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            # the order of the last two makes no difference, and the smaller map is quicker
            x = F.relu(F.max_pool2d(norm(conv(x)), 2))
        return x

    def readout(self, maps: Tensor) -> Tensor:
        """(M, C, h, w) -> (M, C*h*w)."""
        return maps.flatten(1)


class Conv4R2D2(Conv4):
    """R2-D2's network: Conv4 with leaky ReLU and dropout, which gives its last two blocks' maps.

    Args:
        in_channels: of the images.
        width: filters of each block.
        dropout: of the third and fourth block in training; the paper takes 0.4 for CIFAR-FS and 0.1
            for mini-ImageNet.

    Shapes:
        forward: (M, in_channels, h, w) -> vectors (M, d): what the third and the fourth block
            return, flattened and side by side, 8192-d for 32x32 images. A head that wants maps
            is refused.

    Raises:
        InputError: for a dropout outside of [0, 1).

    Source:
        Bertinetto 2019, section 5, https://arxiv.org/abs/1805.08136; slope 0.1.
    """

    def __init__(
        self,
        in_channels: int = 1,
        width: int | Sequence[int] = (96, 192, 384, 512),
        dropout: float = 0.4,
    ) -> None:
        require(0 <= dropout < 1, f"conv4_r2d2.dropout must be in [0, 1), not {dropout}")
        super().__init__(in_channels, width)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        """Images (M, in_channels, h, w) -> vectors (M, d) of the last two blocks."""
        x, read = channels_last(x), []
        for i, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            # the order of leaky ReLU and pooling makes no difference
            x = F.leaky_relu(F.max_pool2d(norm(conv(x)), 2), 0.1)
            if i >= 2:
                x = F.dropout(x, self.dropout, self.training)
                read.append(x.flatten(1))
        return torch.cat(read, 1)

    def readout(self, z: Tensor) -> Tensor:
        """The vectors (M, d) as they are."""
        return z


class Conv4Stride2(nn.Module):
    """MAML's network for Omniglot: four convolutions of stride 2, without pooling.

    Each is 3x3 and followed by BatchNorm and ReLU. The padding is TensorFlow's SAME, which for an
    even side is 0 before and 1 behind.

    Args:
        in_channels: of the images.
        width: filters of every block.

    Shapes:
        forward: (M, in_channels, h, w) -> maps (M, width, ⌈h/16⌉, ⌈w/16⌉).
        readout: their spatial mean, (M, width) at any size.

    Deviations:
        BatchNorm has a scale, as everywhere in PyTorch; in the authors' code it has a shift only.
    """

    def __init__(self, in_channels: int = 1, width: int = 64) -> None:
        super().__init__()
        widths = [in_channels, width, width, width, width]
        self.convs = nn.ModuleList(
            nn.Conv2d(a, b, 3, stride=2) for a, b in itertools.pairwise(widths)
        )
        self.norms = nn.ModuleList(BatchNorm(width) for _ in range(4))
        self.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        """Images (M, in_channels, h, w) -> maps (M, width, ⌈h/16⌉, ⌈w/16⌉)."""
        x = channels_last(x)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            h, w = x.shape[-2:]
            x = F.relu(norm(conv(F.pad(x, (w % 2, 1, h % 2, 1)))))
        return x

    def readout(self, maps: Tensor) -> Tensor:
        """(M, C, h, w) -> (M, C)."""
        return maps.mean((2, 3))


class Conv4Maps(nn.Module):
    """RelationNet's encoder: two blocks with pooling and no padding, then two of the opposite.

    Args:
        in_channels: of the images.
        width: filters of every block.

    Shapes:
        forward: (M, in_channels, h, w) -> maps (M, width, h', w'): 5x5 for 28x28 images, 6x6 for
            32x32, 19x19 for 84x84.
        readout: their spatial mean, (M, width).
    """

    def __init__(self, in_channels: int = 1, width: int = 64) -> None:
        super().__init__()
        widths = [in_channels, width, width, width, width]
        pairs = zip(itertools.pairwise(widths), (0, 0, 1, 1), strict=True)
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, padding=p) for (a, b), p in pairs)
        self.norms = nn.ModuleList(BatchNorm(width) for _ in range(4))
        self.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        """Images (M, in_channels, h, w) -> maps (M, width, h', w')."""
        x = channels_last(x)
        for i, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            x = F.relu(norm(conv(x)))
            x = F.max_pool2d(x, 2) if i < 2 else x
        return x

    def readout(self, maps: Tensor) -> Tensor:
        """(M, C, h, w) -> (M, C)."""
        return maps.mean((2, 3))
