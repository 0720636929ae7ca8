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
