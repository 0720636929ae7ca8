"""Any map-style torch data set of (sample, label) -> `Split`."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.progress import track
from torch import Tensor

from graphfsl.core.arguments import as_tensor, check_kind, described, whole_number
from graphfsl.data.images import to_array
from graphfsl.data.pixel_range import Range, check_range, picture, pieces, warn_if_narrow
from graphfsl.data.split import Split
from graphfsl.io.errors import InputError, require
from graphfsl.io.limits import LARGEST_SIDE

GRAY = {"1", "L", "I", "F", "I;16", "I;16L", "I;16B", "I;16N"}


def from_dataset(
    dataset: Any, name: str, size: int | None = None, range: Sequence[float] | None = None
) -> Split:
    """All samples of a map-style data set, decoded once, as a split.

    `dataset[i]` is (sample, label, …). Samples: PIL images; tensors (C, H, W) or (H, W) and arrays
    (H, W, C) or (H, W), uint8, uint16 or floats in [0, 1]; or floats (d,), which are features. C is
    1 or 3; where both occur, gray images become (3, H, W). Labels: whole numbers (below 0 =
    unlabeled) or strings. Classes are numbered in sorted order and named by `dataset.classes` (also
    of the data set that a `Subset` views) where it has a name for each.

    Args:
        dataset: has len() and [i].
        name: "<data set>/<split>", part of what an episode is a function of.
        size: pixels of a side, to which every image is squeezed; needed where sizes differ.
        range: the values of black and white, where they are not those of the samples' type; (0,
            4095) for 12 bits.

    Raises:
        InputError: with the number of the sample, for anything else.
    """
    check_kind(name, str, "the name of a split", 'text such as "mine/test"')
    size = None if size is None else whole_number(size, "size", 1)
    require(
        size is None or size <= LARGEST_SIDE,
        f"size must be at most {LARGEST_SIDE} pixels of a side, not {size}",
    )
    limits = check_range(range, "range")
    require(
        hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__"),
        f"{name}: {type(dataset).__name__} must be a map-style data set, with len() and [i]",
    )
    require(len(dataset) > 0, f"{name}: the data set is empty; it must have at least one sample")
    x: np.ndarray | None = None
    labels: list[int | str] = []
    for i in track(
        np.arange(len(dataset)).tolist(),
        f"decoding {name}",
        disable=len(dataset) < 1000,
        transient=True,
    ):
        where, item = f"{name}: sample {i}", dataset[i]
        if not isinstance(item, (tuple, list)) or len(item) < 2:
            raise InputError(
                f"{where} must be a pair (sample, label), not {described(item)}; gf.Split takes "
                f"all samples and labels"
            )
        sample = _sample(item[0], size, where, limits)
        labels.append(_label(item[1], where))
        if x is None:
            x = np.empty((len(dataset), *sample.shape), sample.dtype)
        if (
            sample.ndim == x.ndim - 1 == 3
            and sample.shape[1:] == x.shape[2:]
            and len(sample) > x.shape[1]
        ):
            x = np.repeat(x, 3, 1)  # the first colour image after gray ones
        gray = sample.ndim == 3 and len(sample) == 1  # then NumPy spreads it over the channels
        if sample.shape != x.shape[1:] and not (gray and sample.shape[1:] == x.shape[2:]):
            first, this = (" x ".join(map(str, shape)) for shape in (x.shape[1:], sample.shape))
            hint = (
                ("features must be of one length")
                if 1 in (sample.ndim, x.ndim - 1)
                else "give size=PIXELS"
            )
            raise InputError(f"{where} is {this}, but those before are {first}; {hint}")
        x[i] = sample
    assert x is not None
    if x.ndim == 4:
        warn_if_narrow(pieces(x), name)
    y, classes = _classes(dataset, labels, name)
    return Split(torch.from_numpy(x), torch.from_numpy(y), classes, name)


def _sample(sample: Any, size: int | None, where: str, limits: Range | None) -> np.ndarray:
    """(C, H, W) uint8, or (d,) float32."""
    if isinstance(sample, Image.Image):
        return to_array(sample, size, 1 if sample.mode in GRAY else 3, limits, where)
    if isinstance(sample, (list, tuple)):
        sample = as_tensor(sample, where)
    if not isinstance(sample, (Tensor, np.ndarray)):
        hint = "; PIL.Image.open reads a file" if isinstance(sample, (str, Path)) else ""
        raise InputError(
            f"{where} must be a PIL image, a tensor or an array, not {described(sample)}{hint}"
        )
    if sample.ndim == 1:
        row = sample.detach().cpu() if isinstance(sample, Tensor) else sample
        if isinstance(row, Tensor) and row.is_floating_point():
            return row.float().numpy()
        if isinstance(row, np.ndarray) and row.dtype.kind == "f":
            return row.astype(np.float32)
        raise InputError(
            f"{where} is {sample.dtype} {tuple(sample.shape)}; features must be floats (d,)"
        )
    image = picture(sample, limits, where)
    return to_array(image, size, 1 if image.mode == "L" else 3)


def _label(label: Any, where: str) -> int | str:
    if isinstance(label, (Tensor, np.ndarray)) and label.ndim == 0:
        label = label.item()
    if isinstance(label, str):
        return str(label)
    if isinstance(label, numbers.Integral):
        return int(label)
    raise InputError(
        f"{where} has the label {label!r:.60}; a label must be a whole number or a string"
    )


def _classes(
    dataset: Any, labels: list[int | str], name: str
) -> tuple[np.ndarray, tuple[str, ...]]:
    """(N,) int64 labels in 0..classes - 1 or -1, and the classes' names."""
    require(
        len({type(v) for v in labels}) <= 1,
        f"{name}: some labels are numbers and some are strings; they must be of one kind",
    )
    values = sorted({v for v in labels if isinstance(v, str) or v >= 0})
    number = {v: k for k, v in enumerate(values)}
    owner = dataset
    while not hasattr(owner, "classes") and hasattr(owner, "dataset"):
        owner = owner.dataset
    names = getattr(owner, "classes", None)
    names = names if isinstance(names, (list, tuple)) else ()
    named = all(isinstance(v, int) and v < len(names) for v in values)
    classes = tuple(str(names[int(v)] if named else v) for v in values)
    return np.array([number.get(v, -1) for v in labels], dtype=np.int64), classes
