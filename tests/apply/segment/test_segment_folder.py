"""`graphfsl segment`: masks of a user's images, and what is said of bad ones."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from graphfsl.apply.segment.clicks import Clicks, mask_of_clicks
from graphfsl.apply.segment.segmenter import Segmenter, full_size_answer
from graphfsl.apply.segment.support_masks import SupportMasks, read_support
from graphfsl.data.transforms import Transform
from graphfsl.io.errors import InputError
from graphfsl.methods.refine.own_graph import OwnGraph
from tests.support.command import Call
from tests.support.scenes import by_colour, scenes


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path)


def support_of(split: Any, ids: list[int]) -> SupportMasks:
    images = [split.x[i].numpy() for i in ids]
    maps = [split.maps[i].numpy() for i in ids]
    return SupportMasks(images, maps, split.classes, [Path(str(i)) for i in ids], [])


def test_each_image_is_answered_by_itself_and_absent_classes_are_not_there() -> None:
    split = scenes()
    segmenter = Segmenter(by_colour(), Transform(), (3, 12, 12), support_of(split, [0, 1, 2]))
    for i in range(3, 9):
        large = split.x[i].numpy().repeat(3, 1).repeat(2, 2)
        found = segmenter.find(large)
        right = split.maps[i].numpy().repeat(3, 0).repeat(2, 1) + 1
        assert found.labels.shape == (36, 24)
        assert (found.labels == right).mean() > 0.9
        assert found.there.tolist() == [c == i % 3 for c in range(3)]


def test_labeled_images_are_encoded_once_and_answers_are_the_same() -> None:
    split = scenes()
    learner = by_colour(refine=OwnGraph())
    encoded = []
    learner.encoder.register_forward_pre_hook(lambda net, given: encoded.append(len(given[0])))
    segmenter = Segmenter(learner, Transform(), (3, 12, 12), support_of(split, [0, 1, 2]))
    once = [segmenter.find(split.x[i].numpy()) for i in (3, 4)]
    assert encoded == [3, 1, 1]
    segmenter.__dict__["_support"] = None  # as where they depend on the query
    for i, found in zip((3, 4), once, strict=True):
        again = segmenter.find(split.x[i].numpy())
        assert (again.labels == found.labels).all()
        np.testing.assert_allclose(again.presence, found.presence, rtol=1e-5)


def test_strips_answer_as_the_whole_does() -> None:
    logs = torch.randn(3, 5, 4)
    logs[1] = -np.inf
    whole = torch.nn.functional.interpolate(logs[[0, 2]][None], (31, 17), mode="bilinear")
    right = np.array([0, 2])[whole[0].argmax(0).numpy()]
    for strip in (10**6, 40, 1):
        assert (full_size_answer(logs, (31, 17), strip) == right).mean() > 0.999


def test_a_support_that_shows_too_little_is_one_line(tmp_path: Path) -> None:
    save(tmp_path / "images" / "a.png", np.zeros((6, 6, 3)))
    save(tmp_path / "masks" / "a.png", np.zeros((6, 6)))
    with pytest.raises(InputError, match="each is empty"):
        read_support(tmp_path)
    everything = SupportMasks(
        [np.zeros((3, 6, 6), np.uint8)], [np.zeros((6, 6), np.int16)], ["all"], [Path("a")], []
    )
    with pytest.raises(InputError, match="cover every pixel"):
        Segmenter(by_colour(), Transform(), (3, 6, 6), everything)
    save(tmp_path / "masks" / "a.png", np.eye(6) * 255)
    assert read_support(tmp_path).classes == [tmp_path.name]
    save(tmp_path / "images" / "b.png", np.zeros((6, 6, 3)))
    assert "no mask of its name" in read_support(tmp_path).skipped[0]


def test_the_command_writes_masks_overlays_a_table_and_a_page(
    tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    scene = rng.integers(0, 60, (64, 64, 3))
    scene[20:44, 20:44] = (230, 210, 40)
    mask = np.zeros((64, 64))
    mask[20:44, 20:44] = 255
    save(tmp_path / "sun" / "images" / "a.png", scene)
    save(tmp_path / "sun" / "masks" / "a.png", mask)
    save(tmp_path / "in" / "deep" / "gray16.png", scene[..., 0])
    save(tmp_path / "in" / "one.png", np.zeros((1, 1)))
    (tmp_path / "in" / "broken.jpg").write_bytes(b"\xff\xd8\xffno")
    options = ("--support", "sun", "--query", "in", "--size", 64, "--out", "out")
    code, out, err = call("segment", *options)
    assert code == 0 and "2 images: sun in" in out and "1 files skipped" in out, err
    written = Image.open(tmp_path / "out" / "masks" / "deep" / "gray16.png.png")
    assert written.mode == "P" and written.size == (64, 64)
    rows = list(csv.DictReader((tmp_path / "out" / "segments.csv").open()))
    assert {row["image"] for row in rows} == {"deep/gray16.png", "one.png"}
    page = (tmp_path / "out" / "index.html").read_text()
    assert "broken.jpg" in page and "data:image/jpeg" in page
    code, _, err = call("segment", *options)
    assert code == 2 and "out is there already" in err
    code, _, err = call("segment", "--support", "sun")
    assert code == 2 and "give --support and --query" in err


def test_clicks_divide_an_image(
    tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    image = np.zeros((30, 40, 3))
    image[:, 20:] = 200
    save(tmp_path / "a.png", image)
    (tmp_path / "c.json").write_text(json.dumps({"left": [[3, 4]], "right": [[30, 20]]}))
    code, out, _ = call("segment", "a.png", "--clicks", "c.json", "--out", "out")
    assert code == 0 and "left 50.0%, right 50.0%" in out
    found = np.asarray(Image.open(tmp_path / "out" / "masks" / "a.png.png"))
    assert (found[:, :20] == 1).all() and (found[:, 20:] == 2).all()
    for given, message in (
        ({"left": [[3, 4]]}, "at least 2 are needed"),
        ({"left": [[3, 4]], "right": [[40, 2]]}, "lies outside of the image, which is 40 x 30"),
        ({"left": [[3, 4]], "right": [[3, 4]]}, "is called 'left' and 'right'"),
        ({"left": [[3, 4]], "right": []}, "has no click"),
        ({"left": [[3]], "right": [[1, 1]]}, "no place"),
        ([1], "must hold lists of places"),
    ):
        (tmp_path / "c.json").write_text(json.dumps(given))
        code, _, err = call("segment", "a.png", "--clicks", "c.json", "--out", "other")
        assert code == 2 and message in err and not (tmp_path / "other").exists()


def test_clicks_keep_their_class_in_an_image_that_is_made_smaller() -> None:
    image = np.random.default_rng(0).integers(0, 255, (3, 60, 50)).astype(np.uint8)
    points = np.array([[0, 0], [1, 0], [49, 59]])
    clicks = Clicks(["a", "b"], points, np.array([0, 1, 1]))
    found = mask_of_clicks(image, clicks, most=100)
    assert found.shape == (60, 50) and found[0, 0] == 0 and found[0, 1] == 1 and found[59, 49] == 1


def test_masks_have_the_numbers_of_the_labeled_ones(
    tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Class 7 of classes.txt is 7 in the answers, which are labeled images again."""
    left = np.zeros((40, 40))
    left[:, :20] = 7
    red = np.zeros((40, 40, 3))
    red[:, :20, 0] = 255
    save(tmp_path / "s" / "images" / "a.png", red)
    save(tmp_path / "s" / "masks" / "a.png", left)
    (tmp_path / "s" / "classes.txt").write_text("3 road\n7 =1+cmd\n")
    monkeypatch.chdir(tmp_path)
    options = ("--size", "64", "--there", "0", "--out", "o")
    code, _, err = call("segment", "--support", "s", "--query", "s/images", *options)
    assert code == 0, err
    found = Image.open("o/masks/a.png.png")
    assert set(np.unique(np.asarray(found))) == {0, 7}
    assert Path("o/classes.txt").read_text() == "7 =1+cmd\n"
    assert found.convert("RGB").getpixel((5, 20)) != (0, 0, 0)
    cells = Path("o/segments.csv").read_text().splitlines()[1].split(",")
    assert cells[:2] == ["a.png", "'=1+cmd"], "no spreadsheet runs it"


def test_what_clicks_do_not_need_is_refused(
    tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for option in (("--size", 64), ("--there", 0.2), ("--encoder", "resnet18"), ("learner.a=1",)):
        code, _, err = call("segment", "a.png", *option, "--clicks", "c.json")
        assert code == 2 and "nothing is encoded where there are clicks" in err
    save(tmp_path / "a.png", np.zeros((4, 4)))
    code, _, err = call("segment", "a.png", "--clicks", "c.json")
    assert code == 2 and "clicks c.json not found" in err
    Path("c.json").write_text('{"a": [[1, 1]], "b": [[2, 2]], "a": [[3, 3]]}')
    code, _, err = call("segment", "a.png", "--clicks", "c.json")
    assert code == 2 and "names 'a' twice" in err and not Path("segments").exists()


def test_a_run_takes_no_other_encoder(call: Call) -> None:
    for command in ("segment", "detect"):
        options = ("--support", "s", "--query", "q", "--encoder", "resnet18")
        code, _, err = call(command, "run", *options)
        assert code == 2 and "a run has its own encoder" in err


def test_a_run_that_sees_an_image_as_one_cell_is_refused(
    tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each class would be as likely as any other, and none would be there, in every image."""
    run = Path("experiments/results/snell2017_glyphs_5w1s").resolve()
    left = np.zeros((40, 40))
    left[:, :20] = 1
    save(tmp_path / "s" / "images" / "a.png", 255 * left)
    save(tmp_path / "s" / "masks" / "a.png", left)
    monkeypatch.chdir(tmp_path)
    options = ("--support", "s", "--query", "s/images", "--out", "o")
    code, _, err = call("segment", run, *options)
    assert code == 2 and "sees an image of 28 x 28 pixels as one cell" in err
    assert not Path("o").exists()
    code, _, err = call("segment", run, *options, "--size", "64")
    assert code == 0, err
