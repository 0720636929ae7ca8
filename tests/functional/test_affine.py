"""Affine moves of images."""

from __future__ import annotations

import torch

from graphfsl.data import Transform
from graphfsl.data.transforms import DRAWS
from graphfsl.functional.affine import affine


def test_affine_is_the_transforms() -> None:
    x = torch.randint(0, 256, (4, 1, 9, 9), dtype=torch.uint8)
    u = torch.rand(4, DRAWS)
    got = affine(x.float() / 255, 2 * u.T[:7] - 1, 20, 0.1, 0.2, 5, True)
    torch.testing.assert_close(
        got, Transform(rotate=20, translate=0.1, scale=0.2, shear=5, flip=True)(x, u)
    )
