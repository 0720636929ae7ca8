"""Images and the boxes of their objects in files: VOC's XML, COCO's JSON, YOLO's text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import yaml
from PIL import Image

from graphfsl.data.coco_masks import coco_file_of, coco_image, names_both, other_size, read_coco
from graphfsl.data.images import SUFFIXES
from graphfsl.data.scenes import Objects
from graphfsl.io.errors import InputError, require
from graphfsl.io.files import read_regular
from graphfsl.io.plain_text import one_line

NAMES = "classes.txt"  # YOLO: the name of class k stands on line k
NAMES_YAML = ("data.yaml", "dataset.yaml")  # YOLO: or in `names`, a list or a mapping
TURNED, SIDEWAYS = 274, (5, 6, 7, 8)  # the EXIF tag of an image that does not stand upright


@dataclass(frozen=True)
class BoxedImage:
    """An image file and its objects, whose classes are still names.

    Args:
        path: of the image.
        boxes: (m, 4) left, top, right, bottom in pixels.
        names: (m,) the class of each.
        difficult: (m,) those that neither a hit nor a miss is counted of.
        crowd: (m,) those of them that are many objects in one box.
    """

    path: Path
    boxes: np.ndarray
    names: Sequence[str]
    difficult: np.ndarray
    crowd: np.ndarray

    @property
    def shown(self) -> list[str]:
        """The classes of its boxes that are not difficult."""
        return [name for name, hard in zip(self.names, self.difficult, strict=True) if not hard]

    def objects(self, classes: Sequence[str]) -> Objects:
        """Its objects of these classes alone."""
        rows = [i for i, name in enumerate(self.names) if name in classes]
        labels = np.array([list(classes).index(self.names[i]) for i in rows], np.int64)
        return Objects(self.boxes[rows], labels, self.difficult[rows], self.crowd[rows])


def read_boxes(place: Path) -> tuple[list[BoxedImage], list[str]]:
    """The images of a folder, or of a COCO file, with their boxes.

    VOC: `JPEGImages` and `Annotations`, or XML files beside the images. YOLO: text files beside the
    images or in `labels` beside `images`, at any depth, and `classes.txt` or `data.yaml`; of a
    polygon the box around it is taken. COCO: a JSON file, or a folder with one JSON file, beside
    the images or in `annotations`; `coco_masks.coco_image` says where images lie.

    Args:
        place: the folder or the file.

    Returns:
        The images, and a line for each box or file that does not fit and is left out.

    Raises:
        InputError: where nothing of this kind is there, and where an image is annotated twice.
    """
    require(place.exists(), f"{place} does not exist; give a folder with images and boxes")
    skipped: list[str] = []
    coco = coco_file_of(place)
    if coco is not None:
        found = list(_of_coco(coco, skipped))
    elif xml := _visible(_or_itself(place, "Annotations").glob("*.xml")):
        found = list(_of_voc(xml, _or_itself(place, "JPEGImages"), skipped))
    else:
        found = list(_of_yolo(place, skipped))
    if not found:
        why = f" ({skipped[0]})" if skipped else ""
        raise InputError(
            f"{place} holds no image with boxes{why}; known are VOC's XML, COCO's JSON and YOLO's "
            "text files"
        )
    twice = [path for path, count in Counter(one.path for one in found).items() if count > 1]
    require(
        not twice,
        f"{place}: two annotations are of {(twice or [place])[0].name}; what is a box in one is "
        "background in the other; put all boxes of an image into one",
    )
    return found, skipped


def category_ids(place: Path) -> dict[str, Any]:
    """Class -> its number in the COCO file that `read_boxes` reads; none for other layouts.

    Raises:
        InputError: as `read_boxes`.
    """
    file = coco_file_of(place)
    if file is None:
        return {}
    names, _, _ = read_coco(file)
    return {name: number for number, name in names.items()}


def _or_itself(place: Path, name: str) -> Path:
    return place / name if (place / name).is_dir() else place


def _visible(files: Iterable[Path]) -> list[Path]:
    """Files in order, without hidden ones, such as a Mac's `._a.xml`."""
    return sorted(file for file in files if not file.name.startswith("."))


def _by_stem(folder: Path) -> dict[str, list[Path]]:
    """The images of a folder by their names without suffix, which may be in capitals."""
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.suffix.lower() in SUFFIXES:
            found.setdefault(path.stem, []).append(path)
    return found


def _images_of(folder: Path, name: str, of_stem: Mapping[str, list[Path]]) -> list[Path]:
    """The image of this name, or those of its stem with other suffixes (`_by_stem`)."""
    is_whole = Path(name).suffix.lower() in SUFFIXES
    if is_whole and (folder / name).is_file():
        return [folder / name]
    return of_stem.get(Path(name).stem if is_whole else name, [])


def _why_not_one(images: Sequence[Path], folder: Path) -> str:
    """What is said of an annotation whose image is not there, or may be one of several."""
    if not images:
        return f"its image is not in {folder}"
    return (
        f"its image may be {images[0].name} or {images[1].name}; rename one, with a file of boxes"
    )


def _of_voc(files: Sequence[Path], images: Path, skipped: list[str]) -> Iterator[BoxedImage]:
    of_stem = _by_stem(images)
    for file in files:
        try:
            root = ElementTree.fromstring(read_regular(file))
        except (ElementTree.ParseError, LookupError, ValueError) as error:
            skipped.append(f"{file}: no XML ({error})")
            continue
        own = _images_of(images, file.stem, of_stem)
        named = _images_of(images, root.findtext("filename") or "", of_stem) or own
        if own and not set(own) & set(named):  # a file that was copied, or renamed from outside
            skipped.append(
                f"{file}: it says that it is of {named[0].name}, but is called as {own[0].name}"
            )
            continue
        if len(named) != 1:
            skipped.append(f"{file}: {_why_not_one(named, images)}")
            continue
        (path,) = named
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
            names.append(one_line((thing.findtext("name") or "").strip()))
            hard.append((thing.findtext("difficult") or "0").strip() == "1")
        yield from _checked(path, boxes, names, hard, file, skipped, _stated(root))


def _stated(root: ElementTree.Element) -> tuple[int, int]:
    """Width and height of the image as VOC's XML says, 0 where it does not."""
    texts = [(root.findtext(f"size/{side}") or "0").strip() for side in ("width", "height")]
    sides = [int(text) if text.isdecimal() else 0 for text in texts]
    return sides[0], sides[1]


def _of_coco(file: Path, skipped: list[str]) -> Iterator[BoxedImage]:
    names, images, annotations = read_coco(file)
    of_image: dict[Any, list[Mapping[str, Any]]] = {number: [] for number in images}
    for thing in annotations:
        if not names_both(thing, images, names):
            skipped.append(f"{file}: annotation {thing.get('id')} names an unknown image or class")
            continue
        of_image[thing["image_id"]].append(thing)
    for number, image in images.items():
        path = coco_image(file, image.name)
        if path is None:
            skipped.append(f"{file}: {image.name} is not beside it")
            continue
        boxes, labels, hard = [], [], []
        for thing in of_image[number]:
            try:
                left, top, width, height = (float(v) for v in thing["bbox"])
            except (KeyError, TypeError, ValueError):
                skipped.append(f"{file}: annotation {thing.get('id')} has no bbox of four numbers")
                continue
            boxes.append([left, top, left + width, top + height])
            labels.append(names[thing["category_id"]])
            hard.append(bool(thing.get("iscrowd", 0)))
        yield from _checked(path, boxes, labels, hard, file, skipped, image.stated, crowds=True)


def _of_yolo(place: Path, skipped: list[str]) -> Iterator[BoxedImage]:
    images, labels = _or_itself(place, "images"), _or_itself(place, "labels")
    names = _yolo_names((place, labels, place.parent))
    of_stem: dict[Path, dict[str, list[Path]]] = {}
    for file in _visible(labels.rglob("*.txt")):
        if file.name == NAMES:
            continue
        folder = images / file.parent.relative_to(labels)
        if folder not in of_stem:
            of_stem[folder] = _by_stem(folder)
        called = _images_of(folder, file.stem, of_stem[folder])
        if len(called) != 1:
            skipped.append(f"{file}: {_why_not_one(called, folder)}")
            continue
        (path,) = called
        try:
            size = size_of(path)
            lines = read_regular(file).decode("utf-8-sig").splitlines()
        except (InputError, UnicodeDecodeError) as error:
            skipped.append(f"{file}: {error}")
            continue
        boxes, of_class = [], []
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                k, box = _yolo_box(line.split(), size)
            except ValueError:
                skipped.append(f"{file}, line {number}: not `class x y width height`")
                continue
            if names and k not in names:
                skipped.append(f"{file}, line {number}: class {k} has no name")
                continue
            boxes.append(box)
            of_class.append(names[k] if names else str(k))
        yield from _checked(path, boxes, of_class, [False] * len(boxes), file, skipped)


def _yolo_box(words: Sequence[str], size: Sequence[int]) -> tuple[int, list[float]]:
    """The class and the box of a line, whose numbers are shares of the image's sides.

    A line is `class x y width height`, with a probability or not, or a class and the corners of a
    polygon, around which the box lies.

    Raises:
        ValueError: for another line.
    """
    k, values = int(words[0]), [float(word) for word in words[1:]]
    if len(values) in (4, 5):
        x, y, width, height = values[:4]
        box = [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
    elif len(values) >= 6 and len(values) % 2 == 0:
        across, down = values[::2], values[1::2]
        box = [min(across), min(down), max(across), max(down)]
    else:
        raise ValueError("neither a box nor a polygon")
    return k, [side * size[i % 2] for i, side in enumerate(box)]


def _yolo_names(folders: Sequence[Path]) -> dict[int, str]:
    """The names of classes by their numbers, in the first folder that has any; none without.

    Raises:
        InputError: for a file of names that is none.
    """
    for folder in folders:
        if (folder / NAMES).is_file():
            text = read_regular(folder / NAMES).decode("utf-8-sig", errors="replace")
            return _named(enumerate(text.split("\n")))
        for name in NAMES_YAML:
            if (folder / name).is_file():
                return _names_of_yaml(folder / name)
    return {}


def _names_of_yaml(file: Path) -> dict[int, str]:
    try:
        given = yaml.safe_load(read_regular(file))["names"]
        pairs = given.items() if isinstance(given, Mapping) else enumerate(list(given))
        return _named((int(k), name) for k, name in pairs)
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{file} has no `names` of classes, a list or a mapping ({type(error).__name__})"
        ) from None


def _named(pairs: Iterable[tuple[int, Any]]) -> dict[int, str]:
    texts = {k: one_line(str(name).strip()) for k, name in pairs}
    return {k: text for k, text in texts.items() if text}


def size_of(path: Path) -> tuple[int, int]:
    """Width and height of an image file, upright by its EXIF tag; its pixels are not read."""
    try:
        with Image.open(path) as image:
            width, height = image.size
            turned = image.getexif().get(TURNED) in SIDEWAYS
            return (height, width) if turned else (width, height)
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
    stated: Sequence[int] = (0, 0),
    crowds: bool = False,
) -> Iterator[BoxedImage]:
    """The image with those of its boxes that lie in it; one that reaches outside is cut.

    None where it cannot be read, or where its annotation is of another size.

    Args:
        path: of the image.
        boxes: (m, 4) in the annotation.
        names: of their classes.
        difficult: which do not count.
        file: of the annotation.
        skipped: gets a line for what is left out.
        stated: (width, height) in the annotation, 0 where it says none.
        crowds: whether what does not count is a crowd.
    """
    try:
        width, height = size_of(path)
    except InputError as error:
        skipped.append(str(error))
        return
    if wrong := other_size(stated, (width, height)):
        skipped.append(f"{file}: {path.name} {wrong}")
        return
    given = np.array(boxes, np.float64).reshape(-1, 4)
    inside = np.clip(given, 0, [width, height, width, height]).astype(np.float32)
    kept: list[int] = []
    for i, box in enumerate(inside):
        if not np.isfinite(given[i]).all() or (box[2:] - box[:2]).min() < 1:
            sides = ", ".join(f"{side:g}" for side in given[i])
            skipped.append(
                f"{file}: the box [{sides}] has no pixel inside of its image, which is "
                f"{width} x {height}"
            )
        elif not names[i]:
            skipped.append(f"{file}: a box without a class")
        else:
            kept.append(i)
    hard = np.array([difficult[i] for i in kept], bool)
    crowd = hard & crowds
    yield BoxedImage(path, inside[kept], [names[i] for i in kept], hard, crowd)
