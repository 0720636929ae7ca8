"""Omniglot from folders and zips."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from graphfsl.data import Episodes, load
from graphfsl.data.sets import omniglot
from graphfsl.functional.distances import cosine
from graphfsl.functional.prototypes import prototypes
from graphfsl.functional.statistics import mean_and_ci95
from tests.support.pictures import files, modified, picture
from tests.support.refusal import refused

pytestmark = pytest.mark.usefixtures("home")  # an empty cache

USERS_CACHE = os.environ.get("GRAPHFSL_CACHE")
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
    before = modified(fake_omniglot)
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
    assert modified(fake_omniglot) == before, "the data root may be read-only"
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
