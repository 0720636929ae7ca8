"""Data sets in the files of MNIST."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from graphfsl.data import load
from tests.support.refusal import refused


def write(path: Path, array: np.ndarray, packed: bool = True) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    head = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    data = head + array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(data) if packed else data)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    images = np.random.default_rng(0).integers(0, 255, (20, 28, 28))
    labels = np.arange(20) % 10
    for folder in ("mnist-test", "notmnist-test", "kmnist"):
        write(tmp_path / folder / "t10k-images-idx3-ubyte.gz", images)
        write(tmp_path / folder / "t10k-labels-idx1-ubyte.gz", labels)
    prefix = tmp_path / "emnist" / "emnist-letters-test"
    write(Path(f"{prefix}-images-idx3-ubyte"), images, packed=False)
    write(Path(f"{prefix}-labels-idx1-ubyte"), labels + 1, packed=False)
    return tmp_path


def test_images_labels_and_names(root: Path) -> None:
    split = load("mnist", "test", root=root)
    assert split.name == "mnist/test" and split.classes == tuple("0123456789")
    assert split.x.shape == (20, 1, 28, 28) and split.y.tolist() == [*range(10)] * 2
    assert load("notmnist", "test", root=root).classes == tuple("ABCDEFGHIJ")
    assert len(load("kmnist", "test", root=root).classes) == 10
    letters = load("emnist", "test", root=root, kind="letters")
    assert letters.classes == tuple("ABCDEFGHIJ"), "labels begin with 1"
    assert torch.equal(letters.x, split.x.mT), "its files swap rows and columns"
    assert load("mnist", "test", root=root, size=14).shape == (1, 14, 14)
    alone = load("mnist", "test", root=root / "mnist-test")
    assert torch.equal(alone.x, split.x)


def test_what_is_wrong_is_one_line(root: Path, tmp_path: Path) -> None:
    with refused("train and test", "'val'"):
        load("mnist", "val", root=root)
    with refused("mnist not found", "data.root"):
        load("mnist", "train", root=root)
    with refused("kind of EMNIST"):
        load("emnist", "test", root=root, kind="letter")
    file = root / "mnist-test" / "t10k-images-idx3-ubyte.gz"
    labels = root / "kmnist" / "t10k-labels-idx1-ubyte.gz"
    write(labels, np.zeros((20, 1)))
    with refused("labels-idx1", "must hold labels (n,)"):
        load("kmnist", "test", root=root)
    write(labels, np.zeros(0))
    write(root / "kmnist" / "t10k-images-idx3-ubyte.gz", np.zeros((0, 28, 28)))
    with refused("images-idx3", "holds no pixel"):
        load("kmnist", "test", root=root)
    write(file, np.zeros((20, 28, 20)))
    with refused("28 x 20 pixels", "must be square"):
        load("mnist", "test", root=root)
    write(file, np.zeros((19, 28, 28)))
    with refused("19 images", "20 labels"):
        load("mnist", "test", root=root)
    file.write_bytes(gzip.compress(b"not an array of bytes"))
    with refused("no idx file"):
        load("mnist", "test", root=root)
    file.write_bytes(b"\x1f\x8b cut")
    with refused("cannot be read"):
        load("mnist", "test", root=root)
    labels = root / "notmnist-test" / "t10k-labels-idx1-ubyte.gz"
    write(labels, np.full(20, 11))
    with refused("label 11", "10 classes"):
        load("notmnist", "test", root=root)
