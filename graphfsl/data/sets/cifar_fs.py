"""CIFAR-FS, 64/16/20 classes of CIFAR-100: train, val and test (https://arxiv.org/abs/1805.08136).

It is 600 photographs of 32 x 32 of each class; Bertinetto et al. 2019 chose which are for what.
"""

from __future__ import annotations

from graphfsl.data import cifar
from graphfsl.data.split import Split


def load(split: str, root: str, download: bool = False) -> Split:
    """One split of CIFAR-FS, 3 x 32 x 32; the superclass of a class is CIFAR-100's.

    There are 600 photographs of each class, as Bertinetto et al. 2019 divided them.

    Args:
        split: "train", "val" or "test".
        root: holds `cifar-fs/<split>.npz` (or `cifar_fs/`, or is that folder; the layout of the
            data set `arrays`), else CIFAR-100 as `cifar-100-binary` or torchvision's
            `cifar-100-python`. Classes and samples come in the same order from each of them.
        download: fetch CIFAR-100 (169 MB) into `root` where neither is there.
    """
    return cifar.load("cifar_fs", split, root, ("cifar-fs", "cifar_fs"), fetch_missing=download)


download = cifar.download
