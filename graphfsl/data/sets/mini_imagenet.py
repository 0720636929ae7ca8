"""mini-ImageNet: 64/16/20 for train, val and test (https://openreview.net/forum?id=rJY0-Kcll).

It is 600 photographs of each of 100 ImageNet classes, as Ravi & Larochelle 2017 chose them.
"""

from __future__ import annotations

from graphfsl.data import class_folders
from graphfsl.data.split import Split
from graphfsl.io.errors import InputError

FOLDERS = ("mini_imagenet", "mini-imagenet", "miniImageNet", "miniimagenet", "MiniImagenet")
BY_HAND = (
    "ImageNet's licence allows no download from here, so by hand: get mini-ImageNet under the "
    "terms of "
    "https://image-net.org and put it at {root}/mini_imagenet/<split>/<wnid>/*.jpg, "
    "{root}/mini_imagenet/<wnid>/*.jpg "
    "or {root}/mini_imagenet/images/<wnid>*.jpg"
)


def load(split: str, root: str, download: bool = False, size: int = 84) -> Split:
    """One split of mini-ImageNet, 3 x size x size.

    It has 600 photographs of each of 100 ImageNet classes, as Ravi & Larochelle 2017 chose them.
    Vinyals et al. 2016 had other classes, so their numbers differ.

    Args:
        split: "train", "val" or "test".
        root: holds `mini_imagenet` (or a usual spelling of it) or is that folder: <split>/<wnid>/…,
            <wnid>/…, images/<wnid>/… or flat images/<wnid>….jpg, found by the class list whatever
            else is there.
        download: taken as every set takes it; where images are missing, the error says what to do
            by hand.
        size: pixels of a side, to which every image is squeezed.
    """
    return class_folders.load("mini_imagenet", split, root, size, FOLDERS, BY_HAND, at_most=600)


def download(root: str) -> None:
    """Refuse to fetch what has to be fetched by hand.

    Raises:
        InputError: always, with what to do.
    """
    raise InputError(BY_HAND.format(root=root))
