"""Small worlds of images, for generators of them."""

from __future__ import annotations

import torch
from torch import Tensor


def squares(classes: int, each: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Images (N, 1, 8, 8) between 0 and 1 and labels (N,).

    A class is a bright square of 3 x 3 at a place of its own; an image of it has a brightness of
    its own and some noise.
    """
    g = torch.Generator().manual_seed(seed)
    places = torch.randperm(36, generator=g).repeat(-(-classes // 36))[:classes]
    patterns = torch.zeros(classes, 1, 8, 8)
    for pattern, place in zip(patterns, places.tolist(), strict=True):
        top, left = divmod(place, 6)
        pattern[:, top : top + 3, left : left + 3] = 1
    labels = torch.arange(classes).repeat_interleave(each)
    bright = 0.6 + 0.4 * torch.rand(len(labels), 1, 1, 1, generator=g)
    noise = 0.05 * torch.rand(len(labels), 1, 8, 8, generator=g)
    return (patterns[labels] * bright + noise).clamp(0, 1), labels
