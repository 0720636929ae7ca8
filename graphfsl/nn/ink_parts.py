"""An encoder whose cells know which connected part of ink they lie in."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from graphfsl.functional.ink import ink_of
from graphfsl.nn.conv4 import Conv4

CROP = 28  # pixels of a side of what is seen of a part
CONTEXT = 28 / 22  # the side of the square that is cut, by the longer side of the part
SMALLEST = 4  # pixels of a part's longer side; smaller ones are paper
NEAR = 1  # times that ink is widened, so that what lies apart by two pixels is one part


class InkParts(Conv4):
    """Each pixel of ink has the features of the whole part that it lies in; paper has none.

    A part is cut out as a region of detection is, and a Conv4 says what it looks like. Masks of
    drawings are then found by regions, and their ink.

    Args:
        in_channels: of the images.
        width: filters of every block of the Conv4, or of each of the four.
        alike: whether all parts look alike: the two features of a pixel are then ink and paper.

    Shapes:
        forward: (M, in_channels, h, w) -> maps (M, width, h, w), or (M, 2, h, w) of parts alike.
        readout: their spatial mean.
    """

    def __init__(
        self, in_channels: int = 1, width: int | Sequence[int] = 64, alike: bool = False
    ) -> None:
        super().__init__(in_channels, width)
        self.alike = alike
        last = width if isinstance(width, int) else width[-1]
        self.dim = 2 if alike else last

    def forward(self, x: Tensor) -> Tensor:
        """Maps (M, d, h, w) of images (M, in_channels, h, w)."""
        from graphfsl.functional import regions  # torchvision takes a second to import

        if x.is_meta:
            return x.new_empty(len(x), self.dim, *x.shape[2:])
        parts = [_parts(image) for image in x.detach().float().mean(1).cpu().numpy()]
        number = torch.from_numpy(np.stack([label for label, _ in parts])).to(x.device)
        if self.alike:
            ink = (number > 0).to(x)
            return torch.stack([ink, 1 - ink], 1)
        boxes = torch.cat([boxes for _, boxes in parts]).to(x)
        counts = torch.tensor([len(boxes) for _, boxes in parts], device=x.device)
        image = torch.arange(len(x), device=x.device).repeat_interleave(counts)
        seen = regions.crops(x, regions.around(boxes, CONTEXT), image, CROP)
        z = super().forward(seen).flatten(1) if len(seen) else x.new_zeros(0, self.dim)
        # row 0 is paper; the parts of an image follow those of the images before it
        table = torch.cat([z.new_zeros(1, z.shape[1]), z])
        before = (counts.cumsum(0) - counts)[:, None, None]
        row = torch.where(number > 0, number + before, 0)
        return table[row].movedim(-1, 1)

    def readout(self, maps: Tensor) -> Tensor:
        """(M, d, h, w) -> (M, d)."""
        return maps.mean((-2, -1))


def _parts(gray: np.ndarray) -> tuple[np.ndarray, Tensor]:
    """The part of each pixel (H, W), from 1, 0 for paper, and the boxes (m, 4) of the parts."""
    least, most = gray.min(), gray.max()
    ink = ink_of(255 * (gray - least) / max(most - least, 1e-6))
    wide = ndimage.binary_dilation(ink, np.ones((3, 3)), iterations=NEAR)
    label, _ = ndimage.label(wide, np.ones((3, 3)))
    label = label * ink
    number, boxes = np.zeros_like(label), []
    for old, place in enumerate(ndimage.find_objects(label), 1):
        if place is None:
            continue
        down, across = place
        if max(down.stop - down.start, across.stop - across.start) < SMALLEST:
            continue
        boxes.append([across.start, down.start, across.stop, down.stop])
        number[place][label[place] == old] = len(boxes)
    found = torch.tensor(boxes, dtype=torch.float32).view(-1, 4)
    return number.astype(np.int64), found
