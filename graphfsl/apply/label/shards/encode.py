"""A folder of images, or a file of features, as a pool in shards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from graphfsl.apply.folder_encoder import folder_encoder, folder_range
from graphfsl.apply.folder_features import encode_files
from graphfsl.apply.label.pool_files import Pool, image_files, names_of, read_pool, why_unreadable
from graphfsl.apply.label.shards.shard_files import (
    FEATURES,
    digest,
    is_made,
    open_shards,
    shard_facts,
    shard_file,
    write_features,
    write_manifest,
)
from graphfsl.apply.label.shards.workers import Work
from graphfsl.core.encoder import block_size
from graphfsl.core.pipeline import Pipeline
from graphfsl.data.images import Files
from graphfsl.data.pixel_range import Range
from graphfsl.data.transforms import Transform
from graphfsl.experiment.learner_spec import PartSpec
from graphfsl.io.checkpoint import read_json, write_json
from graphfsl.loops.encode import encoding_device
from graphfsl.loops.encoder_digest import encoder_digest
from graphfsl.loops.feature_cache import decides_features

LISTS = "files"  # the folder of JSON files that say which images a shard is of


@dataclass(frozen=True)
class EncodeShard:
    """Encodes the images of a shard.

    Args:
        folder: of the shards.
        key: the digest of the encoder and of what images are made into.
        root: the folder of the images.
        learner: whose encoder it is.
        transform: the normalisation of images.
        size: pixels of a side; None takes the encoder's own.
        channels: of the images.
        range: the values of black and white.
    """

    folder: Path
    key: str
    root: Path
    learner: Pipeline = field(repr=False)
    transform: Transform
    size: int | None
    channels: int
    range: Range | None
    what: str = "encoding"

    def is_done(self, shard: int) -> bool:
        """Whether the shard's file is there, of this encoder and of the images as they are."""
        facts = shard_facts(shard_file(self.folder, FEATURES, shard))
        if facts is None or facts["key"] != self.key:
            return False
        return bool(facts["mark"] == Files(self.root, self._listed(shard)["files"]).mark)

    def __call__(self, shard: int) -> None:
        """Write the features of a shard, and what of it cannot be read."""
        listed = self._listed(shard)
        files, names = listed["files"], listed["names"]
        mark = Files(self.root, files).mark  # before they are read: what changes then is seen later
        x = encode_files(
            self.learner,
            self.transform,
            self.root,
            files,
            self.size,
            self.channels,
            broken=True,
            range=self.range,
            keep=False,
        )
        whole = np.isfinite(x).all(1)
        readable = [names[i] for i in np.flatnonzero(whole)]
        lost = [
            (names[i], why_unreadable(self.root / files[i], self.range))
            for i in np.flatnonzero(~whole)
        ]
        write_features(self.folder, shard, x[whole], self.key, readable, lost, mark)

    def _listed(self, shard: int) -> dict[str, list[str]]:
        listed: dict[str, list[str]] = read_json(_list_file(self.folder, shard))
        return listed


def shard_pool(
    source: Path,
    folder: Path,
    rows: int,
    encoder: PartSpec,
    run: Path | None,
    size: int | None,
    range: Range | None,
    out: Path,
    work: Work,
) -> Pool:
    """The pool of a folder of images, or of a file of features, in shards.

    Shards that are there already are not made again.

    Args:
        source: the folder or the file.
        folder: of the shards.
        rows: samples of a shard.
        encoder: of images.
        run: a run directory whose encoder is taken instead.
        size: the side of the images in pixels; None takes the encoder's own.
        range: the values of black and white.
        out: where `label` writes.
        work: does a task for each shard.

    Raises:
        InputError: where nothing can be read, and where the folder holds other shards.
    """
    if source.is_dir():
        return _of_images(source, folder, rows, encoder, run, size, range, out, work)
    read = read_pool(source, encoder, run, size, range, out)
    pieces = _pieces(len(read.names), rows)
    key = digest(str(source.resolve()), source.stat().st_size, source.stat().st_mtime_ns)
    write_manifest(folder, key, digest(read.names, rows), len(pieces))
    for number, piece in enumerate(pieces):
        if not is_made(shard_file(folder, FEATURES, number), key):
            write_features(folder, number, read.x[piece], key, read.names[piece])
    return opened(folder, unreadable=read.unreadable)


def _of_images(
    root: Path,
    folder: Path,
    rows: int,
    encoder: PartSpec,
    run: Path | None,
    size: int | None,
    range: Range | None,
    out: Path,
    work: Work,
) -> Pool:
    files, lost = image_files(root, out)
    called = names_of([*files, *(file for file, _ in lost)])
    pieces = _pieces(len(files), rows)
    net, transform, size, channels = folder_encoder(encoder, run, size)
    limits = folder_range(run, range)
    key = _encoder_key(net, transform, size, channels, limits)
    write_manifest(folder, key, digest(str(root.resolve()), files, rows), len(pieces))
    for number, piece in enumerate(pieces):
        path = _list_file(folder, number)
        if not path.is_file():
            write_json(path, {"files": files[piece], "names": called[piece]})
    places = (folder.resolve(), key, root.resolve())
    task = EncodeShard(*places, net, transform, size, channels, limits)
    work(task, np.arange(len(pieces)).tolist())
    own = zip(called[len(files) :], (why for _, why in lost), strict=True)
    file_of = dict(zip(called, files, strict=False))
    return opened(folder, {name: root / file for name, file in file_of.items()}, [*own], limits)


def opened(
    folder: Path,
    images: dict[str, Path] | None = None,
    unreadable: Sequence[tuple[str, str]] = (),
    range: Range | None = None,
) -> Pool:
    """The pool of a folder of shards.

    Args:
        folder: of the shards.
        images: name -> file; None where there are only features.
        unreadable: samples that are in no shard, and why.
        range: of the images' values.

    Raises:
        InputError: for a shard that is missing, damaged or of another encoder.
    """
    shards, names, lost = open_shards(folder)
    files = [] if images is None else [images[name] for name in names]
    return Pool(names, shards, files, sorted([*unreadable, *lost]), range)


def _encoder_key(
    net: Pipeline, transform: Transform, size: int | None, channels: int, limits: Range | None
) -> str:
    """A digest of the encoder and of what images are made into."""
    device, side = encoding_device(net, None), size or getattr(net.encoder, "size", None) or 84
    at_once = block_size(net.encoder, (channels, side, side), device)
    key = encoder_digest(net.encoder, *decides_features(transform, device, at_once))
    key.update(repr((side, channels, limits)).encode())
    return key.hexdigest()


def _pieces(n: int, rows: int) -> list[slice]:
    """The samples of each shard."""
    starts = np.arange(0, n, rows).tolist()
    return [slice(start, min(start + rows, n)) for start in starts]


def _list_file(folder: Path, shard: int) -> Path:
    return folder / LISTS / f"{shard:05d}.json"
