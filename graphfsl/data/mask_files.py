"""Images and their masks -> `SceneSplit`: arrays of npz files, pairs of image files, COCO files."""

from __future__ import annotations

import io
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from graphfsl.core.arguments import whole_number
from graphfsl.data.coco_masks import coco_file_of, coco_pairs
from graphfsl.data.images import SUFFIXES, decode, holds_image
from graphfsl.data.pixel_range import Range
from graphfsl.data.scenes import BACKGROUND, IGNORED, SceneSplit
from graphfsl.data.split import readable
from graphfsl.io.arrays import read_arrays
from graphfsl.io.errors import InputError, require
from graphfsl.io.files import check_regular, read_regular
from graphfsl.io.plain_text import one_line

NAMES = "classes.txt"  # a number and a name on each line
SMOOTH = 8  # gray levels that are more than numbers of classes
VOID = 255  # what a pixel that does not count is in most files


def masks_of_arrays(path: Path, name: str, void: int = VOID) -> SceneSplit:
    """The split that an npz file holds.

    Args:
        path: with `images` (n, H, W, 3) or (n, H, W) uint8, `masks` (n, H, W) and `class_names`.
        name: of the split.
        void: the number of pixels that do not count; every other is a class.

    Raises:
        InputError: where it holds something else.
    """
    check_regular(readable(path, "the file of images and masks"))
    arrays = read_arrays(path)
    missing = {"images", "masks", "class_names"} - set(arrays)
    require(
        not missing,
        f"{path} must hold 'images', 'masks' and 'class_names', not {sorted(arrays) or 'nothing'}",
    )
    images, masks = arrays["images"], arrays["masks"]
    names = tuple(str(n) for n in np.atleast_1d(arrays["class_names"]))
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or masks.dtype.kind not in "iu":
        raise InputError(
            f"{path}: images must be uint8 (n, H, W, 3) or (n, H, W) and masks whole numbers, not "
            f"{images.dtype} {images.shape} and {masks.dtype} {masks.shape}"
        )
    require(
        masks.shape == images.shape[:3],
        f"{path}: masks must be as large as the images {images.shape[:3]}, not {masks.shape}",
    )
    x = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
    maps = masks.astype(np.int16)
    known = (maps >= 0) & (maps < len(names)) & (maps != void)
    unknown = np.unique(maps[~known & (maps != void)])
    require(
        not len(unknown),
        f"{path}: masks hold {unknown[:3].tolist()}, but there are {len(names)} classes, and "
        f"{void} is where a pixel does not count",
    )
    maps = np.where(known, maps, IGNORED).astype(np.int16)
    return of_arrays(np.ascontiguousarray(x), maps, names, name)


def of_arrays(images: np.ndarray, maps: np.ndarray, names: Sequence[str], name: str) -> SceneSplit:
    """A split of images (N, C, H, W) and label maps (N, H, W), of the classes that occur."""
    there = [c for c in range(len(names)) if (maps == c).any()]
    require(there, f"{name}: no mask shows any class")
    lookup = np.full(len(names), BACKGROUND, np.int16)
    lookup[there] = np.arange(len(there))
    kept = np.where(maps >= 0, lookup[maps.clip(0)], maps).astype(np.int16)
    labels = torch.full((len(images),), -1)
    classes = tuple(names[c] for c in there)
    return SceneSplit(torch.from_numpy(images), labels, classes, name, maps=torch.from_numpy(kept))


def in_tiles(split: SceneSplit, count: int) -> SceneSplit:
    """The split whose images are tiles of its images, count x count of each, from left to right.

    Rows and columns that are left over at the right and at the bottom are cut off.

    Raises:
        InputError: where a tile would have no pixel.
    """
    count = whole_number(count, "data.tiles", 1)
    if count == 1 or split.maps is None:
        return split
    height, width = (side // count for side in split.shape[1:])
    require(
        min(height, width) >= 1,
        f"{split.name}: images of {split.shape[1:]} pixels have no {count} tiles each way",
    )

    def tiles(t: Tensor) -> Tensor:
        """(N, C, H, W) -> (N * count * count, C, height, width)."""
        cut = t[..., : height * count, : width * count]
        columns = cut.unflatten(-1, (count, width))
        parts: Tensor = columns.unflatten(-3, (count, height)).permute(0, 2, 4, 1, 3, 5)
        return parts.flatten(0, 2).contiguous()

    maps = tiles(split.maps.unsqueeze(1)).squeeze(1)
    x = tiles(split.x)
    labels = torch.full((len(x),), -1)
    name = f"{split.name}[{count}x{count}]"
    return SceneSplit(x, labels, split.classes, name, split.groups, maps=maps)


def read_image(path: Path, channels: int = 3, limits: Range | None = None) -> np.ndarray:
    """An image file as it stands, upright: (channels, H, W) uint8, of which one may write.

    Args:
        path: of any format that is read elsewhere.
        channels: 3, or 1 for gray.
        limits: which values are black and white, see `images.to_bytes`.

    Raises:
        InputError: for a file that is no image.
    """
    data = _bytes_of(readable(path, "the image"))
    return np.array(decode(data, None, channels, str(path), limits), order="C")


def _bytes_of(path: Path) -> bytes:
    try:
        return read_regular(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from None


def _opened_mask(path: Path) -> Image.Image:
    """A mask file, read.

    Raises:
        InputError: for a file that is no image.
    """
    data = _bytes_of(readable(path, "the mask"))
    try:
        image = Image.open(io.BytesIO(data), formats=("PNG", "BMP", "GIF", "TIFF", "JPEG"))
        image.load()
    except Exception as error:  # broken bytes make Pillow raise almost anything
        raise InputError(
            f"{path} is not a readable image ({type(error).__name__}); replace or remove it"
        ) from None
    return image


def read_mask(path: Path, size: tuple[int, int] | None = None) -> np.ndarray:
    """The numbers (H, W) that a mask file holds: palette indices, or gray levels.

    A file of three equal colours, as FSS-1000's are, is gray.

    Args:
        path: a PNG or another file that loses nothing.
        size: (H, W) of its image; None asks for none.

    Raises:
        InputError: for a mask in colours, of another size than its image, or that lost something.
    """
    with _opened_mask(path) as image:
        if image.format == "JPEG":
            raise InputError(f"{path} is a JPEG, which changes the numbers of a mask; save a PNG")
        if image.mode in ("RGB", "RGBA", "LA"):
            image = _gray(image)
        if image.mode not in ("P", "L", "1", "I", "I;16"):
            raise InputError(
                f"{path} holds colours ({image.mode}), not one number for each pixel; save it with "
                "a palette, or gray"
            )
        numbers = np.asarray(image.convert("L") if image.mode == "1" else image).astype(np.int32)
    require(
        size is None or numbers.shape == size,
        f"{path} is {numbers.shape[1]} x {numbers.shape[0]}, but its image is "
        f"{(size or (0, 0))[1]} x {(size or (0, 0))[0]}; both must be of one size",
    )
    return numbers


def _gray(image: Image.Image) -> Image.Image:
    """An opaque image whose colours are equal as a gray one; another as it is."""
    bands = [np.asarray(band) for band in image.split()]
    opaque = "A" not in image.getbands() or bool((bands.pop() == VOID).all())
    alike = all((band == bands[0]).all() for band in bands)
    return Image.fromarray(bands[0]) if opaque and alike else image


def is_white_on_black(masks: Iterable[np.ndarray]) -> bool:
    """Whether masks (H, W) show one class in white, and other gray levels are its smooth edges.

    There are more than SMOOTH of these, and together they cover less than a tenth of what white
    does.
    """
    counts = np.zeros(VOID + 2, np.int64)
    for mask in masks:
        counts += np.bincount(mask.ravel().clip(0, VOID + 1), minlength=len(counts))
    edges = np.delete(counts, [0, VOID])
    return bool((edges > 0).sum() > SMOOTH and 10 * edges.sum() < counts[VOID])


def in_black_and_white(mask: np.ndarray) -> np.ndarray:
    """A mask (H, W) without smooth edges: 0, and VOID from the middle of the gray levels on."""
    return np.where(mask > VOID // 2, VOID, 0).astype(np.int32)


LAYOUTS = (("images", "masks"), ("JPEGImages", "SegmentationClass"), ("img", "mask"))


def coco_file(folder: Path) -> Path | None:
    """The COCO file of a folder that holds no folder of masks, see `coco_masks.coco_file_of`."""
    has_masks = any((folder / masks).is_dir() for _, masks in LAYOUTS)
    try:
        return coco_file_of(folder) if folder.exists() and not has_masks else None
    except InputError:  # JSON beside each image is of something else
        return None


def mask_pairs(folder: Path) -> tuple[list[tuple[Path, Path]], list[Path]]:
    """The images of a folder and their masks, and the images without one.

    They lie in `images` and `masks`, or `JPEGImages` and `SegmentationClass`, under one name; or
    side by side, as in FSS-1000: 1.jpg and 1.png, or 1.jpg and 1_mask.png.

    Raises:
        InputError: where there is no pair, and where a mask may be of either of two images.
    """
    require(folder.is_dir(), f"{folder} is not a folder; it must hold images and their masks")
    images_in, masks_in = folder, folder
    ends: tuple[str, ...] = ("_mask", "")
    for images, masks in LAYOUTS:
        if (folder / images).is_dir() and (folder / masks).is_dir():
            images_in, masks_in, ends = folder / images, folder / masks, ("",)
    masks_of = {m.stem: m for m in sorted(masks_in.iterdir()) if m.is_file() and _is_png(m)}
    pairs, alone = [], []
    image_of: dict[Path, Path] = {}
    for image in sorted(images_in.iterdir()):
        if not image.is_file() or not holds_image(images_in, image.name):
            continue
        named = [masks_of.get(f"{image.stem}{end}") for end in ends]
        mask = next((m for m in named if m is not None and m != image), None)
        if mask is not None:
            other = image_of.setdefault(mask, image)
            require(
                other == image,
                f"{other} and {image.name} are both called as the mask {mask}; give each image a "
                "name of its own",
            )
            pairs.append((image, mask))
        elif not (images_in == masks_in and _is_mask(image)):
            alone.append(image)
    if not pairs:
        raise InputError(
            f"{folder} holds no image with a mask; put images into {folder}/images and masks of "
            f"the same names into {folder}/masks, as PNG, or a COCO file beside the images"
        )
    return pairs, alone


def _is_png(path: Path) -> bool:
    """Whether a file is called a PNG, in whatever case: cameras and scanners write .PNG."""
    return path.suffix.lower() == ".png"


def named_classes(folder: Path) -> dict[int, str]:
    """The names of the numbers in masks, by `classes.txt` of a folder; none without that file.

    Raises:
        InputError: for a file that is not in UTF-8, and for a line that is no number and a name, or
            has those of another.
    """
    file = folder / NAMES
    if not file.is_file():
        return {}
    try:
        text = _bytes_of(file).decode("utf-8-sig")  # editors of Windows put a mark in front
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is not in UTF-8 ({error}); save it in this encoding") from None
    named: dict[int, str] = {}
    for place, line in enumerate(text.splitlines(), 1):
        number, name = [*line.split(maxsplit=1), "", ""][:2]
        if not line.strip():
            continue
        if not number.isdecimal() or not name or int(number) in (0, VOID):
            raise InputError(
                f"{file}, line {place}: {line[:40]!r} is no number from 1 to 254 and a name, such "
                'as "1 car"'
            )
        name = one_line(name.strip())
        require(
            int(number) not in named and name not in named.values(),
            f"{file}, line {place}: {line[:40]!r} has the number or the name of another line",
        )
        named[int(number)] = name
    return named


def _is_mask(path: Path) -> bool:
    """Whether a file that lies among images is the mask of one of them."""
    stem = path.stem.removesuffix("_mask")
    return _is_png(path) and any(
        other != path and other.stem == stem and other.suffix.lower() in SUFFIXES
        for other in path.parent.iterdir()
    )


def squeezed_image(image: np.ndarray, size: int) -> np.ndarray:
    """An image (C, H, W) as a square of `size` pixels a side."""
    pixels = Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0))
    small = np.array(pixels.resize((size, size), Image.Resampling.BILINEAR))
    return np.ascontiguousarray(small[None] if small.ndim == 2 else small.transpose(2, 0, 1))


def squeezed(image: np.ndarray, mask: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """An image (C, H, W) and its label map (H, W) as squares of `size` pixels a side."""
    labels = torch.from_numpy(mask.astype(np.int32))[None, None].float()
    nearest = torch.nn.functional.interpolate(labels, (size, size), mode="nearest-exact")
    return squeezed_image(image, size), nearest[0, 0].numpy().astype(np.int16)


def split_of_pairs(
    pairs: Iterable[tuple[Path, Path]],
    names: Mapping[int, str],
    name: str,
    size: int,
    void: int = VOID,
    background: Collection[int] = (0,),
) -> SceneSplit:
    """A split of image files and mask files.

    Args:
        pairs: the image and the mask of each.
        names: number in the masks -> class; 0 is the background where it names none.
        name: of the split.
        size: pixels of a side to which both are squeezed.
        void: the number of pixels that do not count.
        background: further numbers that are background.

    Raises:
        InputError: for a mask of another size, or with a number that no class has.
    """
    size = whole_number(size, "data.size", 1)
    numbers = sorted(names)
    images, maps = [], []
    for image_file, mask_file in pairs:
        image = read_image(image_file)
        mask = read_mask(mask_file, image.shape[1:])
        labels = _labels(mask, numbers, void, background, mask_file)
        small, small_labels = squeezed(image, labels, size)
        images.append(small)
        maps.append(small_labels)
    require(images, f"{name}: there is no pair of an image and a mask")
    return of_arrays(np.stack(images), np.stack(maps), [names[n] for n in numbers], name)


def split_of_coco(file: Path, name: str, size: int) -> SceneSplit:
    """A split of the images of a COCO file, see `coco_masks.coco_pairs`.

    Args:
        file: the JSON file.
        name: of the split.
        size: pixels of a side to which images and masks are squeezed.

    Raises:
        InputError: for a file that does not fit, and one that shows no class.
    """
    size = whole_number(size, "data.size", 1)
    pairs, names = coco_pairs(file)
    images, maps = [], []
    for path, mask in pairs:
        image = read_image(path)
        small, small_labels = squeezed(image, mask.drawn(image.shape[1:]), size)
        images.append(small)
        maps.append(small_labels)
    require(images, f"{file} has no images")
    return of_arrays(np.stack(images), np.stack(maps), names, name)


def _labels(
    mask: np.ndarray, numbers: Sequence[int], void: int, background: Collection[int], path: Path
) -> np.ndarray:
    """Numbers of a file (H, W) -> a label map of classes 0.., BACKGROUND and IGNORED."""
    found = np.full(mask.shape, BACKGROUND, np.int16)
    known = (mask == 0) | (mask == void) | np.isin(mask, list(background))
    for column, number in enumerate(numbers):
        found[mask == number] = column
        known |= mask == number
    found[mask == void] = IGNORED
    strange = np.unique(mask[~known])
    require(
        not len(strange),
        f"{path} holds {strange[:3].tolist()}, which no class has; the classes are "
        f"{list(numbers)[:20]}, 0 is the background and {void} does not count",
    )
    return found
