"""`tinted_omniglot`: characters of Omniglot, each painted in eight hues.

A class is one character, whatever its hue: 10 drawings of each, on white paper, 3 x size x size.
The task `tinted` draws episodes in which hue goes along with class, or does not.
"""

from __future__ import annotations

import dataclasses

from graphfsl.data.sets import omniglot
from graphfsl.data.split import Split
from graphfsl.data.tinting import tinted_split

DRAWINGS_OF_A_CLASS = 10


def load(split: str, root: str, size: int = 28, classes: int = 120) -> Split:
    """One split of painted characters; the splits are Vinyals', without rotations.

    Args:
        split: "train", "val" or "test".
        root: as that of `omniglot`.
        size: pixels of a side.
        classes: how many characters are taken, evenly among those of the split.
    """
    drawings = omniglot.load(split, root, rotations=False, size=size)
    chosen = range(0, len(drawings.classes), max(1, len(drawings.classes) // classes))[:classes]
    place = {column: number for number, column in enumerate(chosen)}
    kept = [row for row, column in enumerate(drawings.y.tolist()) if column in place]
    some = dataclasses.replace(
        drawings,
        x=drawings.x[kept],
        y=drawings.y[kept].apply_(place.__getitem__),
        classes=tuple(drawings.classes[column] for column in chosen),
        groups=None if drawings.groups is None else tuple(drawings.groups[c] for c in chosen),
    )
    return tinted_split(some, "tinted_omniglot", DRAWINGS_OF_A_CLASS)
