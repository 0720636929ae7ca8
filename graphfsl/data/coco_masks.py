"""Masks in a COCO file: polygons and RLE, which pycocotools draws."""

from __future__ import annotations

import importlib
import json
from collections import Counter
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
    names. stated: (width, height) that the file says, 0 where it does not.
    """

    things: Sequence[Mapping[str, Any]]
    columns: Mapping[Any, int]
    where: str
    stated: tuple[int, int] = (0, 0)

    def __str__(self) -> str:
        return self.where

    def drawn(self, size: Sequence[int]) -> np.ndarray:
        """The class of every pixel of the image, of (H, W) pixels; see `label_map`.

        Raises:
            InputError: where the file says another size, or a segmentation cannot be read.
        """
        wrong = other_size(self.stated, (size[1], size[0]))
        require(not wrong, f"{self.where} {wrong}")
        return label_map(self.things, self.columns, size, self.where)


@dataclass(frozen=True)
class CocoImage:
    """An image of a COCO file: its name, and the width and height that the file says, or 0."""

    name: str
    stated: tuple[int, int]


def read_coco(
    file: Path,
) -> tuple[dict[Any, str], dict[Any, CocoImage], list[Mapping[str, Any]]]:
    """The names of classes and the images by their numbers, and the annotations, of a COCO file.

    Raises:
        InputError: for another file, and for one in which two images, or two classes, share a
            number or a name.
    """
    try:
        given: Any = json.loads(read_regular(file))
        names = {c["id"]: one_line(str(c["name"])) for c in given["categories"]}
        images = {i["id"]: _image_of(i) for i in given["images"]}
        things: list[Mapping[str, Any]] = [dict(thing) for thing in given["annotations"]]
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise InputError(
            f"{file} is no COCO file with images, annotations and categories "
            f"({type(error).__name__}: {error})"
        ) from None
    for part, found in (("images", images), ("categories", names)):
        require(
            len(found) == len(given[part]),
            f"{file}: two {part} share an id, so that what is annotated with it is of either; "
            "number them anew",
        )
    odd = [number for number in names if not isinstance(number, (int, float, str))]
    require(not odd, f"{file}: the id of a category must be a number or a text, not {odd[:1]}")
    same = [name for name, count in Counter(i.name for i in images.values()).items() if count > 1]
    require(
        not same,
        f"{file}: two images are the file {(same or [''])[0]!r}, and what is annotated in one is "
        "background in the other; put all annotations of a file under one id",
    )
    twice = [name for name, count in Counter(names.values()).items() if count > 1]
    require(
        not twice,
        f"{file}: two categories are called {min(twice, default='')!r}; give them names of their "
        "own, or one number",
    )
    return names, images, things


def _image_of(given: Mapping[str, Any]) -> CocoImage:
    sides = [int(given.get(side) or 0) for side in ("width", "height")]
    return CocoImage(str(given["file_name"]).replace("\\", "/"), (sides[0], sides[1]))


def names_both(
    thing: Mapping[str, Any], images: Mapping[Any, CocoImage], names: Mapping[Any, str]
) -> bool:
    """Whether an annotation is of an image and a class that its file has."""
    try:
        return thing.get("image_id") in images and thing.get("category_id") in names
    except TypeError:  # a list or a mapping is no number
        return False


def other_size(stated: Sequence[int], size: Sequence[int]) -> str:
    """What is wrong where an annotation says another size than its image has; "" where nothing is.

    Places of another size fit no image. Sides that are 0 are not said.

    Args:
        stated: (width, height) in the annotation.
        size: (width, height) of the image, upright.
    """
    if 0 in stated or tuple(stated) == tuple(size):
        return ""
    return (
        f"was annotated at {stated[0]} x {stated[1]} pixels, but the image has "
        f"{size[0]} x {size[1]}, upright by its EXIF tag; annotate the image as it is"
    )


def coco_file_of(place: Path) -> Path | None:
    """The COCO file that a folder holds, in it or in its `annotations`; a file is its own.

    Where there are several, that of the instances is taken (`instances_train2017.json`).

    Raises:
        InputError: where there are several still.
    """
    if place.is_file():
        return place
    for folder in (place, place / "annotations"):
        files = sorted(f for f in folder.glob("*.json") if not f.name.startswith("."))
        instances = [f for f in files if f.name.startswith("instances")]
        files = instances if instances else files
        if len(files) > 1:
            raise InputError(
                f"{folder} holds {len(files)} JSON files ({files[0].name}, {files[1].name}, …), "
                "and one is read; name that file, or remove the others"
            )
        if files:
            return files[0]
    return None


def coco_image(file: Path, name: str) -> Path | None:
    """Where an image of a COCO file lies; None where it is not found.

    It lies beside the file, in `images`, or as COCO has it: beside `annotations`, in `train2017` or
    `images/train2017` for `instances_train2017.json`.
    """
    here, above = file.parent, file.parent.parent
    part = file.stem.split("_")[-1]
    folders = [here, here / "images", above / "images"]
    if here.name == "annotations":
        folders += [above / part, above / "images" / part, above]
    return next((folder / name for folder in folders if (folder / name).is_file()), None)


def coco_pairs(file: Path) -> tuple[list[tuple[Path, CocoMask]], list[str]]:
    """The images of a COCO file with what is drawn on each, and the names of its classes.

    Images lie where `coco_image` looks; those without annotations are of background alone.

    Raises:
        InputError: for another file, an annotation of an unknown image or class, and an image that
            is not there.
    """
    names, images, things = read_coco(file)
    of_image: dict[Any, list[Mapping[str, Any]]] = {number: [] for number in images}
    for thing in things:
        require(
            names_both(thing, images, names),
            f"{file}: annotation {thing.get('id')} is of image {thing.get('image_id')!r} and class "
            f"{thing.get('category_id')!r}, and the file does not have both",
        )
        of_image[thing["image_id"]].append(thing)
    in_order = sorted(names, key=lambda number: (isinstance(number, str), number))  # text is last
    columns = {number: column for column, number in enumerate(in_order)}
    pairs = []
    for number, image in images.items():
        name = image.name
        path = coco_image(file, name)
        if path is None:
            raise InputError(f"{file} names {name}, which lies neither beside it nor in `images`")
        where = f"{file}: image {name}"
        pairs.append((path, CocoMask(of_image[number], columns, where, image.stated)))
    return pairs, [names[number] for number in in_order]


def label_map(
    things: Sequence[Mapping[str, Any]],
    columns: Mapping[Any, int],
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
        codes = [_code_of(coder, thing, height, width) for thing in things]
        # the areas that a file says may be of the box, or missing
        order = np.argsort([-int(coder.area(code)) for code in codes], kind="stable")
        for place in order:
            thing = things[place]
            column = columns.get(thing["category_id"], BACKGROUND)
            mask = coder.decode(codes[place]) > 0
            found[mask] = IGNORED if thing.get("iscrowd", 0) else column
    except Exception as error:  # pycocotools raises nothing more special
        raise InputError(
            f"{where} has a segmentation that is neither polygons nor RLE of its size "
            f"({type(error).__name__}: {error})"
        ) from None
    return found


def _code_of(coder: Any, thing: Mapping[str, Any], height: int, width: int) -> Any:
    """The RLE of one annotation of an image."""
    drawn = thing.get("segmentation")
    if not drawn:
        raise ValueError("an annotation has no segmentation, but a box at most")
    if isinstance(drawn, Mapping):
        packed = isinstance(drawn["counts"], str)
        found = drawn if packed else coder.frPyObjects(drawn, height, width)
    else:
        # two corners enclose nothing, and pycocotools would read their four numbers as a box
        polygons = [polygon for polygon in drawn if len(polygon) >= 6]
        if not polygons:
            raise ValueError("an annotation has no polygon of three corners")
        found = coder.merge(coder.frPyObjects(polygons, height, width))
    if list(found["size"]) != [height, width]:
        raise ValueError(f"it is of {found['size'][1]} x {found['size'][0]} pixels")
    return found


def _coder() -> Any:
    try:
        return importlib.import_module("pycocotools.mask")
    except ImportError:
        raise InputError("masks of COCO need pycocotools: pip install graphfsl[coco]") from None
