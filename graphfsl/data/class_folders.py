"""Photographs in one folder for each class, by the published class lists.

They may lie wherever a user has them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from graphfsl.data.class_lists import classes_of
from graphfsl.data.images import Files, holds_image, read_images
from graphfsl.data.split import Split
from graphfsl.io.errors import InputError, require

WNID = 9  # characters of a WordNet id, with which a flat image file's name begins


def load(
    name: str,
    split: str,
    root: str,
    size: int,
    folders: Sequence[str],
    by_hand: str,
    at_most: int | None = None,
) -> Split:
    """One split of photographs, 3 x size x size.

    Its classes stand in the order of data/<name>.json and the images of a class by name.

    Args:
        name: of the data set.
        split: "train", "val" or "test".
        root: the folder that holds the data set.
        folders: what the set's folder in `root` may be called.
        by_hand: how to come by the images, with {root} for `root`.
        size: pixels of a side.
        at_most: images of a class, where more would mean another data set.

    Raises:
        InputError: where classes are missing, or a class has no image or too many.
    """
    require(size >= 1, f"data.size must be a whole number of at least 1, not {size!r}")
    classes, groups = classes_of(name, split)
    base = Path(root).expanduser()
    container, held = find(base, folders, split, classes)
    require(held, f"{name}/{split}: no images in {base}; {by_hand.format(root=base)}")
    if missing := [c for c in classes if c not in held]:
        raise InputError(
            f"{name}/{split}: {len(missing)} of {len(classes)} classes are missing in "
            f"{container}, {missing[0]!r} "
            f"first; {by_hand.format(root=base)}"
        )
    images = _images(container, classes)
    for c, own in images.items():
        require(
            own, f"{name}/{split}: class {c!r} has no image in {container}; fetch the set again"
        )
        if at_most and len(own) > at_most:
            raise InputError(
                f"{name}/{split}: class {c!r} has {len(own)} images in {container}, but {name} "
                f"has {at_most} of each "
                f"class; {by_hand.format(root=base)}"
            )
    names = [file for own in images.values() for file in own]
    try:
        files = Files(container, names)
    except OSError as error:
        raise InputError(
            f"{error.filename} cannot be read ({error.strerror}); replace or remove it"
        ) from None
    x = read_images(files, names, size, 3, f"{name}/{split}")
    y = torch.from_numpy(np.repeat(np.arange(len(classes)), [len(own) for own in images.values()]))
    return Split(x, y, tuple(classes), f"{name}/{split}", groups)  # type: ignore[arg-type]


def find(
    root: Path, folders: Sequence[str], split: str, classes: Sequence[str]
) -> tuple[Path, set[str]]:
    """The folder that holds most of the classes, and which it holds, as folders or flat files.

    `train` comes first, and wins only if it holds every class: in ILSVRC's own layout it holds
    those of all splits, while `val` holds other, fewer images of the same classes.

    Args:
        root: that folder, or one above it.
        folders: names that it is known by.
        split: whose classes they are.
        classes: their names.
    """
    best: tuple[Path, set[str]] = (root, set())
    for base in [root / folder for folder in folders] + [root]:
        for container in (base / "train", base / split, base / "images", base):
            try:
                entries = os.listdir(container)
            except OSError:  # not there, or not a folder
                continue
            held = set(classes).intersection(entries) or set(classes).intersection(
                e[:WNID] for e in entries
            )
            if len(held) > len(best[1]):
                best = container, held
            if len(held) == len(classes):
                return best
    return best


def _images(container: Path, classes: Sequence[str]) -> dict[str, list[str]]:
    """Class -> its image files: sorted paths in the container.

    They lie at any depth of its folder, or flat in the container.
    """
    images: dict[str, list[str]] = {c: [] for c in classes}
    if (container / classes[0]).is_dir():
        for c in classes:
            for top, _, files in os.walk(container / c):
                inside = Path(top).relative_to(container).as_posix()
                images[c] += [f"{inside}/{file}" for file in files]
    else:
        for file in os.listdir(container):
            if file[:WNID] in images:
                images[file[:WNID]].append(file)
    return {c: sorted(f for f in files if holds_image(container, f)) for c, files in images.items()}
