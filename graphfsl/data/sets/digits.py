"""Digits by hand, 8 x 8, which come with scikit-learn (Alpaydin & Kaynak 1998).

https://archive.ics.uci.edu/dataset/80
"""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits

from graphfsl.data.split import Split
from graphfsl.io.errors import require

DRAWINGS = True  # ink is bright on black
FULL_INK = 16  # the files count inked pixels of 4 x 4


def load(split: str, size: int = 28) -> Split:
    """The 1,797 digits, enlarged to 1 x size x size; nothing is read from a data root.

    Args:
        split: "test", all of them.
        size: pixels of a side.
    """
    require(
        split == "test",
        f"digits has the split test alone, and no {split!r}; set evaluation.split=test",
    )
    bunch = load_digits()
    pixels = torch.from_numpy(bunch.images).float()[:, None] * (255 / FULL_INK)
    shape = (size, size)
    scaled = torch.nn.functional.interpolate(pixels, shape, mode="bilinear", antialias=True)
    samples = scaled.round().clamp(0, 255).to(torch.uint8)
    return Split(samples, torch.from_numpy(bunch.target), tuple("0123456789"), "digits/test")
