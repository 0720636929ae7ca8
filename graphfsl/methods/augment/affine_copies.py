"""Turned, shifted, scaled and slanted copies of the support images: the classical augmentation.

Simard, Steinkraus, Platt 2003, https://doi.org/10.1109/ICDAR.2003.1227801 (affine part)
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from graphfsl.core.image_generator import ImageGenerator
from graphfsl.functional.affine import affine
from graphfsl.io.errors import require

__all__ = ["AffineCopies"]

NUMBERS = 7  # that a copy draws: turn, slant, two scales, two shifts, mirrored


class AffineCopies(ImageGenerator):
    """Add affine copies of each labeled image, which is what any image generator is held against.

        x~ = x o A,  A = turn, slant, scale and shift, each uniform within its bounds

    Args:
        shape: (C, H, W) of an image.
        samples: copies that every labeled image gets; 0 adds nothing.
        weight: label weight of a copy beside 1 of a real image.
        rotate: degrees at the most, either way.
        translate: share of the side at the most.
        scale: share at the most; 0.1 is from 0.9 to 1.1 of the size.
        shear: degrees at the most.
        flip: mirror half of the copies left to right (never characters).
        averaged: the mean of 64 copies in place of the copies, see `Generator`.

    Shapes:
        forward: images (B, n, C, H, W), weights (B, n, W) -> an episode with `samples` more support
            images for each that it has.

    Source:
        section 2 of the paper.

    Deviations:
        without elastic distortions; the paper augments a training, this the support.
    """

    of_samples = True

    def __init__(
        self,
        shape: Sequence[int],
        samples: int = 5,
        weight: float = 0.2,
        rotate: float = 10.0,
        translate: float = 0.08,
        scale: float = 0.1,
        shear: float = 10.0,
        flip: bool = False,
        averaged: bool = False,
    ) -> None:
        super().__init__(shape, (NUMBERS,), samples, weight, averaged)
        for name, value, most in (
            ("rotate", rotate, 180),
            ("translate", translate, 1),
            ("scale", scale, 0.99),
            ("shear", shear, 89),
        ):
            require(
                0 <= value <= most,
                f"affine_copies.{name} must be from 0 to {most}, not {value}",
            )
        self.rotate, self.translate = rotate, translate
        self.scale, self.shear, self.flip = scale, shear, flip

    def draw(self, condition: Tensor, noise: Tensor) -> Tensor:
        """Copies (B, g, m, *shape) of images (B, g, *shape), by normal noise (B, g, m, 7)."""
        copies = condition.unsqueeze(2).expand(*noise.shape[:3], *condition.shape[2:])
        copies = copies.flatten(0, 2)
        uniform = torch.erf(noise / math.sqrt(2)).flatten(0, 2).mT
        # `affine` fills one channel with 0, which must mean dark in normalised images too
        dark = copies.amin((-1, -2), keepdim=True)
        turned = dark + affine(
            copies - dark,
            uniform,
            self.rotate,
            self.translate,
            self.scale,
            self.shear,
            self.flip,
        )
        drawn: Tensor = turned.unflatten(0, noise.shape[:3])
        return drawn
