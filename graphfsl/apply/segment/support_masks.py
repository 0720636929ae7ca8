"""The labeled images of `graphfsl segment`: what their masks name, and what cannot be used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from graphfsl.data.coco_masks import coco_pairs
from graphfsl.data.mask_files import (
    NAMES,
    VOID,
    coco_file,
    in_black_and_white,
    is_white_on_black,
    mask_pairs,
    named_classes,
    read_image,
    read_mask,
)
from graphfsl.data.pixel_range import Range
from graphfsl.data.scenes import BACKGROUND, IGNORED
from graphfsl.io.errors import require
from graphfsl.io.plain_text import one_line


@dataclass(frozen=True)
class SupportMasks:
    """Images with label maps of one set of classes.

    Args:
        images: (channels, H, W) uint8 each, of their own sizes.
        maps: (H, W) int16 each: the class of every pixel, BACKGROUND or IGNORED.
        classes: their names.
        files: where each image is from.
        skipped: what was not used, a line each.
        numbers: of the classes in masks of bytes; 1, 2, … where none are given or one is too large.
    """

    images: Sequence[np.ndarray]
    maps: Sequence[np.ndarray]
    classes: Sequence[str]
    files: Sequence[Path]
    skipped: Sequence[str]
    numbers: Sequence[int] = ()

    def __post_init__(self) -> None:
        count = len(self.classes)
        require(
            count < VOID, f"{count} classes are too many: a mask holds numbers from 1 to {VOID - 1}"
        )
        if not self.numbers or max(self.numbers) >= VOID:
            object.__setattr__(self, "numbers", range(1, count + 1))


def read_support(folder: Path, channels: int = 3, limits: Range | None = None) -> SupportMasks:
    """The labeled images of a folder (`mask_files.mask_pairs` says how they lie).

    A mask holds one number for each pixel: 0 is the background, 255 does not count where there are
    others, and is the class where there are none. `classes.txt` in the folder names the numbers:
    "1 car" on a line; without it a single class has the folder's name. A folder of images with one
    COCO file is read by what that file draws and names.

    Args:
        folder: of images and masks.
        channels: that the images are read in.
        limits: which values are black and white, see `images.to_bytes`.

    Raises:
        InputError: where no mask shows a class, where one shows a number that classes.txt lacks,
            and where masks are white alone, which may be any of several names there.
    """
    coco = coco_file(folder)
    if coco is not None:
        return _support_of_coco(coco, channels, limits)
    pairs, alone = mask_pairs(folder)
    skipped = [f"{path}: no mask of its name" for path in alone]
    images, masks, files = [], [], []
    for image_file, mask_file in pairs:
        image = read_image(image_file, channels, limits)
        mask = read_mask(mask_file, image.shape[1:])
        values = np.unique(mask)
        if not (values != 0).any():
            skipped.append(f"{mask_file}: it is empty, and shows no class")
            continue
        images.append(image)
        masks.append(mask)
        files.append(image_file)
    require(
        images,
        f"no mask in {folder} shows a class: each is empty; number the pixels of a class 1, or "
        "draw it in white",
    )
    named = named_classes(folder)
    if not named and is_white_on_black(masks):
        masks = [in_black_and_white(mask) for mask in masks]
    numbers = sorted({int(v) for mask in masks for v in np.unique(mask)} - {0, VOID})
    names = _names(folder, named, numbers)
    lookup = {number: column for column, number in enumerate(names)}
    maps = [_map_of(mask, lookup, bool(numbers)) for mask in masks]
    own = list(names)
    if not numbers:  # white is of the one class that classes.txt names, or of number 1
        own = list(named) or [1]
    return SupportMasks(images, maps, list(names.values()), files, skipped, own)


def _support_of_coco(file: Path, channels: int, limits: Range | None) -> SupportMasks:
    pairs, names = coco_pairs(file)
    skipped, images, maps, files = [], [], [], []
    for path, mask in pairs:
        image = read_image(path, channels, limits)
        drawn = mask.drawn(image.shape[1:])
        if not (drawn >= 0).any():
            skipped.append(f"{mask}: nothing is drawn on it, so that it shows no class")
            continue
        images.append(image)
        maps.append(drawn)
        files.append(path)
    require(images, f"{file} draws no class on any image")
    shown = sorted({int(c) for drawn in maps for c in np.unique(drawn[drawn >= 0])})
    lookup = {old: new for new, old in enumerate(shown)}
    own = [_renumbered(drawn, lookup) for drawn in maps]
    return SupportMasks(images, own, [names[c] for c in shown], files, skipped)


def _renumbered(drawn: np.ndarray, columns: Mapping[int, int]) -> np.ndarray:
    """A label map whose classes have other numbers."""
    found = drawn.copy()
    for old, new in columns.items():
        found[drawn == old] = new
    return found


def _map_of(mask: np.ndarray, columns: Mapping[int, int], has_numbers: bool) -> np.ndarray:
    """Numbers of a mask file (H, W) -> a label map."""
    found = np.full(mask.shape, BACKGROUND, np.int16)
    for number, column in columns.items():
        found[mask == number] = column
    if has_numbers:
        found[mask == VOID] = IGNORED
    return found


def _names(folder: Path, named: Mapping[int, str], numbers: Sequence[int]) -> dict[int, str]:
    """Number in the masks -> class, by what is `named`; without numbers white is the one class."""
    own = one_line(folder.resolve().name)
    if not named:
        if not numbers:
            return {VOID: own}
        return {n: own if len(numbers) == 1 else str(n) for n in numbers}
    missing = [n for n in numbers if n not in named]
    require(not missing, f"the masks hold {missing[:5]}, which {folder / NAMES} does not name")
    require(
        numbers or len(named) == 1,
        f"the masks hold nothing but {VOID}, which is white and shows one class, but "
        f"{folder / NAMES} names {len(named)}; draw each class in its number, or name one",
    )
    if not numbers:
        return {VOID: next(iter(named.values()))}
    return {n: named[n] for n in numbers}
