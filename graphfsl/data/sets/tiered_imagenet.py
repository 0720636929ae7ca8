"""tiered-ImageNet: 351/97/160 classes for train, val and test (https://arxiv.org/abs/1803.00676).

They are 608 ImageNet classes of 34 categories; Ren et al. 2018 put no category into two splits.
"""

from __future__ import annotations

from graphfsl.data import class_folders
from graphfsl.data.split import Split
from graphfsl.io.errors import InputError

FOLDERS = (
    "tiered_imagenet", "tiered-imagenet", "tieredImageNet", "tieredimagenet", "TieredImagenet",
    "ILSVRC2012", "ILSVRC/Data/CLS-LOC", "imagenet", "ImageNet",
)  # fmt: skip
BY_HAND = (
    "ImageNet's licence allows no download from here, so by hand: get tiered-ImageNet, or "
    "ILSVRC-2012 itself, under "
    "the terms of https://image-net.org and put it at "
    "{root}/tiered_imagenet/<split>/<wnid>/*.jpg or "
    "{root}/ILSVRC2012/train/<wnid>/*.JPEG"
)


def load(split: str, root: str, download: bool = False, size: int = 84) -> Split:
    """One split of tiered-ImageNet, 3 x size x size.

    The superclass of a class is its category, a WordNet id; Ren et al. 2018 put none of the 34 into
    two splits.

    Args:
        split: "train", "val" or "test".
        root: holds `tiered_imagenet` (or a usual spelling of it), or `ILSVRC2012` or `ImageNet`
            with ILSVRC's own `train`, or is such a folder: <split>/<wnid>/…, <wnid>/… or
            images/<wnid>/…, found by the class list.
        download: taken as every set takes it; where images are missing, the error says what to do
            by hand.
        size: pixels of a side, to which every image is squeezed.
    """
    return class_folders.load("tiered_imagenet", split, root, size, FOLDERS, BY_HAND)


def download(root: str) -> None:
    """Refuse to fetch what has to be fetched by hand.

    Raises:
        InputError: always, with what to do.
    """
    raise InputError(BY_HAND.format(root=root))
