"""Small scenes with masks and boxes, and learners whose features are the pixels themselves."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from graphfsl.core.pipeline import Pipeline
from graphfsl.data.scenes import Objects, SceneSplit
from graphfsl.methods.heads.panet import PANet


class Colours(nn.Module):
    """An encoder whose cells are the pixels: maps (M, 4, H, W) of their colours, gray apart."""

    def forward(self, x: Tensor) -> Tensor:
        gray = torch.full_like(x[:, :1], 0.5)
        return torch.cat([x - 0.5, gray], 1)

    def readout(self, maps: Tensor) -> Tensor:
        return maps.mean((-2, -1))


COLOURS = {0: (220, 30, 30), 1: (30, 220, 30), 2: (30, 30, 220)}


def scenes(count: int = 12, side: int = 12, ignored: bool = False) -> SceneSplit:
    """Gray images with one rectangle in the colour of a class; image i shows class i mod 3.

    Args:
        count: images.
        side: pixels.
        ignored: whether the first row of every mask does not count.
    """
    rng = np.random.default_rng(0)
    x = np.full((count, 3, side, side), 128, np.uint8)
    maps = np.full((count, side, side), -1, np.int16)
    objects = []
    for i in range(count):
        top, left = rng.integers(1, side - 6, 2)
        height, width = rng.integers(3, 6, 2)
        rows, columns = slice(top, top + height), slice(left, left + width)
        x[i, :, rows, columns] = np.array(COLOURS[i % 3])[:, None, None]
        maps[i, rows, columns] = i % 3
        objects.append(Objects.of([[left, top, left + width, top + height]], [i % 3]))
    if ignored:
        maps[:, 0] = -100
    return SceneSplit(
        torch.from_numpy(x),
        torch.full((count,), -1),
        ("red", "green", "blue"),
        "blocks/test",
        maps=torch.from_numpy(maps),
        objects=tuple(objects),
    )


def by_colour(**parts: Any) -> Pipeline:
    """A learner of masks that looks at colours alone."""
    return Pipeline(Colours(), head=PANet(), **parts).eval()
