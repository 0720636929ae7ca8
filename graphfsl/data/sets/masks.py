"""`masks`: a user's own images with masks, in folders `train`, `val` and `test`.

Each holds `images` and `masks` of the same names (PNG: one number for each pixel, 0 the background,
255 where it does not count), or VOC's `JPEGImages` and `SegmentationClass`. `classes.txt` beside
them, or in one of them, names the numbers: "1 car" on a line. Masks in black and white show one
class, which gets the name of the folder of the splits. Or a folder holds images and one COCO file,
whose polygons and RLE are drawn by pycocotools.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from graphfsl.data.images import written
from graphfsl.data.mask_files import (
    VOID,
    coco_file,
    mask_pairs,
    named_classes,
    read_mask,
    split_of_coco,
    split_of_pairs,
)
from graphfsl.data.split import Split, readable

NO_VOID = -1  # no pixel has it


def load(split: str, root: str, folder: str = "", size: int = 320) -> Split:
    """One split.

    Args:
        split: "train", "val" or "test", the name of its folder.
        root: the folder that holds them, or the one above it.
        folder: what it is called there.
        size: pixels of a side to which images and masks are squeezed.

    Raises:
        InputError: where there is no pair, or a mask does not fit its image.
    """
    base = Path(root).expanduser()
    base = base / folder if (base / folder).is_dir() else base
    place = readable(base / split, f"split {split!r} of the images and masks")
    name = f"{written(base.resolve().name)}/{split}"
    coco = coco_file(place)
    if coco is not None:
        return split_of_coco(coco, name, size)
    pairs, _ = mask_pairs(place)
    names = named_classes(place) or named_classes(base)
    if not names:
        numbers = {int(v) for _, mask in pairs for v in np.unique(read_mask(mask))}
        names = {number: str(number) for number in sorted(numbers - {0, VOID})}
        if not names:  # black and white
            return split_of_pairs(pairs, {VOID: written(base.resolve().name)}, name, size, NO_VOID)
    return split_of_pairs(pairs, names, name, size)
