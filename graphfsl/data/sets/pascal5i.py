"""`pascal5i`: PASCAL-5i, the 20 classes of VOC 2012 in four folds of five.

Shaban et al. 2017, https://arxiv.org/abs/1709.03410. Fold i holds out the classes 5i + 1 to 5i + 5
in alphabetical order. Read from `<root>/VOCdevkit/VOC2012` or `<root>/VOC2012`: `JPEGImages`, and
`SegmentationClassAug` (with the masks of SBD) or `SegmentationClass`; the names of the images are
those of `ImageSets/Segmentation/{train,val}.txt`, or of `trainaug.txt` where there is one.

`train` keeps images that show novel classes; these are background in it, as PANet, PFENet and HSNet
have it. `drop: true` leaves such images out, as BAM does, which is worth about 3 points.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from graphfsl.data.mask_files import VOID, read_mask, split_of_pairs
from graphfsl.data.split import Split, readable
from graphfsl.io.errors import require, unknown

CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)
FOLDS, EACH = 4, 5


def fold_classes(fold: int) -> list[int]:
    """The numbers in VOC's masks of the classes of a fold."""
    return list(range(EACH * fold + 1, EACH * fold + EACH + 1))


def classes_of(split: str, fold: int) -> list[int]:
    """The numbers of a split's classes.

    `test` are those of the fold; `val` those of the next one, so that nothing is selected on novel
    classes; `train` the other ten.

    Raises:
        InputError: for another split or fold.
    """
    require(fold in range(FOLDS), f"data.fold must be 0, 1, 2 or 3, not {fold!r}")
    held_out = (fold + 1) % FOLDS
    base = [f for f in range(FOLDS) if f not in (fold, held_out)]
    found = {
        "train": [n for f in base for n in fold_classes(f)],
        "val": fold_classes(held_out),
        "test": fold_classes(fold),
    }
    if split not in found:
        raise unknown("split", split, found)
    return found[split]


def load(split: str, root: str, fold: int = 0, size: int = 240, drop: bool = False) -> Split:
    """One split of a fold.

    Args:
        split: "train", "val" or "test"; the images of the first two are VOC's training images, and
            those of the last VOC's validation images.
        root: the folder that holds VOC2012.
        fold: 0 to 3.
        size: pixels of a side to which images are squeezed.
        drop: leave out training images that show a class of another split.

    Raises:
        InputError: where files are not there.
    """
    numbers = classes_of(split, fold)
    base = Path(root).expanduser()
    places = (base / "VOCdevkit" / "VOC2012", base / "VOC2012", base)
    voc = next((p for p in places if (p / "JPEGImages").is_dir()), places[0])
    masks = voc / "SegmentationClassAug"
    masks = masks if masks.is_dir() else voc / "SegmentationClass"
    lists = readable(voc / "ImageSets" / "Segmentation", "VOC 2012")
    file = lists / ("val.txt" if split == "test" else "trainaug.txt")
    file = file if file.is_file() else lists / "train.txt"
    pairs = []
    foreign = set(range(1, len(CLASSES) + 1)) - set(numbers)
    for stem in readable(file, "the list of images").read_text(encoding="utf-8").split():
        mask = masks / f"{stem}.png"
        shown = set(np.unique(read_mask(mask)).tolist())
        if shown & set(numbers) and not (drop and split != "test" and shown & foreign):
            pairs.append((voc / "JPEGImages" / f"{stem}.jpg", mask))
    names = {n: CLASSES[n - 1] for n in numbers}
    return split_of_pairs(pairs, names, f"pascal5i/{split}-{fold}", size, VOID, background=foreign)
