"""Image files -> bytes of one size: decoded once, with a progress bar, and cached."""

from __future__ import annotations

import functools
import hashlib
import io
import re
import stat
import typing
import unicodedata
import warnings
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from PIL import Image, ImageCms, ImageOps
from rich.progress import track

from graphfsl.data.pixel_range import Range, pieces, to_bytes, warn_if_narrow
from graphfsl.io.array_cache import cached
from graphfsl.io.errors import InputError, require
from graphfsl.io.files import MOST, first_bytes, read_regular
from graphfsl.io.limits import LARGEST_SIDE

SUFFIXES = {
    ".png",
    ".apng",
    ".jpg",
    ".jpeg",
    ".jpe",
    ".jfif",
    ".bmp",
    ".gif",
    ".webp",
    ".tif",
    ".tiff",
    ".pgm",
    ".ppm",
    ".pbm",
    ".pnm",
    ".pfm",
    ".avif",
    ".jp2",
    ".j2k",
    ".jpf",
    ".jpx",
}
# Pillow hands others to programs: EPS is one.
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
LISTED = 9  # names of broken files in one message, beside the first
HEAD = 32  # bytes that tell what a file is
BITS, PHOTOMETRIC, SAMPLE_FORMAT = 258, 262, 339  # tags of TIFF, and two of their values
WHITE_IS_ZERO, SIGNED = 0, 2
# How a file of these formats begins. BMP's two letters begin many a text: its header tells more.
MAGIC = re.compile(
    rb"\x89PNG\r\n\x1a\n|\xff\xd8\xff|GIF8[79]a|RIFF....WEBP|II[*+]\0|MM\0[*+]|BM.{4}\0{4}.{4}[\x0c\x28\x34\x38\x40\x6c\x7c]\0{3}"
    rb"|P[1-6fF]\s+(#|\d+\s+\d+)|\xff\x4f\xff\x51|\0{3}\x0cjP  \r\n\x87\n|.{4}ftyp.*avi[fs]",
    re.DOTALL,
)


def to_array(
    image: Image.Image,
    size: int | None,
    channels: int,
    limits: Range | None = None,
    where: str = "an image",
) -> np.ndarray:
    """An image as an array (channels, H, W) uint8, with H = W = size where it is given.

    It stands upright by its EXIF tag, transparent parts lie on white, and it is resized bilinearly,
    the sides squeezed to a square.

    Args:
        image: of any mode.
        size: pixels of a side; None leaves them.
        channels: 3, or 1 for gray.
        limits: which values are black and white, see `to_bytes`.
        where: what the image is called in an error.

    Raises:
        InputError: for pixels that are not read, or outside `limits`.
    """
    if image.mode == "F" or image.mode.startswith("I"):
        image, limits = _deep(image, limits, where), None
    elif SIGNED in getattr(image, "tag_v2", {}).get(SAMPLE_FORMAT, ()):
        raise InputError(
            f"{where} has pixels of 8 bits with a sign, which are not read; save it without, or "
            f"as 16 bits"
        )
    image = _with_alpha(ImageOps.exif_transpose(image))
    if limits is not None:
        plain = image.convert("L" if image.mode in ("1", "L", "LA") else "RGB")
        scaled = Image.fromarray(to_bytes(np.asarray(plain), limits, where))
        if "A" in image.getbands():
            scaled.putalpha(image.getchannel("A"))
        image = scaled
    if "A" in image.getbands():
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    # Palettes and 1-bit drawings are brought to full range before they are made smaller.
    image = image.convert("L" if channels == 1 else "RGB")
    array = np.asarray(
        image if size is None else image.resize((size, size), Image.Resampling.BILINEAR)
    )
    return array[None] if channels == 1 else array.transpose(2, 0, 1)


def _deep(image: Image.Image, limits: Range | None, where: str) -> Image.Image:
    """An image of more than 8 bits in bytes, upright.

    Pixels of its transparent value, if it has one, get alpha 0.

    Without a range floats reach from 0 to 1, and whole numbers to 65535, in PGM too, or as far as a
    TIFF says.
    """
    tags = getattr(image, "tag_v2", {})  # of a TIFF
    bits = tags.get(BITS, (16,))[0]
    values = np.asarray(ImageOps.exif_transpose(image))
    if values.dtype == np.int32 and bits == 32 and SIGNED not in tags.get(SAMPLE_FORMAT, (1,)):
        values = values.view(np.uint32)
    if limits is None and image.mode != "F":
        limits = 0, 2 ** min(bits, 16) - 1
    gray = to_bytes(values, limits, where)
    deep = Image.fromarray(255 - gray if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO else gray)
    if (clear := image.info.get("transparency")) is not None:
        deep.putalpha(Image.fromarray(values != clear).convert("L"))
    return deep


def _with_alpha(image: Image.Image) -> Image.Image:
    """An image of 8 bits whose transparency, if any, is a band A.

    Its colours are such as `convert` understands.
    """
    if image.mode == "LAB":
        profiles = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        image = typing.cast(
            Image.Image, ImageCms.profileToProfile(image, *profiles, outputMode="RGB")
        )
    if image.mode in ("RGBa", "La"):  # the colours times alpha
        return image.convert(image.mode.upper())
    return image.convert("RGBA") if image.mode == "PA" or "transparency" in image.info else image


def decode(
    data: bytes, size: int | None, channels: int, where: str, limits: Range | None = None
) -> np.ndarray:
    """Decode one image file: (channels, size, size) uint8.

    Args:
        data: the bytes of the file.
        size: pixels of a side; None leaves the image's own sides.
        channels: 3, or 1 for gray.
        where: what the file is called in an error.
        limits: which values are black and white, see `to_bytes`.

    Raises:
        InputError: where it is no image, or has pixels outside `limits`; it names the file.
    """
    try:
        with warnings.catch_warnings():
            # of odd metadata and of 90 megapixels; twice that is an error
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=_formats()) as image:
                image.load()
                if image.format == "PNG" and data[24] == 16 and data[25] in (2, 4, 6):
                    return to_array(_deep_png(data, image, limits, where), size, channels)
                if limits is not None and image.format == "TIFF" and len(image.getbands()) > 1:
                    _check_depth(image, where)
                return to_array(image, size, channels, limits, where)
    except InputError:
        raise
    except Exception as error:  # broken bytes make Pillow raise almost anything
        raise InputError(
            f"{where} is not a readable image ({type(error).__name__}); replace or remove it"
        ) from None


@functools.cache
def _formats() -> tuple[str, ...]:
    """Those of FORMATS that this Pillow knows."""
    Image.init()
    return tuple(f for f in FORMATS if f in Image.OPEN)


def _deep_png(data: bytes, image: Image.Image, limits: Range | None, where: str) -> Image.Image:
    """A PNG of 16 bits with colours, or gray and transparency.

    Pillow keeps the upper 8 of them.
    """
    from torchvision.io import ImageReadMode, decode_png  # takes a second, and few images are such

    values = decode_png(
        torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.UNCHANGED
    ).numpy()
    alpha = values[-1] if len(values) in (2, 4) else None
    colours = to_bytes(values[: 3 if len(values) > 2 else 1].transpose(1, 2, 0), limits, where)
    deep = Image.fromarray(
        np.ascontiguousarray(colours[..., 0] if colours.shape[2] == 1 else colours)
    )
    if alpha is not None:
        deep.putalpha(Image.fromarray(to_bytes(alpha, None, where)))
    elif (clear := image.info.get("transparency")) is not None:
        deep.putalpha(Image.fromarray((values.transpose(1, 2, 0) != clear).any(2)).convert("L"))
    deep.info |= {k: image.info[k] for k in ("exif",) if k in image.info}
    return deep


def _check_depth(image: Image.Image, where: str) -> None:
    """InputError for a TIFF with colours of more than 8 bits.

    A range would be applied to what Pillow left of them.
    """
    bits = max(getattr(image, "tag_v2", {}).get(BITS, (8,)))
    require(
        bits <= 8,
        f"{where} has colours of {bits} bits, which are read from PNG only where a range is "
        f"given; save it as PNG",
    )


def is_image(name: str) -> bool:
    """Whether a relative path has an image's suffix and nothing in it is hidden.

    The suffix may be in either case.
    """
    return PurePosixPath(name).suffix.lower() in SUFFIXES and not _hidden(name)


def holds_image(root: Path, name: str) -> bool:
    """Whether a file below `root` is an image by its suffix or its first bytes.

    Nothing in its path may be hidden.
    """
    return is_image(name) or (
        not _hidden(name) and MAGIC.match(first_bytes(root / name, HEAD)) is not None
    )


def _hidden(name: str) -> bool:
    return any(part.startswith(".") for part in PurePosixPath(name).parts)


def folder_files(root: Path) -> list[str]:
    """The image files below a folder, as sorted relative paths with forward slashes."""
    names = (p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file())
    return sorted(name for name in names if holds_image(root, name))


def image_paths(path: Path) -> list[Path]:
    """The images of a folder, at any depth and sorted, or the one image that `path` is."""
    require(path.exists(), f"{path} does not exist; it must be an image or a folder of images")
    alone = [path] if path.is_file() and holds_image(path.parent, path.name) else []
    found = [path / name for name in folder_files(path)] if path.is_dir() else alone
    require(
        found,
        f"{path} {'holds' if path.is_dir() else 'is'} no image; known: "
        f"{', '.join(sorted(SUFFIXES))}",
    )
    return found


def subfolders(root: Path) -> list[Path]:
    """The folders in a folder that are not hidden, sorted by name (NFC)."""
    found = (p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    return sorted(found, key=lambda p: (unicodedata.normalize("NFC", p.name), p.name))


def written(name: str) -> str:
    """A file's name as text: composed (NFC); bytes in no encoding become escapes.

    macOS and Linux write the same letter differently, and the order of classes must not change.
    """
    return unicodedata.normalize("NFC", name).encode(errors="backslashreplace").decode()


def read_folder_classes(root: Path) -> dict[str, list[Path]]:
    """The classes of a folder: name -> image files at any depth, both sorted.

    Each folder in `root` is a class, but `unlabeled`. Names are as `written`.

    Raises:
        InputError: where there is no folder or no class, or a class has no image.
    """
    require(
        root.is_dir(), f"{root} is not a folder; it must be one that holds a folder for each class"
    )
    folders = [p for p in subfolders(root) if p.name != "unlabeled"]
    require(
        folders,
        f"{root} holds no class folders; put the images of each class into a folder of its own",
    )
    classes: dict[str, list[Path]] = {}
    for folder in folders:
        classes.setdefault(written(folder.name), []).extend(image_paths(folder))
    return classes


def _digest(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode(errors="surrogateescape")).hexdigest()[:16]


class Files:
    """The image files of a folder, or of the zip beside it where it was never unpacked.

    Paths are relative. `mark` changes with the files, and with the folder if names are given.

    Args:
        root: the folder.
        names: which files of the folder; None takes all.

    Raises:
        InputError: for a zip that is broken or has an entry that climbs out of its folder.
    """

    def __init__(self, root: Path, names: list[str] | None = None) -> None:
        self.root, self.zip = root, None
        if root.is_dir():
            self.names = folder_files(root) if names is None else names
            marks = [
                f"{n}:{s.st_size}:{s.st_mtime_ns}" for n in self.names for s in [(root / n).stat()]
            ]
            marks += [] if names is None else [str(root.resolve())]
        else:
            archive = root.with_name(root.name + ".zip")
            try:
                self.zip = zipfile.ZipFile(archive)
                entries = self.zip.infolist()
            except (zipfile.BadZipFile, OSError) as error:
                raise InputError(
                    f"{archive} is not a readable zip ({error}); fetch it again"
                ) from None
            for e in entries:
                path = PurePosixPath(e.filename.replace("\\", "/"))
                require(
                    not path.is_absolute()
                    and ".." not in path.parts
                    and not stat.S_ISLNK(e.external_attr >> 16),
                    f"{archive}: entry {e.filename!r} climbs out of its folder; "
                    f"do not use this file",
                )
            self.names = sorted(
                e.filename for e in entries if not e.is_dir() and is_image(e.filename)
            )
            marks = [f"{e.filename}:{e.CRC}" for e in sorted(entries, key=lambda e: e.filename)]
        self.mark = _digest(marks)

    def read(self, name: str) -> bytes:
        """The bytes of a file; OSError where it cannot be read."""
        if self.zip and (size := self.zip.getinfo(name).file_size) > MOST:
            raise InputError(
                f"{self.root}/{name} would unpack to {size:,} bytes; at most {MOST:,} are read"
            )
        try:
            return self.zip.read(name) if self.zip else read_regular(self.root / name)
        except (OSError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
            raise InputError(
                f"{self.root}/{name} cannot be read ({error}); fetch it again"
            ) from None


def all_broken(broken: list[tuple[str, str]]) -> str:
    """One line of text for all files that cannot be read.

    The first message, and the names of others.
    """
    others = [name for name, _ in broken[1:]]
    if not others:
        return broken[0][1]
    listed = ", ".join(others[:LISTED]) + (", …" if len(others) > LISTED else "")
    return f"{broken[0][1]}; {len(broken)} images cannot be read, the others are {listed}"


def read_images(
    files: Files,
    names: Iterable[str],
    size: int,
    channels: int,
    what: str,
    limits: Range | None = None,
) -> np.ndarray:
    """Images (N, channels, size, size) uint8 of the named files, in order.

    They are a memory map, cached by what the files are.

    Args:
        files: a folder or a zip.
        names: of the images in it.
        size: pixels of a side.
        channels: 3, or 1 for gray.
        what: what the progress bar calls them.
        limits: which values are black and white in all of them, see `to_bytes`.

    Raises:
        InputError: names every file that cannot be read: all are tried.
    """
    require(
        size <= LARGEST_SIDE,
        f"data.size must be at most {LARGEST_SIDE:,} pixels of a side, not {size:,}",
    )
    names = list(names)
    broken: list[tuple[str, str]] = []
    key = _digest([files.mark, str(size), str(channels), repr(limits), *names])

    def fill(out: np.ndarray) -> None:
        for i, name in enumerate(
            track(names, f"decoding {what}", disable=len(names) < 1000, transient=True)
        ):
            try:
                out[i] = decode(files.read(name), size, channels, f"{files.root}/{name}", limits)
            except InputError as error:
                broken.append((name, str(error)))
        if broken:
            raise InputError(all_broken(broken))

    images = cached(
        f"{what.replace('/', '-')}-{key}", (len(names), channels, size, size), np.uint8, fill
    )
    warn_if_narrow(pieces(images), f"{files.root}")
    return images
