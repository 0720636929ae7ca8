"""MNIST: ten digits by hand (LeCun et al. 1998, http://yann.lecun.com/exdb/mnist)."""

from __future__ import annotations

from graphfsl.data.idx_files import read_idx_split
from graphfsl.data.split import Split

DRAWINGS = True  # ink is bright on black
CLASSES = "0123456789"


def load(split: str, root: str, size: int = 28) -> Split:
    """One split of MNIST, 1 x size x size: digits.

    Args:
        split: "train" or "test".
        root: the folder of MNIST's files (`t10k-images-idx3-ubyte.gz` and the like), or the one
            above it.
        size: pixels of a side.
    """
    folders = ("mnist-test", "mnist", "MNIST/raw")
    return read_idx_split("mnist", split, root, folders, CLASSES, size)
