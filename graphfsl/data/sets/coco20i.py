"""`coco20i`: COCO-20i, the 80 classes of COCO in four folds of twenty.

Nguyen and Todorovic 2019, https://arxiv.org/abs/1909.13140. There are two conventions, whose
numbers cannot be compared: `order: interleaved` has every fourth class from the i-th on in fold i
(FWB, HSNet, BAM), `order: blocks` has twenty that follow each other (PANet).

Read from `<root>/coco` or `<root>`: `annotations/instances_{train,val}{2017,2014}.json` with the
images in `train2017` and `val2017` (or 2014). Polygons and RLE are drawn by pycocotools, smaller
objects over larger ones; crowds do not count.

`train` keeps images that show novel classes; these are background in it. `drop: true` leaves such
images out, as BAM does.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from graphfsl.core.arguments import whole_number
from graphfsl.data.coco_masks import label_map
from graphfsl.data.mask_files import of_arrays, read_image, squeezed
from graphfsl.data.split import Split
from graphfsl.io.checkpoint import read_json
from graphfsl.io.errors import InputError, require, unknown
from graphfsl.io.plain_text import one_line

FOLDS = 4
ORDERS = ("interleaved", "blocks")
YEARS = ("2017", "2014")


def fold_columns(fold: int, order: str, count: int = 80) -> list[int]:
    """Which of `count` classes, sorted by their id, are of a fold.

    Raises:
        InputError: for another fold or order.
    """
    require(fold in range(FOLDS), f"data.fold must be 0, 1, 2 or 3, not {fold!r}")
    if order not in ORDERS:
        raise unknown("data.order", order, ORDERS)
    if order == "interleaved":
        return list(range(fold, count, FOLDS))
    each = count // FOLDS
    return list(range(each * fold, each * (fold + 1)))


def columns_of(split: str, fold: int, order: str, count: int = 80) -> list[int]:
    """The classes of a split: `test` has those of the fold, `val` those of the next one.

    So nothing is selected on novel classes; `train` has the other half.

    Raises:
        InputError: for another split, fold or order.
    """
    novel = fold_columns(fold, order, count)
    held_out = fold_columns((fold + 1) % FOLDS, order, count)
    base = [c for c in range(count) if c not in novel and c not in held_out]
    found = {"train": base, "val": held_out, "test": novel}
    if split not in found:
        raise unknown("split", split, found)
    return found[split]


def load(
    split: str,
    root: str,
    fold: int = 0,
    order: str = "interleaved",
    size: int = 240,
    most: int = 5000,
    drop: bool = False,
) -> Split:
    """One split of a fold.

    Args:
        split: "train", "val" or "test"; the images of the first two are COCO's training images, and
            those of the last COCO's validation images.
        root: the folder that holds COCO, or COCO itself.
        fold: 0 to 3.
        order: "interleaved" or "blocks".
        size: pixels of a side to which images are squeezed.
        most: images of a split, the first ones that show its classes; 5,000 take 1.4 GB.
        drop: leave out training images that show a class of another split.

    Raises:
        InputError: where files or pycocotools are not there, or an annotation cannot be read.
    """
    size, most = whole_number(size, "data.size", 1), whole_number(most, "data.most", 1)
    base = Path(root).expanduser()
    base = base / "coco" if (base / "coco").is_dir() else base
    file, folder = _files(base, "val" if split == "test" else "train")
    given = read_json(file)
    try:
        numbers = sorted(int(c["id"]) for c in given["categories"])
        names = {int(c["id"]): one_line(str(c["name"])) for c in given["categories"]}
        objects: dict[Any, list[Mapping[str, Any]]] = {i["id"]: [] for i in given["images"]}
        for thing in given["annotations"]:
            objects[thing["image_id"]].append(thing)
        files = {i["id"]: str(i["file_name"]) for i in given["images"]}
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{file} is no COCO file of instances ({type(error).__name__}: {error})"
        ) from None
    require(
        len(numbers) % FOLDS == 0,
        f"{file} has {len(numbers)} classes, and COCO-20i has 80; four folds need a multiple of 4",
    )
    wanted = [numbers[c] for c in columns_of(split, fold, order, len(numbers))]
    columns = {number: column for column, number in enumerate(wanted)}
    images: list[np.ndarray] = []
    maps: list[np.ndarray] = []
    for key, things in objects.items():
        shown = {int(thing["category_id"]) for thing in things}
        foreign = shown - set(wanted)
        if len(images) == most or not shown & set(wanted) or (drop and split != "test" and foreign):
            continue
        image = read_image(folder / files[key])
        labels = label_map(things, columns, image.shape[1:], f"{file}: image {key}")
        small, small_labels = squeezed(image, labels, size)
        images.append(small)
        maps.append(small_labels)
    name = f"coco20i/{split}-{fold}-{order}"
    require(images, f"{name}: no image shows a class of this split")
    return of_arrays(np.stack(images), np.stack(maps), [names[n] for n in wanted], name)


def _files(base: Path, part: str) -> tuple[Path, Path]:
    """The annotations and the folder of images of "train" or "val"."""
    for year in YEARS:
        file = base / "annotations" / f"instances_{part}{year}.json"
        if file.is_file():
            return file, base / f"{part}{year}"
    raise InputError(
        f"no COCO in {base}: it needs annotations/instances_{part}2017.json and the images in "
        f"{part}2017"
    )
