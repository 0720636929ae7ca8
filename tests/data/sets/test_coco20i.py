"""COCO-20i: both conventions of its folds, and what is read of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from graphfsl import data
from graphfsl.data.sets.coco20i import columns_of, fold_columns
from graphfsl.io.errors import InputError

pytest.importorskip("pycocotools")
SQUARE = [[2, 2, 8, 2, 8, 8, 2, 8]]  # the pixels 2 to 7, each way


def test_both_conventions_hold_out_each_class_once() -> None:
    assert fold_columns(1, "interleaved")[:3] == [1, 5, 9]
    assert fold_columns(1, "blocks") == list(range(20, 40))
    for order in ("interleaved", "blocks"):
        folds = [fold_columns(fold, order) for fold in range(4)]
        assert sorted(c for own in folds for c in own) == list(range(80))
        for fold in range(4):
            parts = [columns_of(split, fold, order) for split in ("train", "val", "test")]
            assert [len(part) for part in parts] == [40, 20, 20]
            assert sorted(c for part in parts for c in part) == list(range(80))
            assert parts[1] == folds[(fold + 1) % 4]


def test_a_split_is_read_and_novel_pixels_are_background(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="instances_train2017"):
        data.load("coco20i", "train", root=tmp_path)
    names = [{"id": 2 * k + 1, "name": f"thing {k}"} for k in range(8)]
    things = [
        {"image_id": 1, "category_id": 5, "area": 36, "segmentation": SQUARE},
        {"image_id": 1, "category_id": 1, "area": 1, "segmentation": [[0, 0, 2, 0, 2, 2, 0, 2]]},
        {"image_id": 2, "category_id": 15, "area": 36, "segmentation": SQUARE},
    ]
    images = [{"id": k, "file_name": f"{k}.jpg"} for k in (1, 2)]
    whole = {"images": images, "annotations": things, "categories": names}
    for part in ("train2017", "val2017"):
        (tmp_path / "coco" / "annotations").mkdir(parents=True, exist_ok=True)
        (tmp_path / "coco" / part).mkdir()
        (tmp_path / "coco" / "annotations" / f"instances_{part}.json").write_text(json.dumps(whole))
        for k in (1, 2):
            Image.fromarray(np.full((10, 10, 3), 90, np.uint8)).save(
                tmp_path / "coco" / part / f"{k}.jpg"
            )
    kept: Any = data.load("coco20i", "train", root=tmp_path, fold=0, size=10)
    assert kept.classes == ("thing 2", "thing 7") and len(kept.x) == 2
    assert (kept.maps[0, 2:8, 2:8] == 0).all() and kept.maps[0, 0, 0] == -1
    assert len(data.load("coco20i", "train", root=tmp_path, fold=0, size=10, drop=True).x) == 1
    novel: Any = data.load("coco20i", "test", root=tmp_path, fold=0, size=10, order="blocks")
    assert novel.classes == ("thing 0",) and len(novel.x) == 1
