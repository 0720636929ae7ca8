"""Data sets: what their files become, and one clear line for every file that is not what it should
be.
"""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import unicodedata
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Subset

from graphfsl.data import Episodes, Split, few_classes, from_dataset, large_classes, load
from graphfsl.data.images import image_paths, read_folder_classes
from graphfsl.data.sets import arrays, folder, omniglot
from graphfsl.functional.distances import cosine
from graphfsl.functional.prototypes import prototypes
from graphfsl.functional.statistics import mean_and_ci95
from graphfsl.io import array_cache as cache
from graphfsl.io.errors import InputError

USERS_CACHE = os.environ.get("GRAPHFSL_CACHE")


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path_factory.mktemp("cache") / "cache"
    monkeypatch.setenv("GRAPHFSL_CACHE", str(path))
    return path


@contextlib.contextmanager
def refused(*words: str) -> Iterator[None]:
    """An InputError of one line that holds these words."""
    with pytest.raises(InputError) as error:
        yield
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


def snapshot(root: Path) -> dict[str, int]:
    return {str(p): p.stat().st_mtime_ns for p in [root, *root.rglob("*")]}


def picture(
    path: Path, value: Any = 0, size: tuple[int, int] = (10, 10), mode: str = "RGB", **options: Any
) -> Path:
    """An image file of one colour, or of an array."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = (
        Image.fromarray(value) if isinstance(value, np.ndarray) else Image.new(mode, size, value)
    )
    image.save(path, **options)
    return path


# ---- Omniglot ----

LISTS = {
    "train": ["B/character01", "A/character02"],
    "val": ["V/character01"],
    "test": ["A/character01", "E/character01"],
}
BACKGROUND = ("A/character01", "A/character02", "B/character01", "V/character01")
EVALUATION = ("E/character01", "E/character02")


def drawing(character: str, k: int) -> np.ndarray:
    """(28, 28) uint8: paper 255 with ink 0 at places that only this drawing has."""
    paper = np.full((28, 28), 255, np.uint8)
    number = (*BACKGROUND, *EVALUATION).index(character)
    paper[number, : 5 + k] = 0
    return paper


@pytest.fixture(params=["folders", "zips"])
def fake_omniglot(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    monkeypatch.setattr(omniglot, "class_list", lambda name: LISTS)
    base = tmp_path / "data" / "omniglot-py"
    base.mkdir(parents=True)
    for name, characters in (("images_background", BACKGROUND), ("images_evaluation", EVALUATION)):
        archive = zipfile.ZipFile(base / f"{name}.zip", "w") if request.param == "zips" else None
        for character in reversed(characters):  # the order in a file must not matter
            for k in (2, 0, 1):
                data = io.BytesIO()
                Image.fromarray(drawing(character, k)).save(data, "png")
                entry = f"{name}/{character}/{k:04d}.png"
                if archive:
                    archive.writestr(entry, data.getvalue())
                    archive.writestr(f"__MACOSX/{name}/{character}/._{k:04d}.png", b"not an image")
                else:
                    (base / entry).parent.mkdir(parents=True, exist_ok=True)
                    (base / entry).write_bytes(data.getvalue())
        if archive:
            archive.close()
    return tmp_path / "data"


def test_omniglot_reads_folders_and_zips_alike(fake_omniglot: Path, home: Path) -> None:
    before = snapshot(fake_omniglot)
    split = load("omniglot", "test", root=fake_omniglot)
    turns = ("rot000", "rot090", "rot180", "rot270")
    assert split.classes == tuple(f"{c}/{t}" for t in turns for c in LISTS["test"])
    assert split.groups == ("A", "E") * 4 and split.name == "omniglot-vinyals-rotations/test"
    assert (
        split.x.shape == (8 * 3, 1, 28, 28) and split.y.tolist() == np.repeat(range(8), 3).tolist()
    )
    for turn in range(4):
        for c, character in enumerate(LISTS["test"]):
            images = split.x[split.y == 2 * turn + c, 0].numpy()
            expected = [np.rot90(255 - drawing(character, k), turn) for k in range(3)]
            assert np.array_equal(images, expected), (
                "ink must be 255 and drawings in the order of their names"
            )
    assert snapshot(fake_omniglot) == before, "the data root may be read-only"
    again = load("omniglot", "test", root=fake_omniglot / "omniglot-py")
    assert torch.equal(split.x, again.x) and len(files(home)) == 2


def test_omniglot_protocols_and_options(fake_omniglot: Path) -> None:
    names = {
        s: omniglot.load(s, str(fake_omniglot), "background").classes
        for s in ("train", "val", "test")
    }
    assert names == {
        "train": ("A/character01", "A/character02", "B/character01"),
        "val": ("V/character01",),
        "test": EVALUATION,
    }
    plain = omniglot.load("train", str(fake_omniglot), rotations=False, size=14)
    assert plain.classes == tuple(LISTS["train"]) and plain.shape == (1, 14, 14)
    assert plain.name == "omniglot-vinyals/train"
    assert len(omniglot.load("test", str(fake_omniglot), "background", rotations=True).classes) == 8


def test_omniglot_refuses(
    fake_omniglot: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with refused("'tset'", "did you mean 'test'"):
        load("omniglot", "tset", root=fake_omniglot)
    with refused("protocol", "vinyals"):
        load("omniglot", "test", root=fake_omniglot, protocol="vinyal")
    monkeypatch.setattr(
        omniglot, "class_list", lambda name: LISTS | {"test": ["A/character77", "Z/character01"]}
    )
    with refused("2 characters are missing", "A/character77"):
        load("omniglot", "test", root=fake_omniglot)
    with refused("not found", str(tmp_path / "nowhere")):
        load("omniglot", "test", root=tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with refused("images_background", "data.root"):
        load("omniglot", "test", root=tmp_path / "empty")


@pytest.mark.parametrize("fake_omniglot", ["zips"], indirect=True)
@pytest.mark.parametrize(
    "entry",
    ["../../evil.png", "images_evaluation/../../evil.png", "/evil.png", "..\\evil.png", "link"],
)
def test_omniglot_refuses_a_zip_that_climbs_out(fake_omniglot: Path, entry: str) -> None:
    info = zipfile.ZipInfo(entry)
    if entry == "link":
        info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(fake_omniglot / "omniglot-py" / "images_evaluation.zip", "a") as archive:
        archive.writestr(info, b"/etc/passwd")
    with refused("climbs out", "images_evaluation.zip"):
        load("omniglot", "test", root=fake_omniglot)


@pytest.mark.parametrize("fake_omniglot", ["zips"], indirect=True)
def test_omniglot_refuses_broken_zips(fake_omniglot: Path) -> None:
    path = fake_omniglot / "omniglot-py" / "images_evaluation.zip"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with refused("images_evaluation.zip", "readable zip"):
        load("omniglot", "test", root=fake_omniglot)
    # entries are stored, so that this damages an image and not the index
    png = whole.index(b"\x89PNG")
    path.write_bytes(whole[: png + 20] + b"\0" * 40 + whole[png + 60 :])
    with refused("images_evaluation", ".png"):
        load("omniglot", "test", root=fake_omniglot, protocol="background")


@pytest.mark.parametrize("fake_omniglot", ["folders"], indirect=True)
def test_omniglot_notices_a_changed_file(fake_omniglot: Path, home: Path) -> None:
    load("omniglot", "test", root=fake_omniglot)
    path = fake_omniglot / "omniglot-py/images_background/A/character01/0000.png"
    picture(path, 255, (28, 28), "L")
    os.utime(path, (1, 1))
    assert not load("omniglot", "test", root=fake_omniglot).x[0].any(), "white paper has no ink"


def test_omniglot_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    root = os.environ.get("GRAPHFSL_DATA")
    if not root or not (Path(root) / "omniglot-py").is_dir():
        pytest.skip("needs Omniglot: set GRAPHFSL_DATA to the folder that holds omniglot-py")
    monkeypatch.delenv("GRAPHFSL_CACHE")
    if USERS_CACHE:
        monkeypatch.setenv("GRAPHFSL_CACHE", USERS_CACHE)
    splits = {name: load("omniglot", name) for name in ("train", "val", "test")}
    assert {name: len(s.classes) for name, s in splits.items()} == {
        "train": 4112,
        "val": 688,
        "test": 1692,
    }
    assert all((s.counts == 20).all() for s in splits.values())
    characters = [{c.rpartition("/")[0] for c in s.classes} for s in splits.values()]
    assert sum(map(len, characters)) == len(set.union(*characters)) == 1623
    plain = load("omniglot", "test", protocol="background")
    assert len(plain.classes) == 659 and plain.shape == (1, 28, 28)
    for way, shot, percent in ((5, 1, 49.2), (5, 5, 68.0), (20, 1, 30.5)):
        right = []
        for episode, target in Episodes(plain, way=way, shot=shot, query=5).batches(600, 100):
            x = episode.x.flatten(2)
            means = prototypes(x[:, episode.support], episode.w[:, episode.support])
            right.append(
                (cosine(x[:, episode.query], means).argmax(-1) == target.query).float().mean(1)
            )
        mean, _ = mean_and_ci95(torch.cat(right))
        assert abs(100 * mean - percent) < 1.5, (
            f"{way}-way {shot}-shot: {100 * mean:.1f}, not {percent}"
        )


# ---- arrays ----


def npz(path: Path, **arrays: Any) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **{k: np.asarray(v) for k, v in arrays.items()})
    return str(path.parent)


def test_arrays_of_colour_images(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 4, 6, 3), dtype=np.uint8)
    names, supers = [f"n{k}" for k in range(100)], [f"s{k % 20}" for k in range(100)]
    root = npz(
        tmp_path / "d/val.npz",
        images=images,
        labels=[64, 3, -1, 99, 3],
        class_names=names,
        superclasses=supers,
    )
    before = snapshot(tmp_path / "d")
    split = load("arrays", "val", root=root)
    assert split.name == "d/val" and split.x.dtype == torch.uint8 and split.x.is_contiguous()
    assert np.array_equal(split.x.numpy(), images.transpose(0, 3, 1, 2))
    assert split.y.tolist() == [1, 0, -1, 2, 0], "labels are numbered in their order, -1 has none"
    assert split.classes == ("n3", "n64", "n99") and split.groups == ("s3", "s4", "s19")
    assert snapshot(tmp_path / "d") == before


def test_arrays_are_found_from_their_folder_and_from_the_one_above(tmp_path: Path) -> None:
    npz(tmp_path / "set/val.npz", images=np.zeros((2, 4, 4, 3), np.uint8), labels=[0, 1])
    above = arrays.load("val", str(tmp_path), folder="set")
    inside = arrays.load("val", str(tmp_path / "set"), folder="set")
    assert above.name == inside.name == "set/val" and torch.equal(above.x, inside.x)


def test_arrays_of_gray_images_and_features(tmp_path: Path) -> None:
    gray = np.random.default_rng(0).integers(0, 256, (4, 5, 5), dtype=np.uint8)
    split = arrays.load("train", npz(tmp_path / "g/train.npz", images=gray, labels=[7, 7, 8, 8]))
    assert (
        np.array_equal(split.x[:, 0].numpy(), gray)
        and split.classes == ("7", "8")
        and split.groups is None
    )
    for dtype in (np.float16, np.float32, np.float64):
        features = np.random.default_rng(0).standard_normal((4, 3)).astype(dtype)
        split = arrays.load(
            "train", npz(tmp_path / "f/train.npz", features=features, labels=np.uint8([0, 0, 1, 1]))
        )
        assert (
            split.x.dtype == torch.float32
            and np.allclose(split.x, features)
            and split.shape == (3,)
        )
    named = npz(
        tmp_path / "b/train.npz",
        features=np.zeros((2, 2)),
        labels=[0, 1],
        class_names=[b"cat", b"dog"],
    )
    assert arrays.load("train", named).classes == ("cat", "dog")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"labels": [0, 1]}, ("images", "features", "['labels']")),
        ({"images": np.zeros((2, 4, 4), np.uint8)}, ("labels",)),
        (
            {"images": np.full((2, 4, 4, 3), 2, np.float32), "labels": [0, 1]},
            ("image 0", "[0, 1]", "data.range"),
        ),
        ({"images": np.zeros((2, 4), np.uint8), "labels": [0, 1]}, ("(n, H, W)", "(2, 4)")),
        (
            {"images": np.zeros((2, 3, 8, 8), np.uint8), "labels": [0, 1]},
            ("(n, H, W, 3)", "(2, 3, 8, 8)"),
        ),
        ({"features": np.zeros((2, 4), np.int64), "labels": [0, 1]}, ("floats", "int64")),
        ({"features": np.zeros((2, 4, 4)), "labels": [0, 1]}, ("(n, d)", "(2, 4, 4)")),
        ({"features": [[0.0, 1], [2, np.nan]], "labels": [0, 1]}, ("sample 1", "NaN")),
        ({"features": [[0.0, np.inf], [2, 1]], "labels": [0, 1]}, ("sample 0", "infinity")),
        ({"features": np.zeros((2, 4)), "labels": [0.0, 1.0]}, ("integers", "float64")),
        ({"features": np.zeros((2, 4)), "labels": [[0, 1]]}, ("integers (n,)", "(1, 2)")),
        ({"features": np.zeros((2, 4)), "labels": [0, 1, 1]}, ("2 samples", "3 labels")),
        (
            {"features": np.zeros((2, 4)), "labels": [0, 5], "superclasses": ["a", "b"]},
            ("superclasses", "0..5", "(2,)"),
        ),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, dict) else "",
)
def test_arrays_refuse(tmp_path: Path, content: dict[str, Any], words: tuple[str, ...]) -> None:
    with refused(*words):
        arrays.load("train", npz(tmp_path / "train.npz", **content))


class Trap:
    """Unpickling this makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_arrays_never_unpickle(tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    pickle.loads(pickle.dumps(Trap(sprung)))
    assert sprung.exists(), "the trap works"
    sprung.unlink()
    np.savez(
        tmp_path / "train.npz",
        features=np.zeros((2, 2)),
        labels=np.array([Trap(sprung)] * 2, dtype=object),
    )
    with refused("train.npz", "plain arrays"):
        arrays.load("train", str(tmp_path))
    (tmp_path / "val.npz").write_bytes(pickle.dumps(Trap(sprung)))
    with refused("val.npz", "plain arrays"):
        arrays.load("val", str(tmp_path))
    assert not sprung.exists()


def test_arrays_refuse_broken_files(tmp_path: Path) -> None:
    root = npz(
        tmp_path / "train.npz",
        images=np.arange(3000, dtype=np.uint8).reshape(10, 10, 10, 3),
        labels=range(10),
    )
    whole = (tmp_path / "train.npz").read_bytes()
    damaged = whole[:100] + bytes(255 - b for b in whole[100:130]) + whole[130:]
    plain = io.BytesIO()
    np.save(plain, np.zeros(3))
    for content in (
        whole[: len(whole) // 2],
        whole[:10],
        b"",
        b"no zip",
        damaged,
        plain.getvalue(),
    ):
        (tmp_path / "train.npz").write_bytes(content)
        with refused("train.npz", "plain arrays"):
            arrays.load("train", root)
    with refused("not found", "test.npz"):
        arrays.load("test", root)


# ---- a user's folders ----


def fill(base: Path, classes: dict[str, int]) -> None:
    """Each class a number of images; red grows by 10 with the sorted class, green by 1 with the
    image.
    """
    for red, (name, count) in enumerate(sorted(classes.items())):
        for k in range(count):
            picture(base / name / f"{k}.png", (10 * red, k, 0))


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
    before = snapshot(root)
    split = load("folder", "test", root=root, size=12)
    assert (
        split.name == "my pets/test" and split.shape == (3, 12, 12) and split.x.dtype == torch.uint8
    )
    assert split.classes == ("Zebra", "emu 🦤", "çat") and split.y.tolist() == [0, 1, 1, 1, 2, 2, 2]
    assert (
        split.x[:3, :2, 0, 0].tolist() == [[0, 0], [10, 0], [10, 1]] and split.x[6, 0, 0, 0] == 50
    )
    assert load("folder", "train", root=root).classes == ("ape", "wolf")
    assert snapshot(root) == before, "the data root may be read-only"
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


def test_images_of_every_kind(tmp_path: Path) -> None:
    ramp = np.arange(100, dtype=np.uint8).reshape(10, 10)
    see_through = np.zeros((10, 10, 4), np.uint8)
    see_through[:5, :, 3] = 255  # black ink above, nothing below
    turned = Image.Exif()
    turned[0x0112] = 6  # must be turned by 90 degrees clockwise to stand upright
    picture(tmp_path / "a" / "0.png", ramp)
    picture(tmp_path / "a" / "1.png", ramp.astype(np.uint16) * 257)
    picture(tmp_path / "a" / "2.png", see_through)
    picture(tmp_path / "a" / "3.png", ramp, exif=turned)
    picture(tmp_path / "a" / "4.png", 1, mode="1")
    picture(tmp_path / "b" / "0.gif", 7, mode="P")
    x = folder.load("test", str(tmp_path), 10, color=False, fractions=[0, 0, 1]).x[:, 0].numpy()
    assert np.array_equal(x[0], ramp) and np.array_equal(x[1], ramp), "8 and 16 bits show the same"
    assert (x[2][:5] == 0).all() and (x[2][5:] == 255).all(), "transparent parts lie on white"
    assert np.array_equal(x[3], np.rot90(ramp, -1)) and (x[4] == 255).all()


def test_images_for_a_prediction(tmp_path: Path) -> None:
    fill(tmp_path, {"b": 2, "a": 1, "unlabeled": 1})
    assert read_folder_classes(tmp_path) == {
        "a": [tmp_path / "a" / "0.png"],
        "b": [tmp_path / "b" / "0.png", tmp_path / "b" / "1.png"],
    }
    assert image_paths(tmp_path / "b" / "1.png") == [tmp_path / "b" / "1.png"]
    assert len(image_paths(tmp_path)) == 4
    (tmp_path / "x.txt").touch()
    for wrong in ("x.txt", "no.png"):
        with refused(str(tmp_path / wrong)):
            image_paths(tmp_path / wrong)


# ---- torch data sets ----


class Listed:
    """A map-style data set of given pairs."""

    def __init__(self, *pairs: Any, classes: Any = None) -> None:
        self.pairs = pairs
        if classes is not None:
            self.classes = classes

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, i: int) -> Any:
        return self.pairs[i]


IMAGE = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)  # H, W, C
CHW = IMAGE.transpose(2, 0, 1)


@pytest.mark.parametrize(
    "sample",
    [
        Image.fromarray(IMAGE),
        torch.from_numpy(CHW.copy()),
        torch.from_numpy(CHW / 255),
        torch.from_numpy(CHW / np.float32(255)),
        IMAGE,
        IMAGE / 255,
        (IMAGE / 255).astype(np.float32),
    ],
    ids=lambda s: f"{type(s).__name__}-{getattr(s, 'dtype', '')}",
)
def test_from_dataset_keeps_colour_images(sample: Any) -> None:
    split = from_dataset(Listed((sample, 0), (sample, 1)), "mine/test")
    assert isinstance(split, Split) and split.name == "mine/test" and split.x.dtype == torch.uint8
    assert np.array_equal(split.x.numpy(), [CHW, CHW])
    assert from_dataset(Listed((sample, 0), (sample, 1)), "mine/test", size=9).shape == (3, 9, 9)


@pytest.mark.parametrize(
    "sample",
    [
        Image.fromarray(IMAGE[..., 0]),
        torch.from_numpy(CHW[:1].copy()),
        torch.from_numpy(CHW[0].copy()),
        torch.from_numpy(CHW[:1] / 255),
        IMAGE[..., 0],
        IMAGE[..., :1],
    ],
    ids=lambda s: f"{type(s).__name__}-{getattr(s, 'dtype', '')}",
)
def test_from_dataset_keeps_gray_images(sample: Any) -> None:
    split = from_dataset(Listed((sample, 0), (sample, 1)), "mine/test")
    assert np.array_equal(split.x[0].numpy(), CHW[:1])
    colour = torch.from_numpy(CHW.copy())
    for pairs in (
        [(sample, 0), (colour, 1)],
        [(colour, 1), (sample, 0)],
        [(sample, 0), (colour, 1), (sample, 0)],
    ):
        split = from_dataset(Listed(*pairs), "mine/test")
        assert (
            split.shape == (3, 6, 5)
            and (split.x[split.y == 0] == torch.from_numpy(CHW[:1].copy())).all()
        )
        assert torch.equal(split.x[split.y == 1][0], colour)


def test_from_dataset_keeps_features() -> None:
    for dtype in (torch.float16, torch.float32, torch.float64, torch.bfloat16):
        rows = torch.randn(3, 4).to(dtype)
        split = from_dataset(Listed(*zip(rows, [2, 0, 2], strict=True)), "f/test")
        assert (
            split.x.dtype == torch.float32
            and torch.equal(split.x, rows.float())
            and split.y.tolist() == [1, 0, 1]
        )
    assert from_dataset(Listed((np.zeros(3), 0), (np.ones(3), 1)), "f/test").shape == (3,)


def test_from_dataset_labels_and_names() -> None:
    row = torch.zeros(2)

    def split(*labels: Any, **options: Any) -> Split:
        return from_dataset(Listed(*((row, label) for label in labels), **options), "f/test")

    mixed = split(torch.tensor(7), np.int32(3), 5, np.array(7), -1)
    assert mixed.y.tolist() == [2, 0, 1, 2, -1] and mixed.classes == ("3", "5", "7")
    assert split("dog", "cat", np.str_("dog")).classes == ("cat", "dog")
    assert split("dog", "cat", "dog").y.tolist() == [1, 0, 1]
    assert split(2, 0, classes=["a", "b", "c"]).classes == ("a", "c")
    assert split(2, 0, classes=["a", "b"]).classes == ("0", "2"), (
        "names that do not reach all labels are not used"
    )
    assert split(True, False).classes == ("0", "1")
    whole = Listed(*((row, k) for k in (0, 1, 2, 2)), classes=["a", "b", "c"])
    assert from_dataset(Subset(Subset(whole, [3, 1, 2]), [0, 1]), "f/test").classes == ("b", "c")
    triple = from_dataset(Listed((row, 0, "more"), [row, 1]), "f/test")
    assert triple.y.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("dataset", "words"),
    [
        (iter([1]), ("map-style",)),
        (Listed(), ("empty",)),
        (Listed(torch.zeros(3)), ("sample 0", "pair", "Tensor")),
        (Listed((torch.zeros(3),)), ("sample 0", "pair")),
        (Listed(("x.png", 0)), ("sample 0", "PIL image", "'x.png'")),
        (Listed((torch.zeros(3), 0), (torch.zeros(4), 1)), ("sample 1", "4", "3", "one length")),
        (Listed((torch.zeros(3), 0), (CHW[0], 1)), ("sample 1", "1 x 6 x 5")),
        (Listed((IMAGE, 0), (IMAGE[:4], 1)), ("sample 1", "3 x 4 x 5", "3 x 6 x 5", "size=")),
        (Listed((IMAGE[..., :1], 0), (IMAGE[:4], 1)), ("sample 1", "size=")),
        (Listed((torch.full((3, 4, 4), 1.5), 0)), ("sample 0", "[0, 1]", "1.5")),
        (Listed((torch.full((3, 4, 4), -0.5), 0)), ("sample 0", "[0, 1]", "Normalize")),
        (Listed((torch.full((3, 4, 4), float("nan")), 0)), ("sample 0", "nan")),
        (Listed((torch.from_numpy(IMAGE.copy()), 0)), ("sample 0", "(C, H, W)", "(6, 5, 3)")),
        (Listed((CHW, 0)), ("sample 0", "(H, W, C)", "(3, 6, 5)")),
        (Listed((torch.zeros(3, 4, 4, dtype=torch.int64), 0)), ("sample 0", "uint8", "int64")),
        (Listed((torch.zeros(4, dtype=torch.int64), 0)), ("sample 0", "int64", "floats (d,)")),
        (Listed((torch.zeros(3, 0, 4), 0)), ("sample 0", "(3, 0, 4)")),
        (Listed((torch.zeros(3), None)), ("sample 0", "label None")),
        (Listed((torch.zeros(3), 1.0)), ("sample 0", "label 1.0")),
        (Listed((torch.zeros(3), torch.tensor([0, 1]))), ("sample 0", "label")),
        (Listed((torch.zeros(3), 0), (torch.zeros(3), "a")), ("numbers", "strings")),
        (Listed((torch.tensor([0, float("nan")]), 0)), ("sample 0", "NaN")),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, tuple) else "",
)
def test_from_dataset_refuses(dataset: Any, words: tuple[str, ...]) -> None:
    with refused("mine/test", *words):
        from_dataset(dataset, "mine/test")


def test_from_dataset_brings_mixed_sizes_to_one() -> None:
    split = from_dataset(
        Listed((IMAGE, 0), (IMAGE[:4], 1), (Image.fromarray(IMAGE[..., 0]), 1)), "mine/test", size=5
    )
    assert split.shape == (3, 5, 5)


# ---- a split ----


def test_split_refuses() -> None:
    images, y = torch.zeros(4, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 0, 1, 1])
    for x, labels, classes, words in (
        (images[:3], y, ("a", "b"), ("3 samples", "4 labels")),
        (images.float(), y, ("a", "b"), ("uint8 images", "float32")),
        (images[:, 0, 0], y, ("a", "b"), ("(N, C, H, W)", "(4, 2)")),
        (torch.zeros(4, 2, dtype=torch.int64), y, ("a", "b"), ("float features", "int64")),
        (images, y, ("a",), ("labels must lie in -1..0",)),
        (images, y - 2, ("a", "b"), ("labels must lie in -1..1",)),
        (images, y, ("a", "b", "c"), ("'c'", "no sample")),
        (images, y.float(), ("a", "b"), ("whole numbers", "float32")),
    ):
        with refused("s/test", *words):
            Split(x, labels, classes, "s/test")


def test_few_classes_are_a_nested_choice_by_name() -> None:
    split = load("glyphs", "train")
    few, fewer = few_classes(split, 9), few_classes(split, 5)
    assert len(few.classes) == 9 and set(fewer.classes) < set(few.classes) < set(split.classes)
    assert list(few.classes) != list(split.classes[:9]) and few.name == "glyphs/train[9]"
    for c, name in enumerate(few.classes):
        assert torch.equal(few.x[few.y == c], split.x[split.y == split.classes.index(name)])
    with refused("glyphs/train", f"{len(split.classes)} classes", "cut to 1"):
        few_classes(split, 1)


def test_small_classes_are_left_out_and_named() -> None:
    y = torch.tensor([0, 1, 1, 2, 2, 2, -1, 3, 3, 3])
    x = torch.arange(10).view(10, 1, 1, 1).to(torch.uint8)
    split = Split(x, y, ("a", "b", "c", "d"), "s/test", ("g", "h", "i", "j"))
    with pytest.warns(
        UserWarning,
        match=r"fewer than 3 samples are left out: 'a' \(1\), 'b' "
        r"\(2\)",
    ):
        part = large_classes(split, 3)
    assert part.classes == ("c", "d") and part.groups == ("i", "j") and part.name == "s/test[>=3]"
    assert part.x.flatten().tolist() == [3, 4, 5, 6, 7, 8, 9] and part.y.tolist() == [
        0,
        0,
        0,
        -1,
        1,
        1,
        1,
    ]
    assert large_classes(split, 1) is split
    with refused("s/test", "0 of 4 classes", "data.min_samples"):
        large_classes(split, 4)
    with pytest.raises(InputError) as told:  # with three classes it would be no help
        Episodes(split, way=3, shot=1, query=2)
    assert "min_samples" not in str(told.value)
    with refused("data.min_samples=3"):  # the line that tells of the option
        Episodes(split, way=2, shot=1, query=2)
    assert Episodes(part, way=2, shot=1, query=2).batch([0])[0].way == 2


def test_subset_renumbers_and_drops() -> None:
    x = torch.arange(6).view(6, 1, 1, 1).to(torch.uint8)
    split = Split(x, torch.tensor([0, 1, 2, 2, -1, 0]), ("a", "b", "c"), "s/test", ("g", "h", "i"))
    part = split.subset([2, 0], "s/part")
    assert part.classes == ("c", "a") and part.groups == ("i", "g") and part.name == "s/part"
    assert part.x.flatten().tolist() == [0, 2, 3, 5] and part.y.tolist() == [1, 0, 0, 1]


def test_names_and_roots(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with refused("'omniglott'", "did you mean 'omniglot'"):
        load("omniglott", "test")
    monkeypatch.delenv("GRAPHFSL_DATA", raising=False)
    with refused("'arrays'", "data.root", "GRAPHFSL_DATA"):
        load("arrays", "test")
    monkeypatch.setenv("GRAPHFSL_DATA", str(tmp_path))
    npz(tmp_path / "test.npz", features=np.zeros((2, 2)), labels=[0, 1])
    assert len(load("arrays", "test").classes) == 2


# ---- the cache ----


def counting() -> tuple[list[int], Any]:
    calls: list[int] = []

    def fill(out: np.ndarray) -> None:
        calls.append(1)
        out[:] = np.arange(6).reshape(2, 3)

    return calls, fill


def cached(key: str, fill: Any) -> np.ndarray:
    return cache.cached(key, (2, 3), np.int64, fill)


def files(folder: Path) -> list[str]:
    """What lies in the cache, locks aside."""
    return sorted(p.name for p in folder.iterdir() if p.suffix != ".lock")


def test_cache_builds_once_and_never_writes_back(home: Path) -> None:
    calls, build = counting()
    first, second = cached("a", build), cached("a", build)
    assert len(calls) == 1 and np.array_equal(first, second) and files(home) == ["a.npy"]
    second[:] = 9  # copy on write
    assert np.array_equal(cached("a", build), first) and len(calls) == 1
    cached("b", build)
    assert len(calls) == 2


@pytest.mark.parametrize(
    "content",
    [b"", b"junk", b"PK\3\4" + b"\0" * 40, b"\x93NUMPY\1\0\xff\xff{", "truncated", "pickle"],
)
def test_cache_rebuilds_a_corrupt_file(home: Path, content: Any, tmp_path: Path) -> None:
    calls, build = counting()
    expected = np.array(cached("a", build))
    path = home / "a.npy"
    whole = path.read_bytes()
    if content == "pickle":
        np.save(path, np.array([Trap(tmp_path / "sprung")], dtype=object), allow_pickle=True)
    else:
        path.write_bytes(whole[:-8] if content == "truncated" else content)
    assert np.array_equal(cached("a", build), expected) and len(calls) == 2
    assert (
        path.read_bytes() == whole
        and np.array_equal(cached("a", build), expected)
        and len(calls) == 2
    )
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("blocked", ["cache is a file", "entry is a folder"])
def test_an_unwritable_cache_is_done_without(home: Path, blocked: str) -> None:
    if blocked == "cache is a file":
        home.write_text("in the way")
    else:
        (home / "a.npy").mkdir(parents=True)
    build = counting()[1]
    with pytest.warns(UserWarning, match=r"a\.npy could not be written"):
        assert np.array_equal(cached("a", build), np.arange(6).reshape(2, 3))
    if blocked == "entry is a folder":
        assert files(home) == ["a.npy"], "no temporary file is left"


def test_the_cache_says_nothing_when_all_is_well() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.from_numpy(cached("a", counting()[1]))
        torch.from_numpy(cached("a", counting()[1]))
