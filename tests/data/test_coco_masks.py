"""What polygons and RLE of COCO files draw, and a user's own folder with such a file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from graphfsl import data
from graphfsl.apply.segment.support_masks import read_support
from graphfsl.data.coco_masks import label_map
from graphfsl.data.scenes import SceneSplit
from graphfsl.io.errors import InputError

pytest.importorskip("pycocotools")
SQUARE = [[2, 2, 8, 2, 8, 8, 2, 8]]  # the pixels 2 to 7, each way
SMALL = {"size": [10, 10], "counts": [0, 4, 96]}  # four pixels of the first column


def test_polygons_and_rle_are_drawn_smaller_ones_over_larger() -> None:
    inside = {"size": [10, 10], "counts": [44, 2, 8, 2, 44]}  # two columns of two pixels
    crowd = {"size": [10, 10], "counts": [0, 10, 90]}
    things: list[dict[str, Any]] = [
        {"category_id": 7, "area": 4, "segmentation": inside},
        {"category_id": 3, "area": 36, "segmentation": SQUARE},
        {"category_id": 3, "area": 10, "segmentation": crowd, "iscrowd": 1},
        {"category_id": 99, "area": 1, "segmentation": [[9, 9, 10, 9, 10, 10, 9, 10]]},
    ]
    found = label_map(things, {3: 0, 7: 1}, (10, 10), "here")
    right = np.full((10, 10), -1)
    right[2:8, 2:8], right[4:6, 4:6], right[:, 0] = 0, 1, -100
    assert (found == right).all()
    with pytest.raises(InputError, match="here has a segmentation that is neither"):
        label_map([{"category_id": 3, "segmentation": 5}], {3: 0}, (10, 10), "here")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images: a cat, a cat with a dog's four pixels, and nothing. No bird is drawn."""
    for number in range(3):
        Image.fromarray(np.full((10, 10), 50 * number, np.uint8)).save(tmp_path / f"{number}.png")
    things = [
        {"id": 1, "image_id": 0, "category_id": 9, "area": 36, "segmentation": SQUARE},
        {"id": 2, "image_id": 1, "category_id": 9, "area": 36, "segmentation": SQUARE},
        {"id": 3, "image_id": 1, "category_id": 20, "area": 4, "segmentation": SMALL},
    ]
    names = [{"id": 4, "name": "bird"}, {"id": 9, "name": "cat"}, {"id": 20, "name": "dog"}]
    images = [{"id": number, "file_name": f"{number}.png"} for number in range(3)]
    given = {"images": images, "annotations": things, "categories": names}
    (tmp_path / "boxes.json").write_text(json.dumps(given))
    return tmp_path


def test_labeled_images_of_a_coco_file(folder: Path) -> None:
    found = read_support(folder)
    assert found.classes == ["cat", "dog"]
    assert [path.name for path in found.files] == ["0.png", "1.png"]
    assert [int((drawn == 0).sum()) for drawn in found.maps] == [36, 36]
    assert [int((drawn == 1).sum()) for drawn in found.maps] == [0, 4]
    (skipped,) = found.skipped
    assert skipped.endswith("image 2.png: nothing is drawn on it, so that it shows no class")


def test_a_split_of_a_coco_file(folder: Path, tmp_path: Path) -> None:
    world = tmp_path / "world"
    world.mkdir()
    (world / "train").symlink_to(folder)
    split = data.load("masks", "train", root=world, size=10)
    assert isinstance(split, SceneSplit) and split.maps is not None
    assert split.classes == ("cat", "dog") and len(split.x) == 3
    assert [int((drawn == 1).sum()) for drawn in split.maps] == [0, 4, 0]


def unknown_class(given: dict[str, Any]) -> None:
    given["annotations"][0]["category_id"] = 5


def missing_image(given: dict[str, Any]) -> None:
    given["images"][0]["file_name"] = "gone.png"


def no_categories(given: dict[str, Any]) -> None:
    del given["categories"]


def nothing_drawn(given: dict[str, Any]) -> None:
    given["annotations"] = []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (unknown_class, "annotation 1 is of image 0 and class 5, and the file"),
        (missing_image, "names gone.png, which lies neither"),
        (no_categories, "no COCO file with images, annotations and categories"),
        (nothing_drawn, "draws no class on any image"),
    ],
)
def test_what_does_not_fit_is_said(
    folder: Path, change: Callable[[dict[str, Any]], None], says: str
) -> None:
    file = folder / "boxes.json"
    given = json.loads(file.read_text())
    change(given)
    file.write_text(json.dumps(given))
    with pytest.raises(InputError, match=says):
        read_support(folder)


def test_smaller_ones_lie_over_larger_where_the_file_says_no_area() -> None:
    inside = {"size": [10, 10], "counts": [44, 2, 8, 2, 44]}
    small, large = (
        {"category_id": 7, "segmentation": inside},
        {"category_id": 3, "segmentation": SQUARE},
    )
    for things in ([small, large], [large, small], [{**small, "area": 99}, large]):
        assert (label_map(things, {3: 0, 7: 1}, (10, 10), "here") == 1).sum() == 4


def test_a_polygon_of_two_corners_is_no_box() -> None:
    line = [1, 1, 3, 3]
    things = [{"category_id": 3, "segmentation": [line, *SQUARE]}]
    assert (label_map(things, {3: 0}, (10, 10), "here") == 0).sum() == 36
    for drawn, says in (([line], "three corners"), ([], "has no segmentation"), (None, "no seg")):
        things = [{"category_id": 3, "segmentation": drawn}]
        with pytest.raises(InputError, match=says):
            label_map(things, {3: 0}, (10, 10), "here")


def test_polygons_of_another_size_are_refused(folder: Path) -> None:
    file = folder / "boxes.json"
    given = json.loads(file.read_text())
    given["images"][0] |= {"width": 20, "height": 20}
    file.write_text(json.dumps(given))
    with pytest.raises(InputError, match="annotated at 20 x 20 pixels, but the image"):
        read_support(folder)


def test_classes_may_have_texts_for_numbers(folder: Path) -> None:
    """As some programs write them, all or a part."""
    file = folder / "boxes.json"
    given = json.loads(file.read_text())
    given["categories"][1]["id"] = "9"
    for thing in given["annotations"][:2]:
        thing["category_id"] = "9"
    file.write_text(json.dumps(given))
    found = read_support(folder)
    assert found.classes == ["dog", "cat"]
    assert [int((drawn == 1).sum()) for drawn in found.maps] == [36, 36]
    given["categories"][1]["id"] = None
    file.write_text(json.dumps(given))
    with pytest.raises(InputError, match="the id of a category must be a number or a text"):
        read_support(folder)
