"""Masks in a COCO file: polygons and RLE, which pycocotools draws."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from graphfsl.data.scenes import BACKGROUND, IGNORED
from graphfsl.io.errors import InputError, require
from graphfsl.io.files import read_regular
from graphfsl.io.plain_text import one_line


@dataclass(frozen=True)
class CocoMask:
    """The annotations of one image.

    things: as the file has them. columns: number of a category -> class. where: what an error
    names.
    """

    things: Sequence[Mapping[str, Any]]
    columns: Mapping[int, int]
    where: str

    def __str__(self) -> str:
        return self.where

    def drawn(self, size: Sequence[int]) -> np.ndarray:
        """The class of every pixel of the image, of (H, W) pixels; see `label_map`."""
        return label_map(self.things, self.columns, size, self.where)


def read_coco(file: Path) -> tuple[dict[Any, str], dict[Any, str], list[Mapping[str, Any]]]:
    """The names of classes and of images by their numbers, and the annotations, of a COCO file.

    Raises:
        InputError: for another file.
    """
    try:
        given: Any = json.loads(read_regular(file))
        names = {c["id"]: one_line(str(c["name"])) for c in given["categories"]}
        images = {i["id"]: str(i["file_name"]) for i in given["images"]}
        return names, images, list(given["annotations"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{file} is no COCO file with images, annotations and categories "
            f"({type(error).__name__}: {error})"
        ) from None


def coco_pairs(file: Path) -> tuple[list[tuple[Path, CocoMask]], list[str]]:
    """The images of a COCO file with what is drawn on each, and the names of its classes.

    Images lie beside the file or in `images`; those without annotations are of background alone.

    Raises:
        InputError: for another file, an annotation of an unknown image or class, and an image that
            is not there.
    """
    names, images, things = read_coco(file)
    of_image: dict[Any, list[Mapping[str, Any]]] = {number: [] for number in images}
    for thing in things:
        image, category = thing.get("image_id"), thing.get("category_id")
        require(
            image in images and category in names,
            f"{file}: annotation {thing.get('id')} is of image {image!r} and class {category!r}, "
            "and the file does not have both",
        )
        of_image[image].append(thing)
    columns = {number: column for column, number in enumerate(sorted(names))}
    pairs = []
    for number, name in images.items():
        folders = (file.parent, file.parent / "images")
        path = next((folder / name for folder in folders if (folder / name).is_file()), None)
        if path is None:
            raise InputError(f"{file} names {name}, which lies neither beside it nor in `images`")
        pairs.append((path, CocoMask(of_image[number], columns, f"{file}: image {name}")))
    return pairs, [names[number] for number in columns]


def label_map(
    things: Sequence[Mapping[str, Any]],
    columns: Mapping[int, int],
    size: Sequence[int],
    where: str,
) -> np.ndarray:
    """The class of every pixel (H, W) of an image; smaller objects lie over larger ones.

    Args:
        things: its annotations, with polygons or RLE; a crowd does not count.
        columns: number of a category -> class; others are background.
        size: (H, W).
        where: what an error names.

    Raises:
        InputError: where a segmentation cannot be read.
    """
    coder = _coder()
    height, width = size
    found = np.full((height, width), BACKGROUND, np.int16)
    try:
        for thing in sorted(things, key=lambda t: -float(t.get("area", 0))):
            drawn = thing["segmentation"]
            packed = isinstance(drawn, Mapping) and isinstance(drawn["counts"], str)
            rle = drawn if packed else coder.frPyObjects(drawn, height, width)
            mask = coder.decode(coder.merge(rle) if isinstance(rle, list) else rle) > 0
            column = columns.get(int(thing["category_id"]), BACKGROUND)
            found[mask] = IGNORED if thing.get("iscrowd", 0) else column
    except Exception as error:  # pycocotools raises nothing more special
        raise InputError(
            f"{where} has a segmentation that is neither polygons nor RLE of its size ({error})"
        ) from None
    return found


def _coder() -> Any:
    try:
        return importlib.import_module("pycocotools.mask")
    except ImportError:
        raise InputError("masks of COCO need pycocotools: pip install graphfsl[coco]") from None
