"""What `label` reads and writes: folders of images, files of features, tables."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track

from graphfsl.apply.folder_encoder import folder_encoder, folder_range
from graphfsl.apply.folder_features import encode_files
from graphfsl.core.display import block, first_of, kind_of
from graphfsl.data.images import SUFFIXES, decode, holds_image, is_image, written
from graphfsl.data.pixel_range import Range
from graphfsl.experiment.learner_spec import PartSpec
from graphfsl.io.arrays import read_arrays
from graphfsl.io.checkpoint import write_atomically
from graphfsl.io.errors import InputError, require, unknown
from graphfsl.io.files import read_regular
from graphfsl.io.plain_text import csv_table

FORMATS = ("csv", "parquet")
TABLES = ("unreadable.csv", "suggest.csv")  # of `label` and `suggest`, which sheets stand beside
ANSWERS, EXPORTS = "answers.sqlite", "exports"  # what `annotate` writes into its folder
SHEET = re.compile(r"\d{3,}-.*\.png")  # the name of a contact sheet's file, in the folder `sheets`


@dataclass(frozen=True)
class Pool:
    """Samples by name, and their features.

    Attributes:
        names: of the n samples.
        x: (n, d) features as an array, or the `PoolShards` that hold them.
        images: the file of each, where they have any.
        unreadable: names of what is left out, and why.
        range: of the images' values.
    """

    names: list[str]
    x: Any
    images: list[Path] = field(default_factory=list)
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    range: Range | None = None  # of the images' values

    @property
    def every_name(self) -> set[str]:
        """The names of all samples, of those that cannot be read too."""
        return {*self.names, *(name for name, _ in self.unreadable)}

    @property
    def called(self) -> str:
        """How its samples are named, in words."""
        by_path, by_number = "paths relative to it", "its `paths`, or else the numbers of its rows"
        return by_path if self.images else by_number

    def __repr__(self) -> str:
        facts = {"features": kind_of(self.x), "names": first_of(self.names, 3)}
        facts |= {"unreadable": f"{len(self.unreadable):,}"} if self.unreadable else {}
        return block(f"Pool of {len(self.names):,} {'images' if self.images else 'samples'}", facts)


def read_pool(
    source: Path,
    encoder: str | Mapping[str, Any] | PartSpec,
    run: Path | None,
    size: int | None,
    range: Range | None = None,
    out: Path | None = None,
) -> Pool:
    """The pool of a folder of images at any depth, or of a file of features.

    Args:
        source: the folder or the file.
        encoder: of images; a name, or a name with options.
        run: a run directory whose encoder is taken instead.
        size: the side of the images in pixels; None takes the encoder's own.
        range: the values of black and white, see `folder_range`.
        out: where `label` writes; contact sheets there, and beside tables of ours, are no samples,
            and neither are exports of `annotate`.

    Raises:
        InputError: where nothing can be read.
    """
    spec = PartSpec.of(encoder, "encoder")
    if source.is_dir():
        return _read_folder(source, spec, run, size, range, out)
    return _read_features(source)


def _read_folder(
    root: Path,
    encoder: PartSpec,
    run: Path | None,
    size: int | None,
    range: Range | None,
    out: Path | None,
) -> Pool:
    files, lost = image_files(root, out)
    net, transform, size, channels = folder_encoder(encoder, run, size)
    limits = folder_range(run, range)
    x = encode_files(net, transform, root, files, size, channels, broken=True, range=limits)
    whole = np.isfinite(x).all(1)
    lost += [(files[i], why_unreadable(root / files[i], limits)) for i in np.flatnonzero(~whole)]
    if not whole.any():
        raise InputError(
            f"{root}: none of its {len(files)} images can be read ({lost[-1][0]} {lost[-1][1]})"
        )
    files = [files[i] for i in np.flatnonzero(whole)]
    x = x if whole.all() else x[whole]
    called = names_of([*files, *(f for f, _ in lost)])
    unreadable = sorted(zip(called[len(files) :], (why for _, why in lost), strict=True))
    return Pool(called[: len(files)], x, [root / f for f in files], unreadable, limits)


def image_files(root: Path, out: Path | None) -> tuple[list[str], list[tuple[str, str]]]:
    """The images of a folder, below it at any depth, and what cannot be opened, and why.

    Links to folders elsewhere are followed.

    Args:
        root: the folder.
        out: where `label` writes; contact sheets there, and beside tables of ours, are no samples.

    Raises:
        InputError: where there is none.
    """
    lost: list[tuple[str, str]] = []

    def closed(error: OSError) -> None:
        lost.append(
            (
                Path(os.path.relpath(error.filename, root)).as_posix(),
                f"cannot be opened ({error.strerror})",
            )
        )

    sheets = out / "sheets" if out else None
    seen = _Linked(root)
    inside = []
    for top, below, names in os.walk(root, onerror=closed, followlinks=True):
        below[:] = [
            folder
            for folder in sorted(below)
            if not seen.leads_back(Path(top) / folder) and not _holds_exports(Path(top) / folder)
        ]
        ours = _holds_sheets(Path(top), sheets)
        inside += [
            os.path.relpath(Path(top) / f, root) for f in names if not (ours and SHEET.fullmatch(f))
        ]
    files = []
    for name in sorted(Path(p).as_posix() for p in inside):
        if (root / name).is_file():
            files += [name] * holds_image(root, name)
        elif is_image(name):
            there = (root / name).exists()
            lost.append(
                (name, "is no file, but a pipe or a device" if there else "a link to nothing")
            )
    require(files, f"{root} holds no image; known: {', '.join(sorted(SUFFIXES))}")
    return files, lost


class _Linked:
    """Links to folders, each of which is followed once, and none that leads in a circle.

    Args:
        root: the folder below which they are.
    """

    def __init__(self, root: Path) -> None:
        self._seen = [Path(os.path.realpath(root))]

    def leads_back(self, folder: Path) -> bool:
        """Whether a folder is a link to what is found without it, or to what holds the root."""
        if not folder.is_symlink():
            return False
        real = Path(os.path.realpath(folder))
        if self._seen[0].is_relative_to(real) or any(map(real.is_relative_to, self._seen)):
            return True
        self._seen.append(real)
        return False


def _holds_exports(folder: Path) -> bool:
    """Whether a folder holds what `annotate` exported, which are the samples once more."""
    return folder.name == EXPORTS and (folder.parent / ANSWERS).is_file()


def _holds_sheets(folder: Path, sheets: Path | None) -> bool:
    """Whether a folder holds contact sheets of `label` or `suggest`, of this call or an earlier."""
    if sheets is not None and os.path.realpath(folder) == os.path.realpath(sheets):
        return True
    return folder.name == "sheets" and any((folder.parent / table).is_file() for table in TABLES)


def names_of(files: Sequence[str]) -> list[str]:
    """Files' names as text: composed (NFC), but where that would give two files one name."""
    composed = [written(f) for f in files]
    twice = {name for name, count in Counter(composed).items() if count > 1}
    return [
        f.encode(errors="backslashreplace").decode() if name in twice else name
        for f, name in zip(files, composed, strict=True)
    ]


def why_unreadable(path: Path, limits: Range | None) -> str:
    """Why an image has no features.

    Args:
        path: of its file.
        limits: the values of black and white.
    """
    try:
        decode(read_regular(path), 8, 3, str(path), limits)
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    except InputError as error:
        return str(error).removeprefix(f"{path} ").partition(";")[0]
    return "was not readable when it was encoded, or its features are not finite"


def _read_features(path: Path) -> Pool:
    if not path.is_file() or path.suffix not in (".npz", ".safetensors"):
        known = "a folder of images, or a .npz or .safetensors file with `features`"
        raise InputError(
            f"{path} {'is neither' if path.exists() else 'does not exist'}; a pool is {known}"
        )
    arrays = read_arrays(path)
    x = arrays.get("features")
    if x is None or x.ndim != 2 or not np.issubdtype(x.dtype, np.floating) or not x.size:
        held = ", ".join(f"{k} {v.dtype} {v.shape}" for k, v in arrays.items()) or "nothing"
        raise InputError(f"{path} must hold 'features', floats (n, d), not {held}")
    names = (
        names_of([*map(str, arrays["paths"])])
        if "paths" in arrays
        else [str(i) for i in range(len(x))]
    )
    require(
        len(names) == len(x) and len(set(names)) == len(x),
        f"{path}: there must be one of `paths` for each of {len(x)} rows, each another",
    )
    whole = np.isfinite(x).all(1)
    lost = [(names[i], "holds NaN or infinity") for i in np.flatnonzero(~whole)]
    return Pool(
        [names[i] for i in np.flatnonzero(whole)], x[whole].astype(np.float32), unreadable=lost
    )


def check_places(folders: Iterable[Path], files: Iterable[Path]) -> None:
    """Refuse places where something else stands than is to be written.

    Raises:
        InputError: where a file stands in place of a folder, or a folder in place of a file.
    """
    for path in folders:
        require(
            not path.exists() or path.is_dir(),
            f"{path} is a file where a folder is to be; choose another folder with -o",
        )
    for path in files:
        require(
            not path.is_dir(),
            f"{path} is a folder where a file is to be; choose another folder with -o",
        )


def check_format(name: str) -> None:
    """Refuse a format that tables cannot be written in.

    Raises:
        InputError: names those that there are.
    """
    if name not in FORMATS:
        raise unknown("format", name, FORMATS)
    if name == "parquet":
        _pyarrow()


def write_table(path: Path, columns: Mapping[str, Sequence[Any]]) -> None:
    """Write columns of equal length as CSV or, where the path ends so, as Parquet.

    In CSV floats have four places, and no cell is a formula.

    Args:
        path: of the file.
        columns: name -> values.
    """
    if path.suffix == ".parquet":
        arrow, parquet = _pyarrow()
        sink = arrow.BufferOutputStream()
        parquet.write_table(arrow.table(dict(columns)), sink)
        write_atomically(path, sink.getvalue().to_pybytes())
        return
    rows = [[_shown(value) for value in row] for row in zip(*columns.values(), strict=True)]
    write_atomically(path, csv_table(list(columns), rows).encode())


def _shown(value: Any) -> Any:
    return f"{value:.4f}" if isinstance(value, float) else value


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise InputError(
            "Parquet needs pyarrow: pip install graphfsl[parquet], or write CSV"
        ) from None
    return pyarrow, pyarrow.parquet


def shown_bar(items: Iterable[Any], what: str) -> Iterable[Any]:
    """Progress for what takes long."""
    items = list(items)
    return track(items, what, disable=len(items) < 4, transient=True)
