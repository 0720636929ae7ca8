"""What Python's callers give: taken where its meaning is clear, else refused in one line."""

from __future__ import annotations

import numbers
import operator
import os
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from graphfsl.io.errors import InputError, require

A_LEARNER = 'a Learner, such as gf.build({"head": "protonet"}, (64,), 5) or gf.load(RUN).learner'
A_SPLIT = 'a Split, such as gf.load_data("glyphs", "test") or gf.Split(x, y, classes, "mine/test")'
A_TRANSFORM = "a gf.Transform, or None"
EPISODES = "gf.Episodes, such as gf.Episodes(split, way=5, shot=1)"
AN_EPISODE = "an Episode, such as gf.Episodes(split, way=5).batch([0])[0]"
A_TARGET = "a Target, such as gf.Episodes(split, way=5).batch([0])[1]"
A_FOLDER = "the path of a directory"

T = TypeVar("T")


def described(value: Any) -> str:
    """A value in a few words.

    Itself where it is text or a number, else its type and its shape or length.
    """
    if value is None or isinstance(value, (str, bool, numbers.Number)):
        return f"{value!r:.60}"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    kind = f"a {type(value).__name__}"
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return f"{kind} of {str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    names = list(value) if isinstance(value, Mapping) else getattr(value, "_fields", ())
    if names:
        return f"{kind} of {', '.join(map(str, names))}"
    return f"{kind} of {len(value)}" if isinstance(value, (tuple, list)) else kind


def short(value: Any) -> str:
    """A value's repr as one line of at most 60 letters."""
    return f"{' '.join(repr(value).split()):.60}"


def check_kind(value: Any, kind: type[T] | tuple[type[T], ...], what: str, right: str) -> T:
    """Refuse a value of another kind, or give it back.

    Args:
        value: what a caller gave.
        kind: a class, or several.
        what: the value is, in words.
        right: what would be right, in words.

    Raises:
        InputError: with `right`, what would be, in words.
    """
    if not isinstance(value, kind):
        raise InputError(f"{what} must be {right}, not {described(value)}")
    return value


def whole_number(value: Any, what: str, least: int | None = None) -> int:
    """A whole number of any type, as an int.

    Raises:
        InputError: for anything else, and below `least`.
    """
    if isinstance(value, torch.SymInt):  # a size that torch.export leaves open, and it must stay so
        return value  # type: ignore[return-value]
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None or (least is not None and number < least):
        bound = "" if least is None else f" of at least {least}"
        raise InputError(f"{what} must be a whole number{bound}, not {short(value)}")
    return number


def real_number(value: Any, what: str) -> float:
    """A number of any type as a float, a whole one as an int.

    Raises:
        InputError: for anything else, NaN among it.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or value != value:
        raise InputError(f"{what} must be a number, not {short(value)}")
    return int(value) if isinstance(value, numbers.Integral) else float(value)


def as_tensor(value: Any, what: str) -> Tensor:
    """What a caller gave as a tensor: arrays, data frames, and lists of numbers, arrays or tensors.

    Raises:
        InputError: where they hold anything but numbers, or are of different lengths.
    """
    if isinstance(value, Tensor):
        return value
    try:
        if isinstance(value, Sequence) and value and all(isinstance(v, Tensor) for v in value):
            return torch.stack(list(value))
        array = np.asarray(value)
        if array.ndim and array.dtype.kind in "biufc":
            return torch.from_numpy(np.array(array))
    # as NumPy and PyTorch say that lengths differ, or types do
    except (ValueError, TypeError, RuntimeError):
        pass
    raise InputError(
        f"{what} must be a tensor, an array or equally long lists of numbers, not "
        f"{described(value)}"
    )


def as_samples(X: Any) -> Any:
    """The samples that an estimator is given, as NumPy takes them.

    A tensor without graph or GPU, images in a list as one array.

    Raises:
        InputError: for paths, and for images of several sizes.
    """
    if isinstance(X, Tensor):
        X = X.detach().cpu()
        return X.float() if X.dtype == torch.bfloat16 else X
    first = X[0] if isinstance(X, (list, tuple)) and X else X
    if isinstance(first, (str, os.PathLike)):
        raise InputError(
            "X holds paths, which a trained run reads; give arrays, as of PIL.Image.open(PATH)"
        )
    if first is X or not hasattr(first, "__array_interface__") or np.asarray(first).ndim < 2:
        return X
    images = [np.asarray(image) for image in X]
    if other := next((image.shape for image in images if image.shape != images[0].shape), None):
        raise InputError(f"images must be of one size, but X holds {images[0].shape} and {other}")
    return np.stack(images)


def image_bytes(images: np.ndarray) -> Tensor:
    """Images (n, H, W) or (n, H, W, 3) of bytes as (n, C, H, W).

    Raises:
        InputError: for any others.
    """
    if images.dtype != np.uint8 or not images.size or (images.ndim == 4 and images.shape[3] != 3):
        first = images.ndim == 4 and images.shape[1] in (1, 3)
        hint = "; X.transpose(0, 2, 3, 1) puts channels last" if first else ""
        right = "images must be uint8 (n, H, W) or (n, H, W, 3), at least one"
        raise InputError(f"{right}, not {images.dtype} {images.shape}{hint}")
    return torch.tensor(images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2))


def _holds_words(value: Any) -> bool:
    """Whether an array is of text or of objects; what is no array at all is refused later."""
    try:
        return np.asarray(value).dtype.kind in "OSU"
    except ValueError:  # lists of unequal length
        return False


def class_numbers(value: Any, what: str) -> Tensor:
    """Class numbers as (N,) int64 on the CPU, from whole numbers of any integer type.

    Raises:
        InputError: for text, fractions, truth values, objects, or more than one axis.
    """
    if not isinstance(value, Tensor) and value is not None and _holds_words(value):
        raise InputError(
            f"{what} must be whole numbers, not {described(value)}; np.unique(…, "
            f"return_inverse=True) numbers names"
        )
    found = as_tensor(value, what)
    if found.numel() and (
        found.is_floating_point() or found.is_complex() or found.dtype == torch.bool
    ):
        raise InputError(f"{what} must be whole numbers, not {described(value)}")
    require(
        found.ndim == 1,
        f"{what} must be a single row of numbers (N,), not of shape {tuple(found.shape)}",
    )
    return found.to("cpu", torch.int64)


def sample_shape(value: Any) -> tuple[int, ...]:
    """The shape of one sample, (d,) or (C, H, W), as whole numbers.

    Raises:
        InputError: for any other.
    """
    right = "(d,) of features or (channels, height, width) of images"
    if (
        isinstance(value, (str, numbers.Number))
        or not hasattr(value, "__len__")
        or len(value) not in (1, 3)
    ):
        raise InputError(f"the shape of a sample must be {right}, not {short(value)}")
    return tuple(whole_number(n, f"each number of the shape, {right},", 1) for n in value)


def as_device(value: Any) -> torch.device:
    """A device by its name.

    Raises:
        InputError: for a name that is none, or a GPU that this machine has not.
    """
    try:
        device = torch.device(value)
    except (RuntimeError, TypeError):
        raise InputError(
            f"the device must be cpu, cuda, cuda:1 or mps, not {described(value)}"
        ) from None
    require(
        device.type != "cuda" or torch.cuda.is_available(),
        f"PyTorch finds no GPU for the device {value!s:.60}; choose cpu",
    )
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(
            f"there is no device {value!s:.60}: this machine has {torch.cuda.device_count()} GPUs"
        )
    return device
