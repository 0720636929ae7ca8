"""Drawings on paper in a hue: a world whose colour is no part of any class."""

from __future__ import annotations

import colorsys

import torch
from torch import Tensor

from graphfsl.data.split import Split

HUES = 8  # evenly around the circle of hues


def colours() -> Tensor:
    """(HUES, 3) the colours of ink, of full saturation, in [0, 1]."""
    return torch.tensor([colorsys.hsv_to_rgb(number / HUES, 1.0, 1.0) for number in range(HUES)])


def tinted(drawings: Tensor) -> Tensor:
    """Paint each drawing in every hue, on white paper.

    Args:
        drawings: (N, 1, H, W) uint8, ink 255 on 0.

    Returns:
        (N * HUES, 3, H, W) uint8; the hues of one drawing follow each other.
    """
    missing = (255 * (1 - colours())).round().to(torch.int32)  # what ink takes from white
    painted = torch.empty(len(drawings), HUES, 3, *drawings.shape[2:], dtype=torch.uint8)
    for hue in range(HUES):
        taken = drawings.to(torch.int32) * missing[hue].view(3, 1, 1) // 255
        painted[:, hue] = (255 - taken).to(torch.uint8)
    return painted.flatten(0, 1)


def tinted_split(split: Split, name: str, per_class: int) -> Split:
    """A split of drawings with the first `per_class` of each class, each in every hue.

    Args:
        split: of drawings (N, 1, H, W).
        name: of the data set that it becomes.
        per_class: drawings of a class, evenly among those that it has.
    """
    kept = []
    for column in range(len(split.classes)):
        ids = (split.y == column).nonzero().flatten()
        kept.append(ids[:: max(1, len(ids) // per_class)][:per_class])
    chosen = torch.cat(kept)
    return Split(
        tinted(split.x[chosen]),
        split.y[chosen].repeat_interleave(HUES),
        split.classes,
        f"{name}/{split.name.rpartition('/')[2]}",
        split.groups,
        variants=HUES,
    )
