"""FC100: 60/20/20 classes of CIFAR-100 for train, val and test (https://arxiv.org/abs/1805.10123).

Oreshkin et al. 2018 put no superclass into two of them.
"""

from __future__ import annotations

from graphfsl.data import cifar
from graphfsl.data.split import Split


def load(split: str, root: str, download: bool = False) -> Split:
    """One split of FC100, 3 x 32 x 32; the superclass of a class is CIFAR-100's.

    Oreshkin et al. 2018 put no superclass into two splits.

    Args:
        split: "train", "val" or "test".
        root: holds `fc100/<split>.npz` (or `FC100/`, or is that folder; the layout of the data set
            `arrays`), else CIFAR-100 as `cifar-100-binary` or torchvision's `cifar-100-python`.
            Classes and samples come in the same order from each of them.
        download: fetch CIFAR-100 (169 MB) into `root` where neither is there.
    """
    return cifar.load("fc100", split, root, ("fc100", "FC100"), fetch_missing=download)


download = cifar.download
