"""Images and the boxes of their objects in files: VOC's XML, COCO's JSON, YOLO's text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from graphfsl.data.coco_masks import read_coco
from graphfsl.data.images import SUFFIXES
from graphfsl.data.scenes import Objects
from graphfsl.io.errors import InputError, require
from graphfsl.io.files import read_regular
from graphfsl.io.plain_text import one_line

NAMES = "classes.txt"  # YOLO: the name of class k stands on line k


@dataclass(frozen=True)
class BoxedImage:
    """An image file and its objects, whose classes are still names.

    Args:
        path: of the image.
        boxes: (m, 4) left, top, right, bottom in pixels.
        names: (m,) the class of each.
        difficult: (m,) those that neither a hit nor a miss is counted of.
    """

    path: Path
    boxes: np.ndarray
    names: Sequence[str]
    difficult: np.ndarray

    def objects(self, classes: Sequence[str]) -> Objects:
        """Its objects of these classes alone."""
        rows = [i for i, name in enumerate(self.names) if name in classes]
        labels = np.array([list(classes).index(self.names[i]) for i in rows], np.int64)
        return Objects(self.boxes[rows], labels, self.difficult[rows])


def read_boxes(place: Path) -> tuple[list[BoxedImage], list[str]]:
    """The images of a folder, or of a COCO file, with their boxes.

    VOC: `JPEGImages` and `Annotations`, or XML files beside the images. YOLO: text files beside the
    images or in `labels` beside `images`, and `classes.txt`. COCO: a JSON file, or a folder with
    one JSON file; images lie beside it or in `images`.

    Args:
        place: the folder or the file.

    Returns:
        The images, and a line for each box or file that does not fit and is left out.

    Raises:
        InputError: where nothing of this kind is there.
    """
    require(place.exists(), f"{place} does not exist; give a folder with images and boxes")
    skipped: list[str] = []
    coco = [place] if place.is_file() else sorted(place.glob("*.json"))
    if coco:
        found = list(_of_coco(coco[0], skipped))
    elif xml := sorted((_or_itself(place, "Annotations")).glob("*.xml")):
        found = list(_of_voc(xml, _or_itself(place, "JPEGImages"), skipped))
    else:
        found = list(_of_yolo(place, skipped))
    if not found:
        why = f" ({skipped[0]})" if skipped else ""
        raise InputError(
            f"{place} holds no image with boxes{why}; known are VOC's XML, COCO's JSON and YOLO's "
            "text files"
        )
    return found, skipped


def _or_itself(place: Path, name: str) -> Path:
    return place / name if (place / name).is_dir() else place


def _image_of(folder: Path, name: str) -> Path | None:
    """The image of this name, or of its stem with another suffix."""
    if (folder / name).is_file() and Path(name).suffix.lower() in SUFFIXES:
        return folder / name
    stem = Path(name).stem if Path(name).suffix.lower() in SUFFIXES else name
    for suffix in sorted(SUFFIXES):
        if (folder / f"{stem}{suffix}").is_file():
            return folder / f"{stem}{suffix}"
    return None


def _of_voc(files: Sequence[Path], images: Path, skipped: list[str]) -> Iterator[BoxedImage]:
    for file in files:
        try:
            root = ElementTree.fromstring(read_regular(file))
        except ElementTree.ParseError as error:
            skipped.append(f"{file}: no XML ({error})")
            continue
        path = _image_of(images, root.findtext("filename") or file.stem)
        path = path or _image_of(images, file.stem)
        if path is None:
            skipped.append(f"{file}: its image is not in {images}")
            continue
        boxes, names, hard = [], [], []
        for thing in root.iter("object"):
            texts = [thing.findtext(f"bndbox/{k}") for k in ("xmin", "ymin", "xmax", "ymax")]
            try:
                left, top, right, bottom = (float(t or "") for t in texts)
            except ValueError:
                skipped.append(f"{file}: a box without four numbers")
                continue
            # VOC counts pixels from 1, and the last one is inside
            boxes.append([left - 1, top - 1, right, bottom])
            names.append(one_line(thing.findtext("name") or ""))
            hard.append((thing.findtext("difficult") or "0").strip() == "1")
        yield _checked(path, boxes, names, hard, file, skipped)


def _of_coco(file: Path, skipped: list[str]) -> Iterator[BoxedImage]:
    names, images, annotations = read_coco(file)
    of_image: dict[Any, list[Mapping[str, Any]]] = {number: [] for number in images}
    for thing in annotations:
        if thing.get("image_id") not in images or thing.get("category_id") not in names:
            skipped.append(f"{file}: annotation {thing.get('id')} names an unknown image or class")
            continue
        of_image[thing["image_id"]].append(thing)
    for number, name in images.items():
        folders = (file.parent, file.parent / "images", file.parent.parent / "images")
        path = next((folder / name for folder in folders if (folder / name).is_file()), None)
        if path is None:
            skipped.append(f"{file}: {name} is not beside it")
            continue
        boxes, labels, hard = [], [], []
        for thing in of_image[number]:
            left, top, width, height = (float(v) for v in thing["bbox"])
            boxes.append([left, top, left + width, top + height])
            labels.append(names[thing["category_id"]])
            hard.append(bool(thing.get("iscrowd", 0)))
        yield _checked(path, boxes, labels, hard, file, skipped)


def _of_yolo(place: Path, skipped: list[str]) -> Iterator[BoxedImage]:
    images, labels = _or_itself(place, "images"), _or_itself(place, "labels")
    lists = [folder / NAMES for folder in (place, labels) if (folder / NAMES).is_file()]
    names = lists[0].read_text(encoding="utf-8").split("\n") if lists else []
    for file in sorted(labels.glob("*.txt")):
        if file.name == NAMES:
            continue
        path = _image_of(images, file.stem)
        if path is None:
            skipped.append(f"{file}: its image is not in {images}")
            continue
        width, height = _size_of(path)
        boxes, of_class = [], []
        for place_in, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
            if not line.strip():
                continue
            try:
                number, x, y, w, h = line.split()[:5]
                k, middle = int(number), (float(x) * width, float(y) * height)
                half = (float(w) * width / 2, float(h) * height / 2)
            except ValueError:
                skipped.append(f"{file}, line {place_in}: not `class x y width height`")
                continue
            if names and not (0 <= k < len(names) and names[k].strip()):
                skipped.append(f"{file}, line {place_in}: class {k} is not in {NAMES}")
                continue
            boxes.append(
                [middle[0] - half[0], middle[1] - half[1], middle[0] + half[0], middle[1] + half[1]]
            )
            of_class.append(one_line(names[k].strip()) if names else str(k))
        yield _checked(path, boxes, of_class, [False] * len(boxes), file, skipped)


def _size_of(path: Path) -> tuple[int, int]:
    """Width and height of an image file, whose pixels are not read."""
    try:
        with Image.open(path) as image:
            return image.size
    except Exception as error:  # broken bytes make Pillow raise almost anything
        raise InputError(
            f"{path} is not a readable image ({type(error).__name__}); replace or remove it"
        ) from None


def _checked(
    path: Path,
    boxes: Sequence[Sequence[float]],
    names: Sequence[str],
    difficult: Sequence[bool],
    file: Path,
    skipped: list[str],
) -> BoxedImage:
    """The image with those of its boxes that lie in it; one that reaches outside is cut."""
    width, height = _size_of(path)
    kept: list[int] = []
    inside = np.zeros((len(boxes), 4), np.float32)
    for i, box in enumerate(boxes):
        cut = np.clip(np.asarray(box, np.float32), 0, [width, height, width, height])
        inside[i] = cut
        if not np.isfinite(cut).all() or (cut[2:] - cut[:2]).min() < 1:
            skipped.append(
                f"{file}: the box {[round(float(v)) for v in box]} has no pixel inside of its "
                f"image, which is {width} x {height}"
            )
        elif not names[i]:
            skipped.append(f"{file}: a box without a class")
        else:
            kept.append(i)
    hard = np.array([difficult[i] for i in kept], bool)
    return BoxedImage(path, inside[kept], [names[i] for i in kept], hard)
