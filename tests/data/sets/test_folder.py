"""A folder of images as a data set."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import pytest
import torch

from graphfsl.data import load
from graphfsl.data.images import read_folder_classes
from graphfsl.data.sets import folder
from tests.support.pictures import files, fill, modified, picture
from tests.support.refusal import refused

pytestmark = pytest.mark.usefixtures("home")  # an empty cache


def test_folder_with_splits(tmp_path: Path, home: Path) -> None:
    root = tmp_path / "my pets"
    fill(root / "train", {"wolf": 3, "ape": 2})
    fill(root / "test", {"çat": 2, "Zebra": 1, "emu 🦤": 3})
    picture(root / "test" / "çat" / "deeper" / "x.JPEG", (50, 50, 50), (30, 20))
    for junk in (".hidden.png", "notes.txt", ".ipynb_checkpoints/0.png", "Thumbs.db"):
        path = root / "test" / "çat" / junk
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"junk")
    fill(root / "test", {".git": 1})
    before = modified(root)
    split = load("folder", "test", root=root, size=12)
    assert (
        split.name == "my pets/test" and split.shape == (3, 12, 12) and split.x.dtype == torch.uint8
    )
    assert split.classes == ("Zebra", "emu 🦤", "çat") and split.y.tolist() == [0, 1, 1, 1, 2, 2, 2]
    assert (
        split.x[:3, :2, 0, 0].tolist() == [[0, 0], [10, 0], [10, 1]] and split.x[6, 0, 0, 0] == 50
    )
    assert load("folder", "train", root=root).classes == ("ape", "wolf")
    assert modified(root) == before, "the data root may be read-only"
    assert load("folder", "test", root=root, size=12, color=False).shape == (1, 12, 12)
    assert len(files(home)) == 3
    with refused("has train/, test/ but no val/"):
        load("folder", "val", root=root)


def test_folder_without_splits_divides_the_sorted_classes(tmp_path: Path) -> None:
    fill(tmp_path, {f"c{k:02d}": 1 for k in range(10)})
    names = {s: folder.load(s, str(tmp_path), 8).classes for s in folder.SPLITS}
    assert names["train"] == tuple(f"c{k:02d}" for k in range(6))
    assert names["val"] == ("c06", "c07") and names["test"] == ("c08", "c09")
    assert len(folder.load("test", str(tmp_path), 8, fractions=[0, 0, 1]).classes) == 10
    assert folder.load("test", str(tmp_path), 8, fractions=[0.5, 0, 0.5]).classes == tuple(
        f"c0{k}" for k in range(5, 10)
    )
    with refused("no class to val", "[0.5, 0, 0.5]"):
        folder.load("val", str(tmp_path), 8, fractions=[0.5, 0, 0.5])
    for wrong in ([0.6, 0.2], [0.6, 0.2, 0.3], [1.2, -0.2, 0]):
        with refused("data.fractions", "sum to 1"):
            folder.load("test", str(tmp_path), 8, fractions=wrong)


@pytest.mark.parametrize("count", range(2, 30))
def test_folder_divides_every_number_of_classes(tmp_path: Path, count: int) -> None:
    names = [f"c{k:02d}" for k in range(count)]
    for fractions in ((0.6, 0.2, 0.2), (0.8, 0.1, 0.1), (0.5, 0, 0.5), (0, 0.5, 0.5), (0, 0, 1)):
        wanted = [s for s, f in zip(folder.SPLITS, fractions, strict=True) if f]
        if count < 2 * len(wanted):
            with refused(f"{count} classes", "too few", " + ".join(wanted)):
                folder._share(names, fractions, wanted[0], tmp_path)
            continue
        shares = [folder._share(names, fractions, s, tmp_path) for s in wanted]
        assert [n for share in shares for n in share] == names and min(map(len, shares)) >= 2


def test_folder_with_an_unlabeled_pool(tmp_path: Path) -> None:
    fill(tmp_path, {f"c{k}": 2 for k in range(6)})
    for k in range(3):
        picture(tmp_path / "unlabeled" / f"{k}.png", (0, 0, 100 + k))
    split = folder.load("test", str(tmp_path), 8)
    assert split.classes == ("c4", "c5") and split.y.tolist() == [0, 0, 1, 1, -1, -1, -1]
    assert split.x[4:, 2, 0, 0].tolist() == [100, 101, 102]
    assert "unlabeled" not in read_folder_classes(tmp_path)
    fill(tmp_path / "split" / "test", {"a": 1, "b": 1, "unlabeled": 2})
    fill(tmp_path / "split" / "train", {"c": 1, "d": 1, "unlabeled": 1})
    picture(tmp_path / "split" / "unlabeled" / "x.png")
    assert [
        int((folder.load(s, str(tmp_path / "split")).y < 0).sum()) for s in ("train", "test")
    ] == [1, 2]
    fill(tmp_path / "split" / "val", {"e": 1, "f": 1})
    assert folder.load("val", str(tmp_path / "split")).y.tolist() == [0, 1, -1], (
        "root's pool is for every split"
    )
    (tmp_path / "split" / "unlabeled" / "x.png").unlink()
    with refused("unlabeled", "no image"):
        folder.load("val", str(tmp_path / "split"))


def test_folder_refuses(tmp_path: Path) -> None:
    root = tmp_path / "data"
    with refused(str(root), "folder for each class"):
        load("folder", "test", root=root)
    with refused("'tests'", "did you mean 'test'"):
        load("folder", "tests", root=root)
    picture(root / "loose.png")
    with refused(str(root), "no class folders"):
        load("folder", "test", root=root)
    with refused("folder for each class"):
        load("folder", "test", root=root / "loose.png")
    fill(root, {"a": 1, "b": 1, "c": 1})
    with refused("3 classes (a, b, c)", "too few", "fractions=[0,0,1]"):
        load("folder", "train", root=root)
    with refused("data.size", "0"):
        load("folder", "test", root=root, size=0)
    (root / "empty").mkdir()
    (root / "empty" / "readme.txt").touch()
    with refused(str(root / "empty"), "no image", ".png"):
        load("folder", "test", root=root)


def test_folder_refuses_one_class_shared_classes_and_splits_without_classes(tmp_path: Path) -> None:
    fill(tmp_path / "one" / "test", {"a": 3})
    with refused("only the class 'a'", "at least 2"):
        load("folder", "test", root=tmp_path / "one")
    fill(tmp_path / "usual", {"train/cat": 1, "train/dog": 1, "test/cat": 1, "test/dog": 1})
    with refused("'cat'", "train/", "test/", "share no class"):
        load("folder", "test", root=tmp_path / "usual")
    fill(tmp_path / "flat", {"train": 2, "test": 2})
    with refused(str(tmp_path / "flat" / "test"), "no class folders"):
        load("folder", "test", root=tmp_path / "flat")


def test_folder_may_have_a_class_called_train(tmp_path: Path) -> None:
    fill(tmp_path, {"bus": 1, "car": 1, "train": 2})
    assert load("folder", "test", root=tmp_path, size=4, fractions=[0, 0, 1]).classes == (
        "bus",
        "car",
        "train",
    )


def test_folder_names_the_corrupt_image(tmp_path: Path) -> None:
    fill(tmp_path, {"a": 1, "b": 1})
    whole = (tmp_path / "a" / "0.png").read_bytes()
    for content in (
        b"",
        b"no image",
        whole[:20],
        whole[: len(whole) // 2],
        b"GIF89a" + b"\0" * 20,
        b"\xff\xd8\xff\xe0",
    ):
        (tmp_path / "b" / "x.PNG").write_bytes(content)
        with refused(str(tmp_path / "b" / "x.PNG"), "not a readable image"):
            load("folder", "test", root=tmp_path, fractions=[0, 0, 1])


def test_folder_class_names_are_the_same_on_every_system(tmp_path: Path) -> None:
    for name in ("éa", "z"):
        picture(tmp_path / unicodedata.normalize("NFD", name) / "0.png")
    picture(tmp_path / "elsewhere" / "0.png")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    names = folder.load("test", str(tmp_path), fractions=[0, 0, 1]).classes
    assert names == ("elsewhere", "link", "z", unicodedata.normalize("NFC", "éa"))


def test_two_folders_that_look_alike_share_no_cache(tmp_path: Path) -> None:
    for k, name in enumerate(("one", "two")):
        for c in "ab":
            path = picture(tmp_path / name / c / "0.bmp", (k, k, k))
            os.utime(path, (1, 1))
    a, b = (folder.load("test", str(tmp_path / n), 4, fractions=[0, 0, 1]) for n in ("one", "two"))
    assert not a.x.any() and (b.x == 1).all()
