"""Any map-style torch data set of (sample, label) -> `Split`."""

from __future__ import annotations

import numbers
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.progress import track
from torch import Tensor

from graphfsl.data.dataset import Split
from graphfsl.data.images import to_array
from graphfsl.errors import InputError

GRAY = {"1", "L", "I", "F", "I;16", "I;16L", "I;16B", "I;16N"}


def from_dataset(dataset: Any, name: str, size: int | None = None) -> Split:
    """All samples of a data set that has `len(dataset)` and `dataset[i] -> (sample, label, …)`, decoded once.

    Samples: PIL images; tensors (C, H, W) or (H, W) and arrays (H, W, C) or (H, W), uint8 or floats in [0, 1]; or
    floats (d,), which are features. C is 1 or 3; where both occur, gray images become (3, H, W).
    Labels: whole numbers (below 0 = unlabeled) or strings. Classes are numbered in sorted order and named by
    `dataset.classes` (also of the data set that a `Subset` views) where it has a name for each.
    name: "<data set>/<split>", part of what an episode is a function of. size: pixels of a side, to which every
    image is squeezed; needed where sizes differ.

    Raises InputError, with the number of the sample, for anything else.
    """
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        raise InputError(f"{name}: {type(dataset).__name__} must be a map-style data set, with len() and [i]")
    if len(dataset) == 0:
        raise InputError(f"{name}: the data set is empty; it must have at least one sample")
    x: np.ndarray | None = None
    labels: list[int | str] = []
    for i in track(range(len(dataset)), f"decoding {name}", disable=len(dataset) < 1000, transient=True):
        where, item = f"{name}: sample {i}", dataset[i]
        if not isinstance(item, (tuple, list)) or len(item) < 2:
            raise InputError(f"{where} must be a pair (sample, label), not {type(item).__name__}")
        sample = _sample(item[0], size, where)
        labels.append(_label(item[1], where))
        if x is None:
            x = np.empty((len(dataset), *sample.shape), sample.dtype)
        if sample.ndim == x.ndim - 1 == 3 and sample.shape[1:] == x.shape[2:] and len(sample) > x.shape[1]:
            x = np.repeat(x, 3, 1)  # the first colour image after gray ones
        gray = sample.ndim == 3 and len(sample) == 1  # then NumPy spreads it over the channels
        if sample.shape != x.shape[1:] and not (gray and sample.shape[1:] == x.shape[2:]):
            first, this = (" x ".join(map(str, shape)) for shape in (x.shape[1:], sample.shape))
            hint = "features must be of one length" if 1 in (sample.ndim, x.ndim - 1) else "give size=PIXELS"
            raise InputError(f"{where} is {this}, but those before are {first}; {hint}")
        x[i] = sample
    assert x is not None
    y, classes = _classes(dataset, labels, name)
    return Split(torch.from_numpy(x), torch.from_numpy(y), classes, name)


def _sample(sample: Any, size: int | None, where: str) -> np.ndarray:
    """(C, H, W) uint8, or (d,) float32."""
    if isinstance(sample, Image.Image):
        return to_array(sample, size, 1 if sample.mode in GRAY else 3)
    if isinstance(sample, Tensor):
        array = sample.detach().cpu().float().numpy() if sample.is_floating_point() else sample.cpu().numpy()
        channels_first = True
    elif isinstance(sample, np.ndarray):
        array, channels_first = sample, False
    else:
        raise InputError(f"{where} must be a PIL image, a tensor or an array, not {type(sample).__name__}")
    floats = np.issubdtype(array.dtype, np.floating)
    if array.ndim == 1 and floats:
        return array.astype(np.float32)
    if array.ndim == 2:
        array = array[None]
    elif array.ndim == 3 and not channels_first:
        array = array.transpose(2, 0, 1)
    if array.ndim != 3 or array.shape[0] not in (1, 3) or not (floats or array.dtype == np.uint8) or not array.size:
        right = "(C, H, W)" if channels_first else "(H, W, C)"
        raise InputError(
            f"{where} is {sample.dtype} {tuple(sample.shape)}; an image must be uint8 or floats in [0, 1], {right} "
            f"with 1 or 3 channels, and features floats (d,)"
        )
    if floats:
        low, high = float(array.min()), float(array.max())
        if not (low >= 0 and high <= 1):  # also for NaN
            raise InputError(
                f"{where} has floats from {low:.3g} to {high:.3g}; images must lie in [0, 1]: take Normalize out of "
                f"the data set's transform"
            )
        array = (array * 255 + 0.5).astype(np.uint8)
    if size is None:
        return array
    return to_array(Image.fromarray(array[0] if len(array) == 1 else array.transpose(1, 2, 0)), size, len(array))


def _label(label: Any, where: str) -> int | str:
    if isinstance(label, (Tensor, np.ndarray)) and label.ndim == 0:
        label = label.item()
    if isinstance(label, str):
        return str(label)
    if isinstance(label, numbers.Integral):
        return int(label)
    raise InputError(f"{where} has the label {label!r:.60}; a label must be a whole number or a string")


def _classes(dataset: Any, labels: list[int | str], name: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """(N,) int64 labels in 0..classes - 1 or -1, and the classes' names."""
    if len({type(v) for v in labels}) > 1:
        raise InputError(f"{name}: some labels are numbers and some are strings; they must be of one kind")
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
