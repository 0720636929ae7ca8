"""Random affine maps of images, on their device and without a loop."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


def affine(
    x: Float[Tensor, "M ch h w"],
    u: Float[Tensor, "7 M"],
    rotate: float | int = 0.0,
    translate: float | int = 0.0,
    scale: float | int = 0.0,
    shear: float | int = 0.0,
    flip: bool = False,
    mirrored: bool | None = None,
    mode: str = "bilinear",
) -> Float[Tensor, "M ch h w"]:
    """Turn, shift, scale, shear and mirror images, each by its own amount.

    What comes in from outside is 0 in one channel, the paper that ink stands on, and mirrored in
    several.

    Args:
        x: (M, ch, h, w) images.
        u: (7, M) in [-1, 1], shares of what follows: the turn, the shear, two scales, two shifts,
            and mirrored where above 0.
        rotate: degrees at the most, either way.
        translate: share of the side at the most.
        scale: share at the most; 0.1 is from 0.9 to 1.1 of the size.
        shear: degrees at the most.
        flip: whether images are mirrored at all.
        mirrored: whether what comes in from outside is mirrored; None decides by the channels.
        mode: "bilinear", or "nearest" for label maps.

    Returns:
        (M, ch, h, w).
    """
    turn = u[0] * math.radians(rotate)
    slant = torch.tan(u[1] * math.radians(shear))
    width, height = 1 / (1 + scale * u[2]), 1 / (1 + scale * u[3])
    if flip:
        width = width * torch.where(u[6] > 0, 1.0, -1.0)
    right, down = 2 * translate * u[4], 2 * translate * u[5]
    cos, sin = turn.cos(), turn.sin()
    first = torch.stack([cos * width, (slant * cos - sin) * height, right], -1)
    second = torch.stack([sin * width, (slant * sin + cos) * height, down], -1)
    theta = torch.stack([first, second], 1)  # (M, 2, 3), from a place in the answer to one in x

    places = (_places(x.shape[2:], x) @ theta.mT).unflatten(1, x.shape[2:])
    if mirrored is None:
        mirrored = x.shape[1] > 1
    outside = "reflection" if mirrored else "zeros"
    return F.grid_sample(x, places, mode, padding_mode=outside, align_corners=False)


def _places(size: torch.Size, like: Float[Tensor, "M ch h w"]) -> Float[Tensor, "hw 3"]:
    """(x, y, 1) of the middles of an image's pixels, its sides being from -1 to 1.

    It is what F.affine_grid begins with, which vmap has no rule for.
    """
    height, width = size
    y = (2 * torch.arange(height, dtype=like.dtype, device=like.device) + 1) / height - 1
    x = (2 * torch.arange(width, dtype=like.dtype, device=like.device) + 1) / width - 1
    across, down = torch.meshgrid(x, y, indexing="xy")
    return torch.stack([across, down, torch.ones_like(across)], -1).flatten(0, 1)
