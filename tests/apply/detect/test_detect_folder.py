"""`graphfsl detect`: boxes in a user's images, and what is said of bad ones."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from graphfsl import data
from graphfsl.apply.detect.detect_folder import drawn
from graphfsl.functional.detection_metrics import Boxes
from tests.support import ROOT
from tests.support.command import Call

RUN = ROOT / "experiments/results/snell2017_glyphs_5w1s"
SUPPORT, SCENES = 6, 12  # of the first series: labeled scenes, and all


def iou(a: Any, b: Any) -> float:
    """Of two boxes x, y, width, height."""
    across = [min(a[i] + a[i + 2], b[i] + b[i + 2]) - max(a[i], b[i]) for i in (0, 1)]
    shared = max(across[0], 0) * max(across[1], 0)
    return float(shared / (a[2] * a[3] + b[2] * b[3] - shared))


@pytest.fixture
def scenes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """Drawn scenes as a user's photographs, `in`, those of `cells` with COCO's boxes: what is true
    of each file.
    """
    monkeypatch.chdir(tmp_path)
    split: Any = data.load("glyph_scenes", "test")
    images = split.gather(torch.arange(SCENES)).numpy()
    truth: dict[str, Any] = {}
    for folder in ("cells", "in/deep"):
        Path(folder).mkdir(parents=True)
    for i in range(SCENES):
        place = "cells" if i < SUPPORT else "in" if i % 2 else "in/deep"
        Image.fromarray(images[i, 0]).save(f"{place}/{i}.png")
        objects = split.objects_of(i)
        boxes = [[x, y, right - x, low - y] for x, y, right, low in objects.boxes.tolist()]
        names = [split.classes[c] for c in objects.labels.tolist()]
        truth[f"{place}/{i}.png"] = list(zip(boxes, names, strict=True))
    known = {k: v for k, v in truth.items() if k.startswith("cells/")}
    names = sorted({name for found in known.values() for _, name in found})
    coco = {
        "images": [
            {"id": i, "file_name": Path(f).name, "width": 96, "height": 96}
            for i, f in enumerate(known)
        ],
        "categories": [{"id": 90 - i, "name": name} for i, name in enumerate(names)],
        "annotations": [
            {"id": 100 * i + j, "image_id": i, "category_id": 90 - names.index(name), "bbox": box}
            for i, found in enumerate(known.values())
            for j, (box, name) in enumerate(found)
        ],
    }
    Path("cells/boxes.json").write_text(json.dumps(coco))
    yield truth


def test_the_command_finds_letters_in_other_scenes(scenes: dict[str, Any], call: Call) -> None:
    Path("in/broken.jpg").write_bytes(b"\xff\xd8\xffno")
    code, out, err = call("detect", RUN, "--support", "cells", "--query", "in", "--out", "out")
    assert code == 0 and "1 lines or files skipped" in out, err
    count = len([name for name in scenes if name.startswith("in/")])
    assert f" boxes in {count} images;" in out, "the broken one was not answered"
    told = json.loads(Path("out/detections.json").read_text())
    files = {image["id"]: image["file_name"] for image in told["images"]}
    names = {category["id"]: category["name"] for category in told["categories"]}
    theirs = json.loads(Path("cells/boxes.json").read_text())["categories"]
    assert names == {category["id"]: category["name"] for category in theirs}
    assert sorted(files.values()) == sorted(
        k.removeprefix("in/") for k in scenes if k.startswith("in/")
    )
    assert [one["id"] for one in told["annotations"]] == [*range(1, len(told["annotations"]) + 1)]

    found = right = 0
    sure = [one for one in told["annotations"] if one["score"] >= 0.5]
    for number, file in files.items():
        own = [one for one in sure if one["image_id"] == number]
        for box, name in scenes[f"in/{file}"]:
            near = [one for one in own if iou(one["bbox"], box) > 0.5]
            found += bool(near)
            right += any(names[one["category_id"]] == name for one in near)
    wanted = 3 * len(files)
    assert right >= 0.7 * wanted, f"{right} of {wanted} letters, {found} boxes near them"
    assert len(sure) <= 1.7 * wanted, "other letters and strokes are background"

    for file in files.values():
        assert Image.open(f"out/drawn/{file}.jpg").size == (96, 96)
    page = Path("out/index.html").read_text()
    assert "broken.jpg" in page and page.count("data:image/jpeg") == len(files)


def test_images_of_any_kind_are_answered(scenes: dict[str, Any], call: Call) -> None:
    scene = np.asarray(Image.open("in/7.png"))
    Path("odd").mkdir()
    Image.fromarray(scene.astype(np.uint16) * 257).save("odd/gray16.png")
    Image.fromarray(np.stack([scene] * 3 + [np.full_like(scene, 255)], -1)).save("odd/alpha.png")
    Image.fromarray(255 - scene).save("odd/paper.png")  # the run sees drawings: ink on paper too
    Image.fromarray(scene[:1, :1]).save("odd/one.png")
    Image.fromarray(np.zeros((40, 30), np.uint8)).save("odd/nothing.png")
    Image.fromarray(scene.repeat(14, 0).repeat(14, 1)).save("odd/large.png")  # halved, to look at
    code, _, err = call("detect", RUN, "--support", "cells", "--query", "odd", "--out", "out")
    assert code == 0, err
    told = json.loads(Path("out/detections.json").read_text())
    boxes: dict[str, list[Any]] = {image["file_name"]: [] for image in told["images"]}
    for one in told["annotations"]:
        name = told["images"][one["image_id"] - 1]["file_name"]
        boxes[name].append((one["category_id"], one["bbox"], round(one["score"], 3)))
    assert boxes["gray16.png"] == boxes["alpha.png"] == boxes["paper.png"] != []
    assert boxes["one.png"] == boxes["nothing.png"] == []
    for box, _ in scenes["in/7.png"]:
        enlarged = [14 * side for side in box]
        assert max(iou(found, enlarged) for _, found, _ in boxes["large.png"]) > 0.7


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--support", "cells"), "give --support, images with boxes, and --query"),
        (("--support", "in", "--query", "in"), "boxes"),
        (("--support", "cells", "--query", "in", "--least", 2), "--least must lie in [0, 1]"),
        (("--support", "cells", "--query", "in", "--proposals", "magic"), "selective_search"),
        (("--support", "cells", "--query", "empty"), "empty"),
        (("--support", "cells", "--query", "in", "--out", "cells"), "cells is there already"),
    ],
)
def test_mistakes_are_one_line(
    scenes: dict[str, Any], call: Call, options: tuple[Any, ...], message: str
) -> None:
    Path("empty").mkdir()
    code, _, err = call("detect", RUN, "--out", "out", *options)
    assert code == 2 and message in err and "Traceback" not in err, err
    assert not Path("out").exists()


def test_labels_that_leave_no_background_are_refused(scenes: dict[str, Any], call: Call) -> None:
    for name in Path("cells").glob("*.png"):
        name.unlink()
    scene = np.zeros((96, 96), np.uint8)
    scene[20:40, 30:50] = 255
    Image.fromarray(scene).save("cells/0.png")
    told = json.loads(Path("cells/boxes.json").read_text())
    told["annotations"] = [{**told["annotations"][0], "bbox": [30, 20, 20, 20]}]
    Path("cells/boxes.json").write_text(json.dumps(told))
    code, _, err = call("detect", RUN, "--support", "cells", "--query", "in", "--out", "out")
    assert code == 2 and "nothing shows what is not of the classes" in err, err
    assert not Path("out").exists()


def test_a_box_and_its_class_are_drawn() -> None:
    found = Boxes(
        image=np.zeros(2, int),
        boxes=np.array([[22.0, 43.0, 62.0, 78.0], [5.0, 2.0, 15.0, 30.0]]),
        label=np.array([1, 1]),
        score=np.array([0.9, 0.8]),
    )
    picture = np.asarray(drawn(np.zeros((1, 90, 80), np.uint8), found, ["a"])).sum(-1) > 0
    for left, top, right, bottom in ((22, 43, 62, 78), (5, 2, 15, 30)):
        assert picture[top:bottom, left].all() and picture[top:bottom, right - 1].all()
        assert picture[bottom - 1, left:right].all() and not picture[bottom, left:right].any()
        assert not picture[bottom - 3, left + 1 : right - 1].any()
    assert picture[36:42, 24:40].all(), "its class stands above a box"
    assert not picture[46:76, 24:60].any(), "and not in it"
    assert picture[1:8, 7:13].any(), "but for a box at the edge"
