"""KMNIST: ten characters of cursive Japanese (Clanuwat et al. 2018, https://arxiv.org/abs/1812.01718)."""

from __future__ import annotations

from graphfsl.data.idx_files import read_idx_split
from graphfsl.data.split import Split

DRAWINGS = True  # ink is bright on black
CLASSES = "おきすつなはまやれを"


def load(split: str, root: str, size: int = 28) -> Split:
    """One split of KMNIST, 1 x size x size: characters.

    Args:
        split: "train" or "test".
        root: the folder of MNIST's files (`t10k-images-idx3-ubyte.gz` and the like), or the one
            above it.
        size: pixels of a side.
    """
    folders = ("kmnist", "KMNIST/raw")
    return read_idx_split("kmnist", split, root, folders, CLASSES, size)
