"""The encoder whose cells know which part of ink they lie in."""

from __future__ import annotations

import numpy as np
import torch

from graphfsl.functional.ink import ink_of
from graphfsl.functional.regions import around, crops
from graphfsl.nn.conv4 import Conv4
from graphfsl.nn.ink_parts import CONTEXT, CROP, InkParts

BOXES = [[4, 6, 14, 20], [24, 22, 36, 30]]


def drawing(boxes: list[list[int]]) -> torch.Tensor:
    """An image (1, 1, 40, 40) of rectangles of ink, and one speck."""
    x = torch.zeros(1, 1, 40, 40)
    x[0, 0, 38, 3] = 1
    for left, top, right, bottom in boxes:
        x[0, 0, top:bottom, left:right] = 0.9
    return x


def test_a_pixel_has_the_features_of_a_crop_around_its_part() -> None:
    torch.manual_seed(0)
    encoder = InkParts(1, width=8).eval()
    conv = Conv4(1, 8).eval()
    conv.load_state_dict(encoder.state_dict())
    x = torch.cat([drawing(BOXES), drawing(BOXES[:1]), drawing([])])
    maps = encoder(x)
    assert maps.shape == (3, 8, 40, 40)
    for image, count in enumerate((2, 1, 0)):
        left = maps[image].clone()
        for box in BOXES[:count]:
            square = around(torch.tensor([box]).float(), CONTEXT)
            z = conv(crops(x[image : image + 1], square, torch.tensor([0]), CROP)).flatten()
            inside = left[:, box[1] : box[3], box[0] : box[2]]
            torch.testing.assert_close(inside, z[:, None, None].expand_as(inside))
            inside[:] = 0
        assert not left.any(), "paper has no features, and a speck is paper"


def test_parts_alike_are_ink_and_the_rest_is_paper() -> None:
    x = drawing(BOXES)
    ink, paper = InkParts(1, alike=True)(x)[0]
    assert torch.equal(ink, 1 - paper)
    assert int(ink.sum()) == 10 * 14 + 12 * 8
    assert torch.equal(InkParts(1, alike=True)(1 - x)[0, 0], ink), "dark ink as well"


def test_ink_is_what_most_of_the_border_is_not() -> None:
    gray = np.zeros((9, 9))
    gray[3:6, 0:6] = 200
    assert (ink_of(gray) == (gray > 0)).all() and (ink_of(255 - gray) == (gray > 0)).all()
    assert not ink_of(np.full((4, 4), 7.0)).any()
