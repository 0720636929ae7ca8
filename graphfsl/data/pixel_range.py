"""What a pixel's number means: which value is black and which is white, whatever type holds it."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from graphfsl.io.errors import InputError, require

Range = Sequence[float]
HINT = "give it as data.range=[LOW,HIGH] or --range LOW,HIGH"
NARROW = 256 // 8  # levels of gray that a set must reach over, or there is a warning


def check_range(limits: Any, where: str = "data.range") -> tuple[float, float] | None:
    """Refuse what is no range of pixels; None stands for what their type says.

    Returns:
        (low, high), or None.

    Raises:
        InputError: for anything else.
    """
    if limits is None:
        return None
    numbers = isinstance(limits, (list, tuple)) and all(isinstance(v, (int, float)) for v in limits)
    if (
        not numbers
        or len(limits) != 2
        or not all(map(math.isfinite, limits))
        or not limits[0] < limits[1]
    ):
        raise InputError(
            f"{where} must be two numbers, the value of black below that of white, "
            f"not {limits!r:.60}"
        )
    return float(limits[0]), float(limits[1])


def parse_range(text: str | None) -> tuple[float, float] | None:
    """A range on the command line: "0,4095" or "[0, 4095]"."""
    if text is None:
        return None
    try:
        return check_range([float(v) for v in re.split(r"[\s,]+", text.strip(" []()"))], "--range")
    except ValueError:  # InputError is one
        raise InputError(f"--range must be two numbers, such as 0,4095, not {text!r:.60}") from None


def range_of(dtype: Any) -> tuple[float, float] | None:
    """What numbers of this type mean by themselves: bytes 0..255, 16 bits 0..65535, floats 0..1.

    None for others.
    """
    dtype = np.dtype(dtype)
    if dtype.kind == "f":
        return 0.0, 1.0
    return {("u", 1): (0.0, 255.0), ("u", 2): (0.0, 65535.0)}.get((dtype.kind, dtype.itemsize))


def to_bytes(values: np.ndarray, limits: Range | None, where: str) -> np.ndarray:
    """Pixels of any type as uint8 of the same shape: 255 (v - low) / (high - low), rounded.

    An image's own smallest and largest value decide nothing.

    Args:
        values: the pixels.
        limits: (low, high), the same for every image of a set; None takes those of the type.
        where: what the image is called in an error.

    Raises:
        InputError: for a value outside of the limits, NaN too.
    """
    own = range_of(values.dtype)
    low, high = limits or own or (math.nan, math.nan)
    require(
        not math.isnan(low),
        f"{where} holds pixels of type {values.dtype}, which have no range of their own; {HINT}",
    )
    require(
        values.dtype != np.uint8 or high <= 255,
        f"{where} has pixels of 8 bits, which cannot reach the range [{low:g}, {high:g}] of "
        f"this set; "
        f"save it with the depth of the others, or leave the range out",
    )
    least, most = (float(values.min()), float(values.max())) if values.size else (low, high)
    if not (low <= least and most <= high):  # also for NaN
        floats = ", and take Normalize out of a transform" if values.dtype.kind == "f" else ""
        raise InputError(
            f"{where} has pixels from {least:.5g} to {most:.5g}, which must lie in [{low:g}, "
            f"{high:g}]; if another "
            f"range is meant, {HINT}{floats}"
        )
    if values.dtype == np.uint8 and (low, high) == (0, 255):
        return values
    return ((values.astype(np.float64) - low) * (255 / (high - low)) + 0.5).astype(np.uint8)


def picture(values: Any, limits: Range | None, where: str) -> Image.Image:
    """An array of pixels as an image of 8 bits.

    A tensor (C, H, W) or (H, W), or an array (H, W, C) or (H, W), C = 1 or 3.
    """
    if isinstance(values, Tensor):
        known = values.detach().cpu()
        array = (known.float() if known.dtype == torch.bfloat16 else known).numpy()
        array = array.transpose(1, 2, 0) if array.ndim == 3 else array
    else:
        array = np.asarray(values)
    if array.ndim == 2:
        array = array[..., None]
    if (
        array.ndim != 3
        or array.shape[2] not in (1, 3)
        or not array.size
        or not _numbers(array.dtype, limits)
    ):
        right = "(C, H, W)" if isinstance(values, Tensor) else "(H, W, C)"
        raise InputError(
            f"{where} is {array.dtype} {tuple(getattr(values, 'shape', array.shape))}; an image "
            f"must be uint8, uint16 "
            f"or floats in [0, 1], or other numbers with a range, {right} with 1 or 3 channels"
        )
    array = to_bytes(array, limits, where)
    return Image.fromarray(np.ascontiguousarray(array[..., 0] if array.shape[2] == 1 else array))


def _numbers(dtype: np.dtype, limits: Range | None) -> bool:
    return range_of(dtype) is not None or (limits is not None and dtype.kind in "iu")


def warn_if_narrow(images: Iterable[np.ndarray], what: str) -> None:
    """Warn where a set of images reaches over less than an eighth of white.

    They are given as bytes in any number of pieces.
    """
    low, high = 255, 0
    for piece in images:
        if piece.size:
            low, high = min(low, int(piece.min())), max(high, int(piece.max()))
        if high - low >= NARROW:
            return
    if low <= high:
        warnings.warn(
            f"{what}: the pixels fill {(high - low) / 255:.1%} of their range only; if they were "
            f"made for a smaller "
            f"one, {HINT}",
            stacklevel=3,
        )


def pieces(images: Any, size: int = 256) -> Iterable[np.ndarray]:
    """Parts of images (N, …), `size` at a time, for `warn_if_narrow`."""
    return (np.asarray(images[i : i + size]) for i in range(0, len(images), size))
