"""`boxes`: a user's own images with boxes, as VOC's XML, COCO's JSON or YOLO's text.

Read from `<root>/train`, `val` and `test`, where these are folders, else from `<root>` for all
splits. `novel` names the classes of `val` and `test`, all others are those of `train`; in each
split the objects of the others' classes are not annotated, as in TFA's base training.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from graphfsl.core.arguments import whole_number
from graphfsl.data.box_files import BoxedImage, read_boxes, size_of
from graphfsl.data.images import written
from graphfsl.data.mask_files import read_image
from graphfsl.data.scenes import Objects, SceneSplit
from graphfsl.data.split import Split, readable
from graphfsl.io.errors import require, unknown

SPLITS = ("train", "val", "test")
LISTED = 3  # lines about what was left out


def load(
    split: str,
    root: str,
    folder: str = "",
    size: int | None = None,
    novel: Sequence[str] = (),
) -> Split:
    """One split.

    Args:
        split: "train", "val" or "test".
        root: the folder of the images and boxes, or the one above it.
        folder: what it is called there.
        size: pixels of a side to which images are squeezed; None takes images of one size as they
            are, and 480 for others.
        novel: the classes of `val` and `test`; none where all splits have all classes.

    Raises:
        InputError: where there are no boxes, or a class that is named does not occur.
    """
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)
    base = Path(root).expanduser()
    base = base / folder if (base / folder).is_dir() else base
    place = base / split if (base / split).is_dir() else base
    found, skipped = read_boxes(readable(place, "the folder of boxes"))
    if skipped:
        more = f", and {len(skipped) - LISTED} more" if len(skipped) > LISTED else ""
        warnings.warn(f"left out: {'; '.join(skipped[:LISTED])}{more}", stacklevel=2)
    every = sorted({name for image in found for name in image.shown})
    missing = [name for name in novel if name not in every]
    own_folder = split == "train" and place != base  # which need not show what is novel
    require(not missing or own_folder, f"data.novel names {missing}, but the classes are {every}")
    mine = [n for n in every if not novel or (n in novel) == (split != "train")]
    require(mine, f"{place}: no class is left for split {split!r}")
    name = f"{written(base.resolve().name)}/{split}"
    return split_of_boxes(found, mine, name, size)


def split_of_boxes(
    found: Sequence[BoxedImage], classes: Sequence[str], name: str, size: int | None
) -> SceneSplit:
    """The split of images with boxes, of these classes alone."""
    if size is None and len({size_of(image.path) for image in found}) > 1:
        size = 480
    images, objects = [], []
    for image in found:
        pixels = read_image(image.path)
        mine = image.objects(classes)
        if size is not None:
            side = whole_number(size, "data.size", 1)
            height, width = pixels.shape[1:]
            small = Image.fromarray(pixels.transpose(1, 2, 0)).resize((side, side))
            pixels = np.asarray(small).transpose(2, 0, 1)
            scale = np.array([side / width, side / height] * 2, np.float32)
            mine = Objects(mine.boxes * scale, mine.labels, mine.difficult, mine.crowd)
        images.append(pixels)
        objects.append(mine)
    x = torch.from_numpy(np.ascontiguousarray(np.stack(images)))
    labels = torch.full((len(x),), -1)
    return SceneSplit(x, labels, tuple(classes), name, objects=tuple(objects))
