"""Arrays in npz files: images or features, one file for each split, in the layout of CIFAR-FS."""

from __future__ import annotations

from collections.abc import Sequence

from graphfsl.data.npz_files import read_split
from graphfsl.data.split import Split


def load(split: str, root: str, folder: str = "", range: Sequence[float] | None = None) -> Split:
    """One split of images or features in npz files.

    It is `<root>/<folder>/<split>.npz`, or `<root>/<split>.npz` where root is that folder itself,
    with the arrays

        images        (n, H, W, 3) or (n, H, W) uint8, uint16 or floats in [0, 1], or
        features      (n, d) floats
        labels        (n,) integers, -1 = unlabeled
        class_names   (classes,), optional
        superclasses  (classes,), optional

    Args:
        split: "train", "val" or "test".
        root: the folder of the files, or the one above it.
        folder: what it is called there.
        range: the values of black and of white, where they are not those of the images' type: [0,
            4095] for 12 bits.
    """
    return read_split(split, root, folder, range)
