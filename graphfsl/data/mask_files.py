"""Images and their masks -> `SceneSplit`: arrays of npz files, and pairs of image files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from graphfsl.core.arguments import whole_number
from graphfsl.data.images import SUFFIXES, to_array
from graphfsl.data.scenes import BACKGROUND, IGNORED, SceneSplit
from graphfsl.data.split import readable
from graphfsl.io.arrays import read_arrays
from graphfsl.io.errors import InputError, require
from graphfsl.io.files import check_regular
from graphfsl.io.limits import LARGEST_SIDE

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


def read_image(path: Path, channels: int = 3) -> np.ndarray:
    """An image file as it stands, upright: (channels, H, W) uint8.

    Raises:
        InputError: for a file that is no image, or one with too many pixels.
    """
    with opened_image(path) as image:
        return np.ascontiguousarray(to_array(image, None, channels, where=str(path)))


def opened_image(path: Path) -> Image.Image:
    """An image file, its pixels not yet read.

    Raises:
        InputError: for a file that is no image, or one whose sides are too long.
    """
    check_regular(readable(path, "the image"))
    try:
        image = Image.open(path)
    except Exception as error:  # of any format
        raise InputError(f"{path} is no image that can be read ({type(error).__name__})") from None
    if max(image.size) > LARGEST_SIDE:
        image.close()
        raise InputError(
            f"{path} is {image.size[0]} x {image.size[1]} pixels; sides of at most "
            f"{LARGEST_SIDE} are read"
        )
    return image


def read_mask(path: Path, size: tuple[int, int] | None = None) -> np.ndarray:
    """The numbers (H, W) that a mask file holds: palette indices, or gray levels.

    Args:
        path: a PNG or another file that loses nothing.
        size: (H, W) of its image; None asks for none.

    Raises:
        InputError: for a mask in colours, of another size than its image, or that lost something.
    """
    with opened_image(path) as image:
        if image.format == "JPEG":
            raise InputError(f"{path} is a JPEG, which changes the numbers of a mask; save a PNG")
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


def beside(folder: Path, stem: str) -> Path | None:
    """The image of this name without suffix in a folder; None where there is none."""
    for suffix in sorted(SUFFIXES):
        for spelled in (suffix, suffix.upper()):
            if (folder / f"{stem}{spelled}").is_file():
                return folder / f"{stem}{spelled}"
    return None


def squeezed(image: np.ndarray, mask: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """An image (C, H, W) and its label map (H, W) as squares of `size` pixels a side."""
    pixels = Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0))
    small = np.asarray(pixels.resize((size, size), Image.Resampling.BILINEAR))
    labels = torch.from_numpy(mask.astype(np.int32))[None, None].float()
    nearest = torch.nn.functional.interpolate(labels, (size, size), mode="nearest-exact")
    x = small[None] if small.ndim == 2 else small.transpose(2, 0, 1)
    return np.ascontiguousarray(x), nearest[0, 0].numpy().astype(np.int16)


def split_of_pairs(
    pairs: Iterable[tuple[Path, Path]],
    names: Mapping[int, str],
    name: str,
    size: int,
    void: int = VOID,
) -> SceneSplit:
    """A split of image files and mask files.

    Args:
        pairs: the image and the mask of each.
        names: number in the masks -> class; 0 is the background where it names none.
        name: of the split.
        size: pixels of a side to which both are squeezed.
        void: the number of pixels that do not count.

    Raises:
        InputError: for a mask of another size, or with a number that no class has.
    """
    size = whole_number(size, "data.size", 1)
    numbers = sorted(names)
    images, maps = [], []
    for image_file, mask_file in pairs:
        image = read_image(image_file)
        mask = read_mask(mask_file, image.shape[1:])
        maps.append(_labels(mask, numbers, void, mask_file))
        images.append(image)
    require(images, f"{name}: there is no pair of an image and a mask")
    small = [squeezed(x, m, size) for x, m in zip(images, maps, strict=True)]
    x = np.stack([image for image, _ in small])
    y = np.stack([labels for _, labels in small])
    return of_arrays(x, y, [names[n] for n in numbers], name)


def _labels(mask: np.ndarray, numbers: Sequence[int], void: int, path: Path) -> np.ndarray:
    """Numbers of a file (H, W) -> a label map of classes 0.., BACKGROUND and IGNORED."""
    found = np.full(mask.shape, BACKGROUND, np.int16)
    known = (mask == 0) | (mask == void)
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


def class_mask(path: Path, size: tuple[int, int]) -> Tensor:
    """A mask of one class (H, W): 1 its pixels, 0 the others, IGNORED where 255 beside others.

    Raises:
        InputError: for a mask of several classes.
    """
    numbers = read_mask(path, size)
    values = np.unique(numbers)
    foreground = [int(v) for v in values if v not in (0, VOID)]
    require(
        len(foreground) <= 1,
        f"{path} holds the numbers {foreground[:5]}; a mask here is of one class: one number, "
        "0 around it, and 255 where it does not count",
    )
    # black and white: without another number 255 is the class
    class_number = foreground[0] if foreground else VOID
    found = torch.from_numpy((numbers == class_number).astype(np.int64))
    if foreground:
        found[torch.from_numpy(numbers == VOID)] = IGNORED
    return found
