"""A user's own images: one folder for each class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from graphfsl.data.images import (
    Files,
    image_paths,
    read_folder_classes,
    read_images,
    subfolders,
    written,
)
from graphfsl.data.pixel_range import check_range
from graphfsl.data.split import Split
from graphfsl.io.errors import InputError, require, unknown

SPLITS = ("train", "val", "test")


def load(
    split: str,
    root: str,
    size: int = 84,
    color: bool = True,
    fractions: Sequence[float] = (0.6, 0.2, 0.2),
    range: Sequence[float] | None = None,
) -> Split:
    """One split of a folder of images, (3 or 1) x size x size; it may be read-only.

    Two layouts are known. In root/<split>/<class>/… there are folders named train, val and test,
    those that are needed. No class may be in two of them: a class that was seen in training makes
    no few-shot task. In root/<class>/… the class names, sorted, are cut into train, val and test by
    `fractions`, at least 2 classes for each that is not 0. So [0, 0, 1] makes every class a test
    class, for a user who only evaluates.

    Images may lie at any depth below their class; hidden files and folders are passed over. A
    folder `unlabeled` beside the class folders (or in `root`, then for every split) holds images
    without labels: they come last, with y = -1.

    Args:
        split: "train", "val" or "test".
        root: the folder, in one of these layouts.
        size: pixels of a side, to which every image is squeezed.
        color: false makes them gray.
        fractions: the shares of the classes that train, val and test get, where root has no such
            folders.
        range: the values of black and of white in every file, [0, 4095] for 12 bits; without one
            they are those of the file's type: 255 for 8 bits, 65535 for 16, 1 for floats. A value
            outside is refused.
    """
    limits = check_range(range)
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)
    require(size >= 1, f"data.size must be a whole number of at least 1, not {size!r}")
    base = Path(root).expanduser()
    folders = {p.name: p for p in subfolders(base)} if base.is_dir() else {}
    by_split = {s: folders[s] for s in SPLITS if s in folders}
    # A class may be called "train": a split holds folders, or has no folders but splits beside it.
    if by_split and (
        not set(folders) - {*SPLITS, "unlabeled"} or any(map(subfolders, by_split.values()))
    ):
        own = _split_folder(base, by_split, split)
        classes = read_folder_classes(own)
    else:
        own, every = base, read_folder_classes(base)
        classes = {name: every[name] for name in _share(list(every), fractions, split, base)}
    require(
        len(classes) >= 2,
        f"{own} holds only the class {next(iter(classes))!r}; an episode needs at least 2 classes",
    )
    pool = next(
        (image_paths(p / "unlabeled") for p in (own, base) if (p / "unlabeled").is_dir()), []
    )
    groups = [*classes.values(), pool]
    names = [path.relative_to(base).as_posix() for group in groups for path in group]
    x = read_images(Files(base, names), names, size, 3 if color else 1, f"folder/{split}", limits)
    y = np.repeat([*np.arange(len(classes)), -1], [len(group) for group in groups])
    return Split(
        torch.from_numpy(x),
        torch.from_numpy(y),
        tuple(classes),
        f"{written(base.resolve().name)}/{split}",
    )


def _split_folder(base: Path, folders: dict[str, Path], split: str) -> Path:
    """The folder of a split, once it is known that no other split has a class of it."""
    require(
        split in folders,
        f"{base} has {', '.join(f'{s}/' for s in folders)} but no {split}/ with folders of classes",
    )
    own = {p.name for p in subfolders(folders[split])} - {"unlabeled"}
    for other in set(folders) - {split}:
        if both := own & {p.name for p in subfolders(folders[other])}:
            raise InputError(
                f"{base}: class {min(both)!r} is in {other}/ and in {split}/; "
                f"splits must share no class"
            )
    return folders[split]


def _share(names: list[str], fractions: Sequence[float], split: str, base: Path) -> list[str]:
    """Which of the sorted class names are a split's.

    The first split that is not 0 takes what rounding leaves.
    """
    require(
        len(fractions) == 3 and min(fractions) >= 0 and abs(sum(fractions) - 1) <= 1e-6,
        f"data.fractions must be 3 shares (train, val, test) that sum to 1, not {list(fractions)}",
    )
    require(
        fractions[SPLITS.index(split)] > 0,
        f"data.fractions gives no class to {split}; its share of {list(fractions)} must be above 0",
    )
    counts = [max(2, round(f * len(names))) if f else 0 for f in fractions]
    first = next(k for k, f in enumerate(fractions) if f)
    counts[first] += len(names) - sum(counts)
    if counts[first] < 2:
        parts = " + ".join(s for s, f in zip(SPLITS, fractions, strict=True) if f)
        raise InputError(
            f"{base} holds {len(names)} classes "
            f"({', '.join(names[:3])}{', …' * (len(names) > 3)}), too few for "
            f"{parts} of 2 each; add classes, or evaluate only, with data.fractions=[0,0,1]"
        )
    start = sum(counts[: SPLITS.index(split)])
    return names[start : start + counts[SPLITS.index(split)]]
