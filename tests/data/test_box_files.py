"""Boxes in files: VOC's XML, COCO's JSON and YOLO's text say the same, and bad lines are listed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from graphfsl import data
from graphfsl.data.box_files import read_boxes
from graphfsl.io.errors import InputError

BOX = [4.0, 2.0, 14.0, 12.0]


def image(folder: Path, name: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(folder / name)


def voc(folder: Path, stem: str, boxes: list[list[float]], name: str) -> None:
    image(folder / "JPEGImages", f"{stem}.jpg")
    things = "".join(
        f"<object><name>{name}</name><bndbox><xmin>{b[0] + 1}</xmin><ymin>{b[1] + 1}</ymin>"
        f"<xmax>{b[2]}</xmax><ymax>{b[3]}</ymax></bndbox></object>"
        for b in boxes
    )
    place = folder / "Annotations"
    place.mkdir(exist_ok=True)
    (place / f"{stem}.xml").write_text(f"<annotation>{things}</annotation>")


def coco(folder: Path, boxes: list[list[float]]) -> None:
    image(folder / "images", "a.jpg")
    lines = [
        {"id": i, "image_id": 1, "category_id": 5, "bbox": [*b[:2], b[2] - b[0], b[3] - b[1]]}
        for i, b in enumerate(boxes)
    ]
    lines.append({"id": 99, "image_id": 1, "category_id": 6, "bbox": [0, 0, 5, 5]})
    whole = {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": lines}
    (folder / "a.json").write_text(json.dumps({**whole, "categories": [{"id": 5, "name": "cell"}]}))


def yolo(folder: Path, boxes: list[list[float]]) -> None:
    image(folder / "images", "a.jpg")
    (folder / "labels").mkdir()
    (folder / "classes.txt").write_text("cell\n")
    lines = [
        f"0 {(b[0] + b[2]) / 60} {(b[1] + b[3]) / 40} {(b[2] - b[0]) / 30} {(b[3] - b[1]) / 20}"
        for b in boxes
    ]
    (folder / "labels" / "a.txt").write_text("\n".join([*lines, "7 0.5 0.5 0.1 0.1", "0 a"]))


def test_three_formats_say_the_same(tmp_path: Path) -> None:
    outside = [40.0, 2.0, 50.0, 12.0]
    voc(tmp_path / "voc", "a", [BOX, outside], "cell")
    coco(tmp_path / "coco", [BOX, outside])
    yolo(tmp_path / "yolo", [BOX, outside])
    for name, count in (("voc", 1), ("coco", 2), ("yolo", 3)):
        (found,), skipped = read_boxes(tmp_path / name)
        np.testing.assert_allclose(found.boxes, [BOX], atol=1e-4)
        assert found.names == ["cell"] and found.path.name == "a.jpg"
        assert len(skipped) == count, skipped
        assert any("no pixel inside" in line for line in skipped)


def test_a_box_that_reaches_outside_is_cut(tmp_path: Path) -> None:
    voc(tmp_path, "a", [[20.0, 10.0, 45.0, 33.0]], "cell")
    (found,), skipped = read_boxes(tmp_path)
    assert found.boxes.tolist() == [[20.0, 10.0, 30.0, 20.0]] and not skipped


def test_a_folder_without_boxes_is_one_line(tmp_path: Path) -> None:
    image(tmp_path, "a.jpg")
    with pytest.raises(InputError, match="holds no image with boxes"):
        read_boxes(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        read_boxes(tmp_path / "none")


def test_novel_classes_are_not_annotated_in_training(tmp_path: Path) -> None:
    voc(tmp_path, "a", [BOX], "base")
    voc(tmp_path, "b", [BOX, [0.0, 0, 9, 9]], "novel")
    train = data.load("boxes", "train", root=tmp_path, novel=["novel"])
    test: Any = data.load("boxes", "test", root=tmp_path, novel=["novel"])
    assert train.classes == ("base",) and train.counts.tolist() == [1]
    assert test.classes == ("novel",) and len(test.objects_of(1).boxes) == 2
    small: Any = data.load("boxes", "test", root=tmp_path, novel=["novel"], size=10)
    assert small.objects_of(1).boxes[1].tolist() == [0.0, 0.0, 3.0, 4.5]
    with pytest.raises(InputError, match="but the classes are"):
        data.load("boxes", "test", root=tmp_path, novel=["other"])


def coco_of(file: Path, images: list[Any], annotations: list[Any], names: list[Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    whole = {"images": images, "annotations": annotations, "categories": names}
    file.write_text(json.dumps(whole))


CELL, ONE = {"id": 5, "name": "cell"}, {"id": 1, "file_name": "a.jpg"}


def thing(bbox: object, **more: object) -> dict[str, object]:
    return {"id": 1, "image_id": 1, "category_id": 5, "bbox": bbox, **more}


def test_numbers_that_are_none_and_boxes_that_are_missing_are_listed(tmp_path: Path) -> None:
    image(tmp_path, "a.jpg")
    bad = [[float("nan"), 0, 5, 5], [0, 0, float("inf"), 5], [1, 2], None, "abcd", [0, 0, -5, 5]]
    strange = {"id": 2, "image_id": [1], "category_id": 5, "bbox": [0, 0, 5, 5]}
    things = [*(thing(box) for box in bad), strange, thing([4, 2, 10, 10])]
    coco_of(tmp_path / "a.json", [ONE], things, [CELL])
    (found,), skipped = read_boxes(tmp_path)
    assert found.boxes.tolist() == [BOX] and len(skipped) == len(bad) + 1
    coco_of(tmp_path / "a.json", [ONE, ONE], things, [CELL])
    with pytest.raises(InputError, match="two images share an id"):
        read_boxes(tmp_path)
    coco_of(tmp_path / "a.json", [ONE], things, [CELL, {"id": 6, "name": "cell"}])
    with pytest.raises(InputError, match="two categories are called 'cell'"):
        read_boxes(tmp_path)


@pytest.mark.parametrize("where", ["train2017", "images/train2017"])
def test_coco_as_it_is_published(tmp_path: Path, where: str) -> None:
    image(tmp_path / where, "a.jpg")
    file = tmp_path / "annotations" / "instances_train2017.json"
    coco_of(file, [ONE], [thing([4, 2, 10, 10])], [CELL])
    coco_of(tmp_path / "annotations" / "captions_train2017.json", [], [], [])
    for place in (tmp_path, file):
        (found,), skipped = read_boxes(place)
        assert found.boxes.tolist() == [BOX] and not skipped
    coco_of(tmp_path / "annotations" / "instances_val2017.json", [ONE], [], [CELL])
    with pytest.raises(InputError, match="holds 2 JSON files"):
        read_boxes(tmp_path)


def test_boxes_are_of_the_image_that_stands_upright(tmp_path: Path) -> None:
    turned = Image.Exif()
    turned[274] = 6  # stored lying, 30 x 20
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(tmp_path / "a.jpg", exif=turned)
    (tmp_path / "a.txt").write_text("0 0.5 0.5 0.5 0.5")
    (found,), _ = read_boxes(tmp_path)
    np.testing.assert_allclose(found.boxes, [[5, 7.5, 15, 22.5]])
    (tmp_path / "a.txt").unlink()
    stated = {**ONE, "width": 30, "height": 20}
    coco_of(tmp_path / "a.json", [stated], [thing([4, 2, 10, 10])], [CELL])
    with pytest.raises(InputError, match="annotated at 30 x 20 pixels, but the image has 20 x 30"):
        read_boxes(tmp_path)


def test_voc_of_another_size_is_listed(tmp_path: Path) -> None:
    voc(tmp_path, "a", [BOX], "cell")
    voc(tmp_path, "b", [BOX], "cell")
    file = tmp_path / "Annotations" / "b.xml"
    size = "<size><width>60</width><height>40</height></size></annotation>"
    file.write_text(file.read_text().replace("</annotation>", size))
    (tmp_path / "Annotations" / "._a.xml").write_bytes(b"\0\5")
    (found,), (line,) = read_boxes(tmp_path)
    assert found.path.name == "a.jpg" and "annotated at 60 x 40" in line


def test_yolo_in_subfolders_with_polygons_and_names_in_yaml(tmp_path: Path) -> None:
    image(tmp_path / "images" / "train", "a.jpg")
    (tmp_path / "labels" / "train").mkdir(parents=True)
    lines = [
        "1 0.3 0.35 0.33333333 0.5",  # a box
        "1 0.3 0.35 0.33333333 0.5 0.9",  # with a probability
        "0 0.1 0.1 0.5 0.2 0.5 0.6 0.2 0.3",  # a polygon of four corners
        "1 0.1 0.2 0.3 0.4 0.5 0.6 0.7",  # neither
        "2 0.5 0.5 0.5 0.5",  # a class without a name
    ]
    (tmp_path / "labels" / "train" / "a.txt").write_text("\ufeff" + "\n".join(lines))
    (tmp_path / "labels" / "train" / "b.txt").write_bytes(b"\xff\xfe")
    for names in ("[cell, dot]", "{0: cell, 1: dot}"):
        (tmp_path / "data.yaml").write_text(f"nc: 2\nnames: {names}\n")
        (found,), skipped = read_boxes(tmp_path)
        assert found.names == ["dot", "dot", "cell"] and len(skipped) == 3
        np.testing.assert_allclose(found.boxes, [BOX, BOX, [3, 2, 15, 12]], atol=1e-4)
    (tmp_path / "data.yaml").write_text("names: 3")
    with pytest.raises(InputError, match="has no `names` of classes"):
        read_boxes(tmp_path)


def test_a_broken_image_is_listed(tmp_path: Path) -> None:
    for stem in "ab":
        voc(tmp_path, stem, [BOX], "cell")
    (tmp_path / "JPEGImages" / "b.jpg").write_bytes(b"\xff\xd8\xff")
    (found,), (line,) = read_boxes(tmp_path)
    assert found.path.name == "a.jpg" and "not a readable image" in line


def test_a_folder_for_training_need_not_show_what_is_novel(tmp_path: Path) -> None:
    voc(tmp_path / "train", "a", [BOX], "base")
    voc(tmp_path / "test", "b", [BOX], "novel")
    train = data.load("boxes", "train", root=tmp_path, novel=["novel"])
    assert train.classes == ("base",)
    assert data.load("boxes", "test", root=tmp_path, novel=["novel"]).classes == ("novel",)


def test_a_crowd_shows_no_class(tmp_path: Path) -> None:
    image(tmp_path, "a.jpg")
    crowd, dot = thing([0, 0, 9, 9], iscrowd=1), {"id": 6, "name": "dot"}
    things = [thing([4, 2, 10, 10]), {**crowd, "category_id": 6}]
    coco_of(tmp_path / "a.json", [ONE], things, [CELL, dot])
    split: Any = data.load("boxes", "test", root=tmp_path)
    assert split.classes == ("cell",) and len(split.objects_of(0).boxes) == 1
    (found,), _ = read_boxes(tmp_path)
    assert found.shown == ["cell"]


def test_names_in_capitals_are_found_and_no_file_of_boxes_is_of_two_images(tmp_path: Path) -> None:
    yolo(tmp_path / "yolo", [BOX])
    images = tmp_path / "yolo" / "images"
    (images / "a.jpg").rename(images / "a.JPG")
    (found,), _ = read_boxes(tmp_path / "yolo")
    assert found.path.name == "a.JPG"
    image(images, "a.png")
    with pytest.raises(InputError, match=r"its image may be a\.JPG or a\.png"):
        read_boxes(tmp_path / "yolo")


def test_xml_of_another_image_than_its_own_name_says_is_listed(tmp_path: Path) -> None:
    """As it is where files were renamed, and their `filename` was not."""
    voc(tmp_path, "a", [BOX], "cell")
    voc(tmp_path, "b", [[0.0, 0, 9, 9]], "cell")
    file = tmp_path / "Annotations" / "b.xml"
    says = "<annotation><filename>a.jpg</filename>"
    file.write_text(file.read_text().replace("<annotation>", says))
    (found,), (line,) = read_boxes(tmp_path)
    assert found.path.name == "a.jpg" and found.boxes.tolist() == [BOX]
    assert line.endswith("it says that it is of a.jpg, but is called as b.jpg")
    (tmp_path / "JPEGImages" / "b.jpg").unlink()
    with pytest.raises(InputError, match=r"two annotations are of a\.jpg"):
        read_boxes(tmp_path)


def test_an_image_under_two_ids_is_refused(tmp_path: Path) -> None:
    """What is a box under one id would be background under the other."""
    image(tmp_path, "a.jpg")
    coco_of(tmp_path / "a.json", [ONE, {"id": 2, "file_name": "a.jpg"}], [thing(BOX)], [CELL])
    with pytest.raises(InputError, match=r"two images are the file 'a\.jpg'"):
        read_boxes(tmp_path)
    endless = {**ONE, "width": float("inf"), "height": 20}
    coco_of(tmp_path / "a.json", [endless], [thing(BOX)], [CELL])
    with pytest.raises(InputError, match="is no COCO file"):
        read_boxes(tmp_path)
