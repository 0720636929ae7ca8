"""CIFAR-FS and FC100 from binary files, pickles and npz files; no pickle runs anything."""

from __future__ import annotations

import os
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from graphfsl.data import Split, load
from graphfsl.data.class_lists import classes_of
from graphfsl.io.package_data import class_list
from tests.support.refusal import refused
from tests.support.set_files import NAMES, SPLITS, fake_cifar, write_binary

pytestmark = pytest.mark.usefixtures("home")  # an empty cache
REAL = os.environ.get("GRAPHFSL_DATA")


def write_python(root: Path, protocol: int | str) -> Path:
    folder = root / "cifar-100-python"
    folder.mkdir(parents=True)
    for file, (pixels, y) in fake_cifar().items():
        entries = {"filenames": [f"{k}.png" for k in y], "fine_labels": y.tolist(), "data": pixels}
        dumped = (
            python2(entries)
            if protocol == "Python 2"
            else pickle.dumps(entries, protocol=int(protocol))
        )
        (folder / file).write_bytes(dumped)
    meta = {"fine_label_names": NAMES, "coarse_label_names": ["x"] * 20}
    dumped = python2(meta) if protocol == "Python 2" else pickle.dumps(meta, protocol=int(protocol))
    (folder / "meta").write_bytes(dumped)
    return folder


def python2(entries: dict[str, Any]) -> bytes:
    """What Python 2's cPickle writes under protocol 2: byte strings, and arrays by way of
    numpy.core.multiarray.
    """

    def dump(value: Any) -> bytes:
        if isinstance(value, str):
            return b"U" + bytes([len(value)]) + value.encode()
        if isinstance(value, int):
            return b"K" + bytes([value])
        if isinstance(value, list):
            return b"]q\x07(" + b"".join(map(dump, value)) + b"e"
        dtype = b"cnumpy\ndtype\nq\x03U\x02u1K\x00K\x01\x87Rq\x04(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"  # noqa: E501
        shape = b"".join(b"M" + struct.pack("<H", n) for n in value.shape) + b"\x86"
        raw = b"T" + struct.pack("<I", value.nbytes) + value.tobytes()
        made = (
            b"cnumpy.core.multiarray\n_reconstruct\nq\x05cnumpy\nndarray\nq\x06K\x00\x85U\x01b\x87R"
        )
        return made + b"(K\x01" + shape + dtype + b"\x89" + raw + b"tb"

    return b"\x80\x02}q\x01(" + b"".join(dump(k) + dump(v) for k, v in entries.items()) + b"u."


def same(a: Split, b: Split) -> bool:
    return (
        torch.equal(a.x, b.x)
        and torch.equal(a.y, b.y)
        and (a.classes, a.groups) == (b.classes, b.groups)
    )


@pytest.mark.parametrize("name", ["cifar_fs", "fc100"])
def test_cifar_classes_and_samples(tmp_path: Path, name: str) -> None:
    write_binary(tmp_path)
    files = fake_cifar()
    for split in SPLITS:
        got, (classes, _) = load(name, split, tmp_path), classes_of(name, split)
        assert (
            got.classes == tuple(classes)
            and got.name == f"{name}/{split}"
            and got.shape == (3, 32, 32)
        )
        assert got.y.tolist() == np.repeat(np.arange(len(classes)), 3).tolist()
        for k, c in enumerate(classes):
            rows = [row for pixels, y in files.values() for row in pixels[y == NAMES.index(c)]]
            expected = np.stack(sorted(rows, key=lambda row: row.tobytes())).reshape(-1, 3, 32, 32)
            assert np.array_equal(got.x[got.y == k].numpy(), expected)
            assert c in class_list("fc100")[fc100_split(got.groups[k])][got.groups[k]]  # type: ignore[index]
    if name == "fc100":
        assert load(name, "test", tmp_path).groups == classes_of(name, "test")[1]


def fc100_split(group: str) -> str:
    return next(s for s in SPLITS if group in class_list("fc100")[s])


@pytest.mark.parametrize("protocol", ["Python 2", 2, 3, 4, 5])
def test_cifar_files_of_both_forms_give_the_same(tmp_path: Path, protocol: int | str) -> None:
    write_binary(tmp_path / "binary")
    folder = write_python(tmp_path / "python", protocol)
    # that the fake is what Python reads
    known = pickle.loads((folder / "train").read_bytes(), encoding="latin-1")
    assert np.array_equal(known["data"], fake_cifar()["train"][0]) and known["filenames"][
        0
    ].endswith(".png")
    for name in ("cifar_fs", "fc100"):
        assert same(load(name, "val", tmp_path / "binary"), load(name, "val", tmp_path / "python"))
    assert same(load("fc100", "val", folder), load("fc100", "val", tmp_path / "python")), (
        "root may be the folder itself"
    )


@pytest.mark.parametrize("folder", ["cifar-fs", "cifar_fs", ""])
def test_npz_come_first_and_give_the_same(tmp_path: Path, folder: str) -> None:
    binary = load("cifar_fs", "val", write_binary(tmp_path).parent)
    names = sorted(binary.classes)
    y = np.array([names.index(binary.classes[k]) for k in binary.y])
    order = np.random.default_rng(1).permutation(len(y))
    x = binary.x.numpy().transpose(0, 2, 3, 1)
    (tmp_path / folder).mkdir(exist_ok=True)
    npz = tmp_path / folder / "val.npz"
    np.savez(npz, images=x[order], labels=y[order], class_names=names)
    for path in tmp_path.glob("cifar-100-binary/*"):
        path.write_bytes(b"")
    assert same(load("cifar_fs", "val", tmp_path), binary)
    np.savez(npz, images=x[order], labels=np.where(y[order] == 3, -1, y[order]), class_names=names)
    with refused("val.npz", "1 of 16 classes", names[3]):
        load("cifar_fs", "val", tmp_path)
    np.savez(npz, images=x[order], labels=y[order])
    bare = load("cifar_fs", "val", tmp_path)
    assert bare.classes == tuple(map(str, range(16))) and bare.groups is None
    assert (
        np.array_equal(bare.x.numpy().transpose(0, 2, 3, 1), x[order])
        and bare.y.tolist() == y[order].tolist()
    )
    np.savez(npz, images=x[order][:, :16, :16], labels=y[order])
    with refused("val.npz", "(n, 32, 32, 3)", "(3, 16, 16)"):
        load("cifar_fs", "val", tmp_path)


def test_unlabeled_images_of_an_npz_come_last(tmp_path: Path) -> None:
    classes = classes_of("fc100", "val")[0]
    images = np.random.default_rng(0).integers(0, 256, (22, 32, 32, 3), dtype=np.uint8)
    np.savez(tmp_path / "val.npz", images=images, labels=[-1, -1, *range(20)], class_names=classes)
    assert load("fc100", "val", tmp_path).y.tolist() == [*range(20), -1, -1]


def test_cifar_refuses(tmp_path: Path) -> None:
    with refused(
        "cifar_fs/test not found",
        "cifar-100-binary",
        "data.download=true",
        "by hand",
        "md5 03b5dce0",
    ):
        load("cifar_fs", "test", tmp_path)
    with refused("unknown split 'tests'"):
        load("cifar_fs", "tests", tmp_path)
    folder = write_binary(tmp_path)
    whole = (folder / "test.bin").read_bytes()
    (folder / "test.bin").write_bytes(whole[:-1])
    with refused("test.bin", "whole number of records", "3074"):
        load("cifar_fs", "test", tmp_path)
    (folder / "test.bin").unlink()
    with refused("test.bin", "No such file"):
        load("cifar_fs", "test", tmp_path)
    (folder / "test.bin").write_bytes(whole)
    (folder / "fine_label_names.txt").write_text("apple\nbaby\n")  # baby is a test class
    with refused("19 of 20 classes are missing", "'whale'"):
        load("cifar_fs", "test", tmp_path)


class Trap:
    """Unpickling it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_pickle_runs_nothing(tmp_path: Path, protocol: int) -> None:
    folder, sprung = write_python(tmp_path, 2), tmp_path / "sprung"
    honest = {"fine_labels": [1], "data": np.zeros((1, 3072), np.uint8)}
    for entries in (
        Trap(sprung),
        honest | {"data": Trap(sprung)},
        honest | {"more": [Trap(sprung)]},
    ):
        (folder / "train").write_bytes(pickle.dumps(entries, protocol=protocol))
        with refused("train", ".mkdir", "do not use it"):
            load("cifar_fs", "test", tmp_path)
    assert not sprung.exists()
    pickle.loads((folder / "train").read_bytes())
    assert sprung.exists(), "the trap was a trap"


@pytest.mark.parametrize(
    "entries",
    [
        [1, 2],
        {"fine_labels": [1]},
        {"data": np.zeros((1, 3072), np.uint8)},
        {"data": np.zeros((2, 3072), np.uint8), "fine_labels": [1]},
        {"data": np.zeros((1, 3072), np.int8), "fine_labels": [1]},
        {"data": np.zeros((1, 3072), np.float64), "fine_labels": [1]},
        {"data": np.zeros((3072, 2), np.uint8).T, "fine_labels": [1, 2]},
        {"data": np.zeros((1, 3072), np.uint8), "fine_labels": ["1"]},
        {"data": b"x" * 3072, "fine_labels": [1]},
    ],
    ids=range(9),
)
@pytest.mark.parametrize("protocol", [2, 5])
def test_python_files_that_are_not_cifar(tmp_path: Path, entries: Any, protocol: int) -> None:
    folder = write_python(tmp_path, 2)
    (folder / "train").write_bytes(pickle.dumps(entries, protocol=protocol))
    with refused("train", "fetch CIFAR-100 again"):
        load("cifar_fs", "test", tmp_path)
    (folder / "meta").write_bytes(pickle.dumps(entries, protocol=protocol))
    with refused("meta", "fetch CIFAR-100 again"):
        load("cifar_fs", "test", tmp_path)


@pytest.mark.skipif(
    not REAL, reason="needs the real CIFAR-FS; set GRAPHFSL_DATA to the folder that holds cifar-fs"
)
def test_real_cifar_fs() -> None:
    supers = {
        g: set(classes) for split in class_list("fc100").values() for g, classes in split.items()
    }
    seen = set()
    for split, number in (("train", 64), ("val", 16)):
        got = load("cifar_fs", split, REAL)
        assert got.counts.tolist() == [600] * number and got.shape == (3, 32, 32)
        assert got.classes == tuple(class_list("cifar_fs")[split])
        assert all(c in supers[g] for c, g in zip(got.classes, got.groups or (), strict=True))
        seen |= set(got.groups or ())
    assert seen == set(supers)
