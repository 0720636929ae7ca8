"""Features of a frozen encoder: computed once, block by block, kept on disk, and resumed where they were stopped."""

from __future__ import annotations

import io
import math
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from filelock import FileLock
from rich.markup import escape
from rich.progress import track
from torch import Tensor, nn

from graphfsl.core.batchnorm import trained_without_averages
from graphfsl.core.encoder import call_encoder
from graphfsl.core.learner import Pipeline
from graphfsl.data.images import Files, all_broken, decode, image_paths, read_folder_classes, subfolders
from graphfsl.data.pixel_range import Range, warn_if_narrow
from graphfsl.data.split import Split
from graphfsl.data.transforms import Transform
from graphfsl.io.array_cache import cache_dir
from graphfsl.io.checkpoint import write_atomically
from graphfsl.io.errors import InputError
from graphfsl.loops.encoder_digest import encoder_digest

IMAGES_AT_ONCE = 1024  # of 28 x 28 pixels
HASHED_AT_ONCE = 4096  # images
SEEN = 256  # images that are looked at before they are encoded; one of an ordinary set suffices
SPLITS = ("train", "val", "test")
AVERAGES = "train under learner.batch_norm=running, or pretrain the encoder, so that it stores averages"


def encode_split(learner: Pipeline, split: Split, transform: Transform) -> Split:
    """The split's images as features (N, d) of the learner's encoder and on its device: each is encoded once."""
    check_alone(learner.encoder)
    device = _place(learner, None)
    blocks = split.blocks(block_size(learner.encoder, split.shape, device))
    return replace(split, x=torch.cat([encode(learner, x, transform, device) for x in blocks]), stored=None)


@torch.no_grad()
def encode(learner: Pipeline, x: Tensor, transform: Transform, device: torch.device | str) -> Tensor:
    """Images (m, C, H, W) -> features (m, d) float32 of the learner's encoder in evaluation mode, on `device`.

    They are flattened maps where a part of the learner wants maps. Raises InputError for features that are not finite.
    """
    encoder = learner.encoder
    was_training = encoder.training
    encoder.eval()
    try:
        z = call_encoder(encoder, transform.plain()(x.to(device)), learner.wants_maps)
        z = (z.flatten(1) if learner.wants_maps else learner.readout(z)).float()
    finally:
        encoder.train(was_training)
    if not bool(z.isfinite().all()):
        raise InputError(f"the encoder {type(encoder).__name__} made features that are not finite")
    return z


def check_alone(encoder: nn.Module) -> None:
    """InputError where images cannot be encoded without their episode: an encoder was trained without averages.

    An untrained one passes, whose averages are as good as its weights.
    """
    if trained_without_averages(encoder):
        raise InputError(
            f"the encoder's BatchNorm stored no averages, so that no image can be encoded alone; {AVERAGES}"
        )


def block_size(encoder: nn.Module, shape: tuple[int, ...], device: torch.device | str) -> int:
    """Images at once; as many as fit 1024 of 28 x 28 pixels on a CPU, eight times as many on a GPU."""
    size = getattr(encoder, "size", None)  # of an encoder that resizes
    pixels = max(math.prod(shape[1:]), (size or 0) ** 2)
    return max(1, (1 if torch.device(device).type == "cpu" else 8) * IMAGES_AT_ONCE * 28 * 28 // pixels)


def cached_features(
    learner: Pipeline, split: Split, transform: Transform, device: torch.device | str | None = None
) -> Split:
    """The split with the features (N, d) of the learner's encoder for its images, a memory map in the cache.

    They are found again by what they are made from: the encoder, its weights, the normalisation, the images and their
    labels, and the kind of device, since a GPU rounds in another way. See `_stored` for how they are kept.
    device: where they are computed; None takes the encoder's.
    """
    check_alone(learner.encoder)
    device = _place(learner, device)
    size = block_size(learner.encoder, split.shape, device)
    key = encoder_digest(learner.encoder, *_made(transform, device, size))
    for x in split.blocks(HASHED_AT_ONCE):
        key.update(x.cpu().flatten().numpy().data)
    key.update(b"maps" if learner.wants_maps else b"")
    key.update(repr((split.shape, len(split.y))).encode() + split.y.cpu().numpy().tobytes())

    def encoded(first: int, last: int) -> Tensor:
        return encode(learner, split.gather(torch.arange(first, last, device=split.x.device)), transform, device)

    features: Any = _stored(key.hexdigest(), len(split.y), size, encoded, split.name)
    return replace(split, x=features, stored=None)  # a Split makes a tensor of it


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
    """Encode a folder of images: `out`/<split>.npz for each split, in the layout that data set `arrays` reads.

    root: either folders train, val and test (those that there are) of class folders, or class folders, which make the
        split "test". A folder `unlabeled` beside class folders has label -1.
    size: pixels of a side, to which every image is squeezed; None takes the encoder's own, or 84. channels: 3, or 1
        for gray. Images are decoded and encoded a block at a time, and go on after a stop as in `cached_features`.
    range: the values of black and white, see `images.to_array`.
    Each file holds features (n, d) float32, labels (n,), class_names, paths (n,) relative to `root`, and range (2,),
    empty where each image had that of its type.
    Raises InputError for images that cannot be read, and where no folder, class or space is found.
    """
    root, written = root.expanduser().resolve(), []
    for split, classes, pool in _folders(root):
        groups = [*classes.values(), pool]
        names = [p.relative_to(root).as_posix() for group in groups for p in group]
        x = encode_files(learner, transform, root, names, size, channels, device, f"{root.name}/{split}", range=range)
        y = np.repeat([*np.arange(len(classes)), -1], [len(group) for group in groups])
        buffer = io.BytesIO()
        limits = np.array(range or [], np.float64)
        np.savez(buffer, features=x, labels=y, class_names=list(classes), paths=np.array(names), range=limits)
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
) -> np.ndarray:
    """Features (n, d) of the image files `names` below `root`: sizes, blocks and resuming as in `write_features`.

    shown: what the progress bar calls them. broken: a file that cannot be read makes a row of NaN, not an InputError.
    range: the values of black and white, see `images.to_array`.
    """
    check_alone(learner.encoder)
    device, size = _place(learner, device), size or getattr(learner.encoder, "size", None) or 84
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
        z = encode(learner, torch.from_numpy(np.stack([blank if i is None else i for i in x])), transform, device)
        z[torch.tensor([i is None for i in x])] = float("nan")
        return z

    key = encoder_digest(learner.encoder, *_made(transform, device, at_once))
    key.update(repr((files.mark, size, channels, range, names)).encode(errors="surrogateescape"))
    sample = names[:: -(-len(names) // SEEN)]
    warn_if_narrow((x for name in sample if (x := image(name)) is not None), str(root))
    key.update(b"broken" if broken else b"")
    x = _stored(key.hexdigest(), len(names), at_once, encoded, shown or root.name)
    lost = np.flatnonzero(np.isnan(x).any(1)).tolist() if broken else []
    for first in sorted({i // at_once * at_once for i in lost}):
        last = min(first + at_once, len(names))
        if any(image(names[i]) is not None for i in lost if first <= i < last):
            x[first:last] = encoded(first, last).cpu().numpy()  # what was not readable then may be now
            _keep(key.hexdigest(), first, x[first:last])
    return x


def _folders(root: Path) -> Iterator[tuple[str, dict[str, list[Path]], list[Path]]]:
    """(split, class name -> files, unlabeled files) of each split below a folder."""
    found = {p.name: p for p in subfolders(root) if p.name in SPLITS and subfolders(p)} if root.is_dir() else {}
    splits = {s: read_folder_classes(found[s]) for s in SPLITS if s in found} or {"test": read_folder_classes(root)}
    for a, b in (("train", "val"), ("train", "test"), ("val", "test")):
        if both := splits.get(a, {}).keys() & splits.get(b, {}).keys():
            raise InputError(f"{root}: class {min(both)!r} is in {a}/ and in {b}/; splits must share no class")
    for split, classes in splits.items():
        pool = found.get(split, root) / "unlabeled"
        yield split, classes, image_paths(pool) if pool.is_dir() else []


def _place(learner: Pipeline, device: torch.device | str | None) -> torch.device:
    """Where the encoder computes; it is moved where a device is given."""
    if device is not None:
        learner.encoder.to(device)
        return torch.device(device)
    return next((p.device for p in learner.encoder.parameters()), torch.device("cpu"))


def _made(transform: Transform, device: torch.device, block: int) -> tuple[Any, ...]:
    """What decides features beside the encoder: the normalisation, and what changes their last digits."""
    return transform.mean, transform.std, device.type, block


def _stored(key: str, n: int, size: int, encoded: Callable[[int, int], Tensor], name: str) -> np.ndarray:
    """(n, d) rows of encoded(first, last + 1), made in blocks of `size`: <cache>/features/<key>.npy, or in RAM.

    Blocks are appended to <key>.part, each brought to the disk before the next, and the complete file is renamed. What
    was stopped in between goes on behind its last block but one: the last may be half written, those before it are
    not. A second process waits, and finds the file. A cache that cannot be written is done without.
    """
    folder = cache_dir() / "features"
    path, part = folder / f"{key}.npy", folder / f"{key}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f"{key}.lock"):
            found = _read(path, n)
            if found is None:
                _fill(part, n, size, encoded, name)
                os.replace(part, path)
                found = np.load(path, mmap_mode="c", allow_pickle=False)
            return found
    except (OSError, NotImplementedError) as error:  # the latter where the file system knows no locks
        warnings.warn(f"features are not kept in {folder} ({error}): they will be computed again", stacklevel=3)
        return torch.cat([encoded(*ids).cpu() for ids in _blocks(0, n, size, name)]).numpy()


def _keep(key: str, first: int, rows: np.ndarray) -> None:
    """Put rows (k, d) into the file of `_stored`, from row `first` on; a cache that cannot be written is left."""
    path = cache_dir() / "features" / f"{key}.npy"
    with suppress(OSError, ValueError), FileLock(path.with_suffix(".lock")):
        kept = np.load(path, mmap_mode="r+", allow_pickle=False)
        kept[first : first + len(rows)] = rows
        kept.flush()


def _fill(part: Path, n: int, size: int, encoded: Callable[[int, int], Tensor], name: str) -> None:
    part.touch()
    with part.open("r+b") as file:
        for first, last in _blocks(_rows_done(file, size), n, size, name):
            x = encoded(first, last).cpu().numpy()
            if first == 0:
                file.seek(0)
                header = {"descr": np.lib.format.dtype_to_descr(x.dtype), "fortran_order": False}
                np.lib.format.write_array_header_1_0(file, {**header, "shape": (n, x.shape[1])})
                file.truncate()
            file.write(x.tobytes())
            file.flush()
            os.fsync(file.fileno())


def _rows_done(file: BinaryIO, size: int) -> int:
    """How many rows of an array that was being written are surely whole; the file is cut off, and stands, behind them.

    0 where it holds nothing of the kind.
    """
    try:
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    except ValueError:
        return 0
    start, row = file.tell(), shape[-1] * dtype.itemsize
    rows = max((file.seek(0, os.SEEK_END) - start) // row // size - 1, 0) * size
    file.seek(start + rows * row)
    file.truncate()
    return rows


def _read(path: Path, n: int) -> np.ndarray | None:
    try:
        found = np.load(path, mmap_mode="c", allow_pickle=False)
    except Exception:  # bytes that are not an array's make NumPy raise almost anything
        return None
    return found if len(found) == n else None


def _blocks(first: int, n: int, size: int, name: str) -> Iterable[tuple[int, int]]:
    """(first, last + 1) of each block of rows, with a progress bar for 1000 images or more."""
    ranges = [(i, min(i + size, n)) for i in range(first, n, size)]
    return track(ranges, f"encoding {escape(name)}", disable=n - first < 1000, transient=True)
