"""EMNIST: digits and letters by hand (Cohen et al. 2017, https://arxiv.org/abs/1702.05373)."""

from __future__ import annotations

from graphfsl.data.idx_files import read_idx_split
from graphfsl.data.split import Split
from graphfsl.io.errors import unknown

DRAWINGS = True  # ink is bright on black
UPPER = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
# the labels of "letters" begin with 1
CLASSES = {
    "balanced": f"0123456789{UPPER}abdefghnqrt",
    "letters": f"-{UPPER}",
    "digits": "0123456789",
}


def load(split: str, root: str, kind: str = "balanced", size: int = 28) -> Split:
    """One split of EMNIST, 1 x size x size, upright.

    Args:
        split: "train" or "test".
        root: the folder of the files (`emnist-balanced-test-images-idx3-ubyte.gz` and the like), or
            the one above it.
        kind: "balanced", 47 classes; "letters", 26; or "digits".
        size: pixels of a side.
    """
    if kind not in CLASSES:
        raise unknown("kind of EMNIST", kind, CLASSES)
    folders = ("emnist", "EMNIST/raw", "gzip")
    prefix = f"emnist-{kind}-"
    return read_idx_split(
        "emnist", split, root, folders, CLASSES[kind], size, prefix=prefix, turned=True
    )
