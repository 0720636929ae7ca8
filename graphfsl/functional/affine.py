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
        scale: share at the most; 0.1 is from 1 / 1.1 to 1 / 0.9 of the size.
        shear: degrees at the most.
        flip: whether images are mirrored at all.

    Returns:
        (M, ch, h, w).
    """
    turn, slant = u[0] * math.radians(rotate), torch.tan(u[1] * math.radians(shear))
    sx, sy = 1 / (1 + scale * u[2]), 1 / (1 + scale * u[3])
    if flip:
        sx = sx * torch.where(u[6] > 0, 1.0, -1.0)
    cos, sin = turn.cos(), turn.sin()
    rows = (
        cos * sx,
        (slant * cos - sin) * sy,
        2 * translate * u[4],
        sin * sx,
        (slant * sin + cos) * sy,
    )
    theta = torch.stack([*rows, 2 * translate * u[5]], -1).view(len(x), 2, 3)
    # F.affine_grid, which vmap has no rule for.
    across, down = (
        (2 * torch.arange(n, dtype=x.dtype, device=x.device) + 1) / n - 1
        for n in (x.shape[3], x.shape[2])
    )
    places = torch.stack(
        [*torch.meshgrid(across, down, indexing="xy"), x.new_ones(x.shape[2:])], -1
    )
    grid = (places.flatten(0, 1) @ theta.mT).unflatten(1, x.shape[2:])
    return F.grid_sample(
        x, grid, padding_mode="zeros" if x.shape[1] == 1 else "reflection", align_corners=False
    )
