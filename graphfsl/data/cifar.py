"""CIFAR-100's classes for few-shot splits, from npz files or from CIFAR-100's own files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from graphfsl.data.class_lists import classes_of
from graphfsl.data.npz_files import read_split
from graphfsl.data.split import Split
from graphfsl.io import inert_pickle
from graphfsl.io.downloads import extract, fetch
from graphfsl.io.errors import InputError, require
from graphfsl.io.files import check_regular

URL = "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz"
MD5 = "03b5dce01913d631647c71ecec9e9cb8"
BINARY, PYTHON = "cifar-100-binary", "cifar-100-python"
SHAPE, PIXELS = (3, 32, 32), 3 * 32 * 32


def load(
    name: str, split: str, root: str, folders: Sequence[str], fetch_missing: bool = False
) -> Split:
    """One split of CIFAR-100's classes, 3 x 32 x 32, with its superclasses.

    Its classes stand in the order of data/<name>.json. The samples of a class are sorted by their
    bytes, so that sample i is the same whichever files it comes from. An npz without class names
    keeps its labels as names, in their order, and has no groups.

    Args:
        name: of the data set.
        split: "train", "val" or "test".
        root: holds `<one of folders>/<split>.npz` or `<split>.npz`, else CIFAR-100's training and
            test images.
        folders: names of folders that the set is known by.
        fetch_missing: download CIFAR-100 where neither is there.

    Raises:
        InputError: where neither is there, or what is there is not what it should be.
    """
    classes, _ = classes_of(name, split)
    base = Path(root).expanduser()
    archives = [folder / f"{split}.npz" for folder in (*(base / f for f in folders), base)]
    where = next((path for path in archives if path.is_file()), None)
    if where:
        given = read_split(split, str(where.parent))
        require(
            given.shape == SHAPE,
            f"{where} must hold uint8 images (n, 32, 32, 3), not samples of shape {given.shape}",
        )
        if all(c.isdecimal() for c in given.classes):
            require(
                len(given.classes) == len(classes),
                f"{where} must hold the {len(classes)} classes of {name}, not {len(given.classes)}",
            )
            return Split(given.x, given.y, given.classes, f"{name}/{split}")
        x, y, names = np.asarray(given.x), np.asarray(given.y), list(given.classes)
    else:
        if fetch_missing:
            download(root)
        where = _find(base)
        if where is None:
            raise InputError(
                f"{name}/{split} not found: no {archives[0]}, and no {BINARY} or {PYTHON} in "
                f"{base}; "
                f"data.download=true fetches CIFAR-100, or by hand: unpack {URL} (md5 {MD5}) "
                f"into {base}"
            )
        x, y, names = _read(where, classes)
    if missing := [c for c in classes if c not in names]:
        raise InputError(
            f"{where}: {len(missing)} of {len(classes)} classes are missing, {missing[0]!r} first"
        )
    number = {c: k for k, c in enumerate(classes)}
    # the last is what label -1 becomes, -2 is another split
    y = np.array([*(number.get(c, -2) for c in names), -1])[y]
    order = sorted(np.flatnonzero(y >= -1), key=lambda i: (y[i] < 0, y[i], x[i].tobytes()))
    groups = tuple(_superclasses()[c] for c in classes)
    return Split(
        torch.from_numpy(x[order]),
        torch.from_numpy(y[order]),
        tuple(classes),
        f"{name}/{split}",
        groups,
    )


def download(root: str) -> None:
    """Fetch CIFAR-100 (169 MB) into `root` and unpack it there.

    Nothing is done where one of its two forms is there already.
    """
    base = Path(root).expanduser()
    if _find(base) is None:
        extract(fetch(URL, base, MD5), base / BINARY)


def _find(base: Path) -> Path | None:
    folders = (base / BINARY, base / PYTHON, base)
    return next((p for p in folders if (p / "train.bin").is_file() or (p / "meta").is_file()), None)


def _superclasses() -> dict[str, str]:
    """Each of CIFAR-100's classes -> its superclass, by which FC100 is split."""
    pairs: dict[str, str] = {}
    for split in ("train", "val", "test"):
        classes, groups = classes_of("fc100", split)
        pairs |= zip(classes, groups or (), strict=True)
    return pairs


def _read(folder: Path, classes: Sequence[str]) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """The images (N, 3, 32, 32) uint8 and fine labels (N,) int64 of some classes.

    And the names of all labels.
    """
    binary = (folder / "train.bin").is_file()
    try:
        if binary:
            names = (folder / "fine_label_names.txt").read_text(encoding="utf-8").split()
        else:
            names = [str(n) for n in _entries(folder / "meta")["fine_label_names"]]
        wanted = [k for k, c in enumerate(names) if c in set(classes)]
        x, y = [], []
        for file in ("train", "test"):  # of each file only what is wanted stays in memory
            pixels, labels = _binary(folder / f"{file}.bin") if binary else _python(folder / file)
            keep = np.isin(labels, wanted)
            x.append(pixels[keep])
            y.append(labels[keep].astype(np.int64))
    except OSError as error:
        raise InputError(
            f"{error.filename or folder} cannot be read ({error.strerror}); fetch CIFAR-100 again"
        ) from None
    except (KeyError, TypeError):
        raise InputError(
            f"{folder / 'meta'} holds no names of the fine labels; fetch CIFAR-100 again"
        ) from None
    return np.concatenate(x).reshape(-1, *SHAPE), np.concatenate(y), names


def _binary(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (n, 3072) and fine labels (n,) of records: superclass, class, pixels."""
    check_regular(path)
    flat = np.fromfile(path, np.uint8)
    require(
        len(flat) % (2 + PIXELS) == 0,
        f"{path} is not a whole number of records of {2 + PIXELS} bytes; fetch CIFAR-100 again",
    )
    records = flat.reshape(-1, 2 + PIXELS)
    return records[:, 2:], records[:, 1]


def _python(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (n, 3072) and fine labels (n,) of one of torchvision's files."""
    entries = _entries(path)
    pixels, labels = inert_pickle.bytes_of(entries.get("data")), entries.get("fine_labels")
    whole = isinstance(labels, list) and all(isinstance(label, int) for label in labels)
    if pixels is None or not whole or pixels.shape != (len(labels), PIXELS):  # type: ignore[arg-type]
        raise InputError(
            f"{path} must hold 'data' (n, {PIXELS}) uint8 and n 'fine_labels'; "
            f"fetch CIFAR-100 again"
        )
    return pixels, np.array(labels, np.int64)


def _entries(path: Path) -> dict[Any, Any]:
    check_regular(path)
    entries = inert_pickle.read(path, inert_pickle.ARRAYS)
    if not isinstance(entries, dict):
        raise InputError(
            f"{path} holds no entries by name, so it is not CIFAR-100's; fetch CIFAR-100 again"
        )
    return entries
