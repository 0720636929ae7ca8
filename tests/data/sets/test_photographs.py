"""miniImageNet, tieredImageNet and CUB in whatever layout their files have."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from graphfsl.data import load
from graphfsl.data.class_lists import classes_of
from tests.support.refusal import refused
from tests.support.set_files import CASES, SPLITS, shade, write_images

pytestmark = pytest.mark.usefixtures("home")  # an empty cache


@pytest.mark.parametrize(
    ("name", "layout"), [(name, layout) for name, layouts in CASES.items() for layout in layouts]
)
def test_photographs_are_found_in_every_layout(tmp_path: Path, name: str, layout: str) -> None:
    splits = ("val", "train") if name == "tiered_imagenet" else SPLITS
    write_images(tmp_path, name, layout, splits)
    (tmp_path / "notes.txt").touch()
    for split in splits:
        classes, groups = classes_of(name, split)
        got = load(name, split, tmp_path, size=2)
        assert (got.classes, got.groups, got.name) == (tuple(classes), groups, f"{name}/{split}")
        assert (
            got.shape == (3, 2, 2)
            and got.y.tolist() == np.repeat(np.arange(len(classes)), 2).tolist()
        )
        expected = [shade(split, number, k) for number in range(len(classes)) for k in range(2)]
        assert got.x[:, :, 0, 0].tolist() == [list(pixel) for pixel in expected]
    assert load(name, "val", tmp_path).shape == (3, 84, 84)


def test_validation_images_of_ilsvrc_are_not_taken_for_a_split(tmp_path: Path) -> None:
    write_images(tmp_path, "tiered_imagenet", "ILSVRC2012/train/{c}/{k}.JPEG", ("val",))
    for path in tmp_path.glob("ILSVRC2012/train/*"):  # ILSVRC's val has the same 1000 classes
        (tmp_path / "ILSVRC2012/val" / path.name).mkdir(parents=True)
        Image.new("RGB", (2, 2), "white").save(tmp_path / "ILSVRC2012/val" / path.name / "0.JPEG")
    got = load("tiered_imagenet", "val", tmp_path, size=2)
    assert got.counts.tolist() == [2] * 97 and (got.x < 255).all()


@pytest.mark.parametrize(("name", "words"), [
    ("mini_imagenet", ("image-net.org", "mini_imagenet/<split>/<wnid>", "mini_imagenet/images")),
    ("tiered_imagenet", ("image-net.org", "tiered_imagenet/<split>/<wnid>", "ILSVRC2012/train")),
    ("cub", ("data.download=true", "CUB_200_2011.tgz", "97eceeb1")),
])  # fmt: skip
def test_missing_photographs(tmp_path: Path, name: str, words: tuple[str, ...]) -> None:
    root = tmp_path / "data"
    with refused(f"{name}/test: no images in {root}", str(root), "by hand", *words):
        load(name, "test", root)
    if "imagenet" in name:  # ImageNet's licence
        with refused("by hand", *words):
            load(name, "test", root, download=True)
        with refused("by hand", str(root), *words):
            importlib.import_module(f"graphfsl.data.sets.{name}").download(str(root))
        assert not root.exists()
    classes = classes_of(name, "test")[0]
    write_images(root, name, "{c}/{k}.png", ("test",), 1)
    for c in classes[1:4]:
        (root / c / "0.png").unlink()
        (root / c).rmdir()
    with refused(
        f"{name}/test: 3 of {len(classes)} classes are missing in {root}", repr(classes[1])
    ):
        load(name, "test", root)
    for c in classes[1:4]:
        (root / c).mkdir()
    with refused(f"class {classes[1]!r} has no image"):
        load(name, "test", root)
    with refused("data.size", "0"):
        load(name, "test", root, size=0)


def test_mini_imagenet_is_not_made_of_all_of_imagenet(tmp_path: Path) -> None:
    write_images(tmp_path, "mini_imagenet", "train/{c}/{k}.png", ("val",), 1)
    folder = tmp_path / "train" / classes_of("mini_imagenet", "val")[0][0]
    for k in range(1, 601):
        (folder / f"{k}.png").write_bytes((folder / "0.png").read_bytes())
    with refused("601 images", "600 of each class"):
        load("mini_imagenet", "val", tmp_path)
    (folder / "600.png").unlink()
    assert load("mini_imagenet", "val", tmp_path, size=2).counts.tolist() == [600] + [1] * 15
