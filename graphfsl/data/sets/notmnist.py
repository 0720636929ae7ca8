"""notMNIST: the letters A to J of fancy typefaces (Bulatov 2011)."""

from __future__ import annotations

from graphfsl.data.idx_files import read_idx_split
from graphfsl.data.split import Split

DRAWINGS = True  # ink is bright on black
CLASSES = "ABCDEFGHIJ"


def load(split: str, root: str, size: int = 28) -> Split:
    """One split of notMNIST, 1 x size x size: letters; some labels are wrong.

    Args:
        split: "train" or "test".
        root: the folder of MNIST's files (`t10k-images-idx3-ubyte.gz` and the like), or the one
            above it.
        size: pixels of a side.
    """
    folders = ("notmnist-test", "notmnist", "notMNIST")
    return read_idx_split("notmnist", split, root, folders, CLASSES, size)
