"""Data sets of npz files, which are never unpickled."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from graphfsl.data import load
from graphfsl.data.sets import arrays
from tests.support.pictures import modified
from tests.support.refusal import refused

pytestmark = pytest.mark.usefixtures("home")  # an empty cache


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
    before = modified(tmp_path / "d")
    split = load("arrays", "val", root=root)
    assert split.name == "d/val" and split.x.dtype == torch.uint8 and split.x.is_contiguous()
    assert np.array_equal(split.x.numpy(), images.transpose(0, 3, 1, 2))
    assert split.y.tolist() == [1, 0, -1, 2, 0], "labels are numbered in their order, -1 has none"
    assert split.classes == ("n3", "n64", "n99") and split.groups == ("s3", "s4", "s19")
    assert modified(tmp_path / "d") == before


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
