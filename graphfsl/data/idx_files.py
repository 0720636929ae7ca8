"""Images in the files of MNIST: arrays of bytes behind a short head, often gzipped."""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from graphfsl.data.split import Split, readable
from graphfsl.io.errors import InputError, require

BYTES = 8  # the code of unsigned bytes


def read_idx(path: Path) -> np.ndarray:
    """The array of bytes in an idx file, gzipped or not.

    Raises:
        InputError: for a file that is none.
    """
    try:
        data = path.read_bytes()
        data = gzip.decompress(data) if path.suffix == ".gz" else data
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} cannot be read ({error})") from None
    head = 4
    right = len(data) >= head and data[:2] == b"\0\0" and data[2] == BYTES and 1 <= data[3] <= 4
    require(right, f"{path} is no idx file of bytes, as MNIST's are")
    axes = data[3]
    require(len(data) >= head + 4 * axes, f"{path} ends within its head; fetch it again")
    shape = struct.unpack_from(f">{axes}I", data, head)
    found = np.frombuffer(data, np.uint8, offset=head + 4 * axes)
    require(
        found.size == int(np.prod(shape)),
        f"{path} holds {found.size:,} bytes of the {int(np.prod(shape)):,} that its head names; "
        "fetch it again",
    )
    return found.reshape(shape)


def read_idx_split(
    name: str,
    split: str,
    root: str,
    folders: Sequence[str],
    classes: Sequence[str],
    size: int,
    prefix: str = "",
    turned: bool = False,
) -> Split:
    """One split of a data set in MNIST's files, as 1 x size x size, ink bright.

    Args:
        name: of the data set, for the split's name and messages.
        split: "test" reads `t10k-…` or `test-…`, "train" reads `train-…`.
        root: the folder of the files, or the one above it.
        folders: what that folder may be called.
        classes: the name of each label.
        size: pixels of a side.
        prefix: of the files' names.
        turned: whether rows and columns are swapped in the files, as in EMNIST's.

    Raises:
        InputError: for another split, where the files are missing, and where they are not of one
            data set.
    """
    require(
        split in ("train", "test"),
        f"{name} has the splits train and test, and no {split!r}; set evaluation.split=test",
    )
    starts = ("t10k", "test") if split == "test" else ("train",)
    base = readable(Path(root).expanduser(), name)
    places = [base, *(base / folder for folder in folders)]
    images = _find(places, prefix, starts, "images-idx3")
    labels = _find(places, prefix, starts, "labels-idx1")
    if images is None or labels is None:
        raise InputError(
            f"{name} not found: no {prefix}{starts[0]}-images-idx3-ubyte(.gz) with its labels in "
            f"{base} or {', '.join(folders)} below; set data.root=FOLDER"
        )
    x, y = read_idx(images), read_idx(labels).astype(np.int64)
    require(x.ndim == 3, f"{images} must hold images (n, H, W), not {x.shape}")
    require(y.ndim == 1, f"{labels} must hold labels (n,), not {y.shape}")
    require(len(x) == len(y), f"{images} holds {len(x):,} images, but {labels} {len(y):,} labels")
    height, width = x.shape[1:]
    require(len(x) and height and width, f"{images} holds no pixel, only a head; fetch it again")
    require(
        height == width,
        f"{images} holds images of {height} x {width} pixels, which would be distorted; they must "
        "be square, as MNIST's are: pad them",
    )
    known = np.unique(y)
    require(
        known[-1] < len(classes),
        f"{labels} holds the label {known[-1]}, but {name} has {len(classes)} classes",
    )
    x = x.transpose(0, 2, 1) if turned else x
    pixels = torch.from_numpy(x.copy(order="C"))[:, None]  # a file's bytes are for reading only
    if size != pixels.shape[-1]:
        shape = (size, size)
        scaled = torch.nn.functional.interpolate(
            pixels.float(), shape, mode="bilinear", antialias=True
        )
        pixels = scaled.round().clamp(0, 255).to(torch.uint8)
    column = torch.from_numpy(np.searchsorted(known, y))
    names = tuple(classes[label] for label in known)
    return Split(pixels, column, names, f"{name}/{split}")


def _find(places: Sequence[Path], prefix: str, starts: Sequence[str], kind: str) -> Path | None:
    """The first file of a kind; None where there is none."""
    for place in places:
        for start in starts:
            for ending in ("", ".gz"):
                file = place / f"{prefix}{start}-{kind}-ubyte{ending}"
                if file.is_file():
                    return file
    return None
