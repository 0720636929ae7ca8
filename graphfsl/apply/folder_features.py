"""A folder of images as features: computed once, kept on disk, written as npz files."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from graphfsl.core.encoder import block_size
from graphfsl.core.pipeline import Pipeline
from graphfsl.data.images import (
    Files,
    all_broken,
    decode,
    image_paths,
    read_folder_classes,
    subfolders,
)
from graphfsl.data.pixel_range import Range, warn_if_narrow
from graphfsl.data.transforms import Transform
from graphfsl.io.checkpoint import write_atomically
from graphfsl.io.errors import InputError
from graphfsl.io.row_cache import fresh_rows, keep_rows, stored_rows
from graphfsl.loops.encode import check_alone, encode, encoding_device
from graphfsl.loops.encoder_digest import encoder_digest
from graphfsl.loops.feature_cache import decides_features

SEEN = 256  # images that are looked at before they are encoded; one of an ordinary set suffices
SPLITS = ("train", "val", "test")


def write_features(
    learner: Pipeline,
    transform: Transform,
    root: Path,
    out: Path,
    size: int | None = None,
    channels: int = 3,
    device: torch.device | str | None = None,
    range: Range | None = None,
) -> list[Path]:
    """Encode a folder of images into a file for each split, which data set `arrays` reads.

    Each file `out`/<split>.npz holds features (n, d) float32, labels (n,), class_names, paths (n,)
    relative to `root`, and range (2,), empty where each image had that of its type. Images are
    decoded and encoded a block at a time, and go on after a stop as in `cached_features`.

    Args:
        learner: whose encoder it is.
        transform: the normalisation of images.
        root: either folders train, val and test (those that there are) of class folders, or class
            folders, which make the split "test". A folder `unlabeled` beside class folders has
            label -1.
        out: the folder of the files.
        size: pixels of a side, to which every image is squeezed; None takes the encoder's own, or
            84.
        channels: 3, or 1 for gray.
        device: where they are computed; None takes the encoder's.
        range: the values of black and white, see `images.to_array`.

    Returns:
        The files.

    Raises:
        InputError: for images that cannot be read, and where no folder, class or space is found.
    """
    root, written = root.expanduser().resolve(), []
    for split, classes, pool in _folders(root):
        groups = [*classes.values(), pool]
        names = [p.relative_to(root).as_posix() for group in groups for p in group]
        x = encode_files(
            learner,
            transform,
            root,
            names,
            size,
            channels,
            device,
            f"{root.name}/{split}",
            range=range,
        )
        y = np.repeat([*np.arange(len(classes)), -1], [len(group) for group in groups])
        buffer = io.BytesIO()
        limits = np.array(range or [], np.float64)
        np.savez(
            buffer,
            features=x,
            labels=y,
            class_names=list(classes),
            paths=np.array(names),
            range=limits,
        )
        written.append(out / f"{split}.npz")
        write_atomically(written[-1], buffer.getvalue())
    return written


def encode_files(
    learner: Pipeline,
    transform: Transform,
    root: Path,
    names: list[str],
    size: int | None = None,
    channels: int = 3,
    device: torch.device | str | None = None,
    shown: str = "",
    broken: bool = False,
    range: Range | None = None,
    keep: bool = True,
) -> np.ndarray:
    """Features (n, d) of image files, computed a block at a time and kept.

    Sizes, blocks and resuming are as in `write_features`.

    Args:
        learner: whose encoder it is.
        transform: the normalisation of images.
        root: the folder of the files.
        names: of the files, below `root`.
        size: pixels of a side; None takes the encoder's own, or 84.
        channels: 3, or 1 for gray.
        device: where they are computed; None takes the encoder's.
        shown: what the progress bar calls them.
        broken: whether a file that cannot be read makes a row of NaN, not an InputError.
        range: the values of black and white, see `images.to_array`.
        keep: whether they are kept, and found again; else they are computed.
    """
    check_alone(learner.encoder)
    device, size = (
        encoding_device(learner, device),
        size or getattr(learner.encoder, "size", None) or 84,
    )
    at_once = block_size(learner.encoder, (channels, size, size), device)
    files, failed = Files(root, names), dict[str, str]()  # failed: file -> why

    def image(name: str) -> np.ndarray | None:
        try:
            return decode(files.read(name), size, channels, f"{root}/{name}", range)
        except InputError as error:
            failed[name] = str(error)
            return None

    def encoded(first: int, last: int) -> Tensor:
        x = list(map(image, names[first:last]))
        if failed and not broken:
            list(map(image, names[last:]))  # whatever else cannot be read is told too
            raise InputError(all_broken([(n, failed[n]) for n in names if n in failed]))
        blank = np.zeros((channels, size, size), np.uint8)
        z = encode(
            learner,
            torch.from_numpy(np.stack([blank if i is None else i for i in x])),
            transform,
            device,
        )
        z[torch.tensor([i is None for i in x])] = float("nan")
        return z

    key = encoder_digest(learner.encoder, *decides_features(transform, device, at_once))
    key.update(repr((files.mark, size, channels, range, names)).encode(errors="surrogateescape"))
    sample = names[:: -(-len(names) // SEEN)]
    warn_if_narrow((x for name in sample if (x := image(name)) is not None), str(root))
    if not keep:
        return fresh_rows(len(names), at_once, encoded)
    key.update(b"broken" if broken else b"")
    x = stored_rows(key.hexdigest(), len(names), at_once, encoded, shown or root.name)
    lost = np.flatnonzero(np.isnan(x).any(1)).tolist() if broken else []
    for first in sorted({i // at_once * at_once for i in lost}):
        last = min(first + at_once, len(names))
        if any(image(names[i]) is not None for i in lost if first <= i < last):
            # what was not readable then may be now
            x[first:last] = encoded(first, last).cpu().numpy()
            keep_rows(key.hexdigest(), first, x[first:last])
    return x


def _folders(root: Path) -> Iterator[tuple[str, dict[str, list[Path]], list[Path]]]:
    """(split, class name -> files, unlabeled files) of each split below a folder."""
    found = (
        {p.name: p for p in subfolders(root) if p.name in SPLITS and subfolders(p)}
        if root.is_dir()
        else {}
    )
    splits = {s: read_folder_classes(found[s]) for s in SPLITS if s in found} or {
        "test": read_folder_classes(root)
    }
    for a, b in (("train", "val"), ("train", "test"), ("val", "test")):
        if both := splits.get(a, {}).keys() & splits.get(b, {}).keys():
            raise InputError(
                f"{root}: class {min(both)!r} is in {a}/ and in {b}/; splits must share no class"
            )
    for split, classes in splits.items():
        pool = found.get(split, root) / "unlabeled"
        yield split, classes, image_paths(pool) if pool.is_dir() else []
