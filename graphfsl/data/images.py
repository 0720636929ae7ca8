"""Image files -> bytes of one size: decoded once, with a progress bar, and cached."""

from __future__ import annotations

import hashlib
import io
import stat
import zipfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image, UnidentifiedImageError
from rich.progress import track

from graphfsl.data.cache import cached
from graphfsl.errors import InputError

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pgm", ".ppm"}


def decode(data: bytes, size: int, channels: int, where: str) -> np.ndarray:
    """One image file -> (channels, size, size) uint8, bilinear; InputError names the file where it is not an image."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            # Palettes and 1-bit drawings are brought to full range before they are made smaller.
            image = image.convert("L" if channels == 1 else "RGB").resize((size, size), Image.Resampling.BILINEAR)
            array = np.asarray(image)
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{where} is not a readable image ({type(error).__name__}); replace or remove it") from None
    return array[None] if channels == 1 else array.transpose(2, 0, 1)


def is_image(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in SUFFIXES and not PurePosixPath(name).name.startswith(".")


def folder_files(root: Path) -> list[str]:
    """The image files below a folder, as sorted relative paths with forward slashes."""
    return sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file() and is_image(p.name))


class Files:
    """The image files of a folder, or of the zip beside it where it was never unpacked; paths are relative.

    Raises InputError for a zip that is broken or has an entry that climbs out of its folder.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.zip = root, None
        if root.is_dir():
            self.names = folder_files(root)
            sizes = [(root / n).stat() for n in self.names]
            marks = [f"{n}:{s.st_size}:{s.st_mtime_ns}" for n, s in zip(self.names, sizes, strict=True)]
        else:
            archive = root.with_name(root.name + ".zip")
            try:
                self.zip = zipfile.ZipFile(archive)
                entries = self.zip.infolist()
            except (zipfile.BadZipFile, OSError) as error:
                raise InputError(f"{archive} is not a readable zip ({error}); fetch it again") from None
            for e in entries:
                path = PurePosixPath(e.filename.replace("\\", "/"))
                if path.is_absolute() or ".." in path.parts or stat.S_ISLNK(e.external_attr >> 16):
                    raise InputError(f"{archive}: entry {e.filename!r} climbs out of its folder; do not use this file")
            self.names = sorted(e.filename for e in entries if not e.is_dir() and is_image(e.filename))
            marks = [f"{e.filename}:{e.CRC}" for e in sorted(entries, key=lambda e: e.filename)]
        self.mark = hashlib.sha256("\n".join(marks).encode()).hexdigest()[:16]

    def read(self, name: str) -> bytes:
        try:
            return self.zip.read(name) if self.zip else (self.root / name).read_bytes()
        except (OSError, zipfile.BadZipFile, RuntimeError) as error:
            raise InputError(f"{self.root}/{name} cannot be read ({error}); fetch it again") from None


def read_images(files: Files, names: Iterable[str], size: int, channels: int, what: str) -> np.ndarray:
    """(N, channels, size, size) uint8 of the named files, in order, cached by what the files are."""
    names = list(names)
    key = hashlib.sha256("\n".join([files.mark, str(size), str(channels), *names]).encode()).hexdigest()[:16]

    def build() -> np.ndarray:
        out = np.empty((len(names), channels, size, size), np.uint8)
        for i, name in enumerate(track(names, f"decoding {what}", disable=len(names) < 1000, transient=True)):
            out[i] = decode(files.read(name), size, channels, f"{files.root}/{name}")
        return out

    return cached(f"{what.replace('/', '-')}-{key}", build)
