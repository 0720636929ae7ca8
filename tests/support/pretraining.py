"""Images to pretrain on."""

from __future__ import annotations

import torch

from graphfsl.data import Split
from graphfsl.testing import DIM

CLASSES = 6


def split(name: str = "train", seed: int = 0, each: int = 10) -> Split:
    """Images (N, 1, 8, 8) around a random pattern for each of six classes."""
    g = torch.Generator().manual_seed(seed)
    pattern = torch.rand(CLASSES, 1, 8, 8, generator=g)
    y = torch.arange(CLASSES).repeat_interleave(each)
    x = (pattern[y] + 0.2 * torch.randn(len(y), 1, 8, 8, generator=g)).clamp(0, 1)
    return Split(
        (255 * x).to(torch.uint8), y, tuple(f"c{i}" for i in range(CLASSES)), f"patterns/{name}"
    )


def encode(x: torch.Tensor) -> torch.Tensor:
    """The first pixels, as an encoder that needs no training."""
    return x.flatten(1)[:, :DIM]


def batch(n: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    """One view of n images, and their classes in turn."""
    return torch.randn(1, n, 1, 4, 4), torch.arange(n).remainder(3)[None]
