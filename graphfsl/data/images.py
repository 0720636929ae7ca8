"""Image files -> bytes of one size: decoded once, with a progress bar, and cached."""

from __future__ import annotations

import hashlib
import io
import stat
import unicodedata
import warnings
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image, ImageOps
from rich.progress import track

from graphfsl.data.cache import cached
from graphfsl.errors import InputError

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pgm", ".ppm"}
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # Pillow hands others to programs: EPS is one


def to_array(image: Image.Image, size: int | None, channels: int) -> np.ndarray:
    """An image -> (channels, H, W) uint8, H = W = size (bilinear, the sides squeezed to a square) where it is given.

    Upright by its EXIF tag; transparent parts lie on white; 16-bit gray is brought to 8 bits.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") and (deep := np.asarray(image)).max(initial=0) > 255:
        image = Image.fromarray((deep.clip(0, 65535) / 257 + 0.5).astype(np.uint8))  # convert would cut it off at 255
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    # Palettes and 1-bit drawings are brought to full range before they are made smaller.
    image = image.convert("L" if channels == 1 else "RGB")
    array = np.asarray(image if size is None else image.resize((size, size), Image.Resampling.BILINEAR))
    return array[None] if channels == 1 else array.transpose(2, 0, 1)


def decode(data: bytes, size: int, channels: int, where: str) -> np.ndarray:
    """One image file -> (channels, size, size) uint8; InputError names the file where it is not an image."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata and of 90 megapixels; twice that is an error
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                image.load()
                return to_array(image, size, channels)
    except Exception as error:  # broken bytes make Pillow raise almost anything
        raise InputError(f"{where} is not a readable image ({type(error).__name__}); replace or remove it") from None


def is_image(name: str) -> bool:
    """Whether a relative path has an image's suffix, in either case, and nothing in it is hidden."""
    path = PurePosixPath(name)
    return path.suffix.lower() in SUFFIXES and not any(part.startswith(".") for part in path.parts)


def folder_files(root: Path) -> list[str]:
    """The image files below a folder, as sorted relative paths with forward slashes."""
    return sorted(filter(is_image, (p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file())))


def image_paths(path: Path) -> list[Path]:
    """The images of a folder, at any depth and sorted, or the one image that `path` is."""
    if not path.exists():
        raise InputError(f"{path} does not exist; it must be an image or a folder of images")
    alone = [path] if path.is_file() and is_image(path.name) else []
    found = [path / name for name in folder_files(path)] if path.is_dir() else alone
    if not found:
        raise InputError(f"{path} {'holds' if path.is_dir() else 'is'} no image; known: {', '.join(sorted(SUFFIXES))}")
    return found


def subfolders(root: Path) -> list[Path]:
    """The folders in a folder that are not hidden, sorted by name (NFC)."""
    found = (p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    return sorted(found, key=lambda p: (unicodedata.normalize("NFC", p.name), p.name))


def written(name: str) -> str:
    """A file's name as text: composed (NFC), since macOS and Linux write the same letter differently and the order of
    classes must not change; bytes in no encoding become escapes."""
    return unicodedata.normalize("NFC", name).encode(errors="backslashreplace").decode()


def read_folder_classes(root: Path) -> dict[str, list[Path]]:
    """Class name -> its image files, at any depth; both sorted. Each folder in `root` is a class, but `unlabeled`.

    Names are as `written`. Raises InputError where there is no folder or no class, or a class has no image.
    """
    if not root.is_dir():
        raise InputError(f"{root} is not a folder; it must be one that holds a folder for each class")
    folders = [p for p in subfolders(root) if p.name != "unlabeled"]
    if not folders:
        raise InputError(f"{root} holds no class folders; put the images of each class into a folder of its own")
    classes: dict[str, list[Path]] = {}
    for folder in folders:
        classes.setdefault(written(folder.name), []).extend(image_paths(folder))
    return classes


def _digest(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode(errors="surrogateescape")).hexdigest()[:16]


class Files:
    """The image files of a folder, or of the zip beside it where it was never unpacked; paths are relative.

    names: which files of the folder; None takes all. `mark` changes with the files, and with the folder if names are
    given. Raises InputError for a zip that is broken or has an entry that climbs out of its folder.
    """

    def __init__(self, root: Path, names: list[str] | None = None) -> None:
        self.root, self.zip = root, None
        if root.is_dir():
            self.names = folder_files(root) if names is None else names
            marks = [f"{n}:{s.st_size}:{s.st_mtime_ns}" for n in self.names for s in [(root / n).stat()]]
            marks += [] if names is None else [str(root.resolve())]
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
        self.mark = _digest(marks)

    def read(self, name: str) -> bytes:
        try:
            return self.zip.read(name) if self.zip else (self.root / name).read_bytes()
        except (OSError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
            raise InputError(f"{self.root}/{name} cannot be read ({error}); fetch it again") from None


def read_images(files: Files, names: Iterable[str], size: int, channels: int, what: str) -> np.ndarray:
    """(N, channels, size, size) uint8 of the named files, in order: a memory map, cached by what the files are."""
    names = list(names)
    key = _digest([files.mark, str(size), str(channels), *names])

    def fill(out: np.ndarray) -> None:
        for i, name in enumerate(track(names, f"decoding {what}", disable=len(names) < 1000, transient=True)):
            out[i] = decode(files.read(name), size, channels, f"{files.root}/{name}")

    return cached(f"{what.replace('/', '-')}-{key}", (len(names), channels, size, size), np.uint8, fill)
