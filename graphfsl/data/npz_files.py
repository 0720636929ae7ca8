"""Splits in npz files: images or features, as the data set `arrays` takes them, and CIFAR-FS."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from graphfsl.data.images import written
from graphfsl.data.pixel_range import check_range, pieces, range_of, to_bytes, warn_if_narrow
from graphfsl.data.split import Split, readable
from graphfsl.io.arrays import read_arrays
from graphfsl.io.errors import InputError, require
from graphfsl.io.files import check_regular


def read_split(
    split: str, root: str, folder: str = "", range: Sequence[float] | None = None
) -> Split:
    """One split from its npz file; the data set `arrays` says what it holds.

    Args:
        split: its name, and that of the file.
        root: the folder of the files, or the one above it.
        folder: what it is called there.
        range: the values of black and of white, where they are not those of the images' type.

    Raises:
        InputError: where it holds something else.
    """
    limits = check_range(range)
    base = Path(root).expanduser()
    base = base / folder if (base / folder).is_dir() else base
    path = readable(base / f"{split}.npz", f"split {split!r} of the arrays")
    check_regular(path)
    arrays = read_arrays(path)
    kind = next((k for k in ("images", "features") if k in arrays), None)
    if kind is None or "labels" not in arrays:
        raise InputError(
            f"{path} must hold 'images' or 'features', and 'labels', not "
            f"{sorted(arrays) or 'nothing'}"
        )
    x, labels = arrays[kind], arrays["labels"]
    require(
        labels.ndim == 1 and np.issubdtype(labels.dtype, np.integer),
        f"{path}: labels must be integers (n,), not {labels.dtype} {labels.shape}",
    )
    if kind == "images":
        known = range_of(x.dtype) is not None or (limits is not None and x.dtype.kind in "iu")
        if (
            not known
            or x.ndim not in (3, 4)
            or x.shape[3:] not in ((), (1,), (3,))
            or 0 in x.shape[1:]
        ):
            raise InputError(
                f"{path}: images must be uint8, uint16 or floats in [0, 1], or other numbers "
                f"with a range, "
                f"(n, H, W, 3) or (n, H, W), not {x.dtype} {x.shape}"
            )
        if x.dtype != np.uint8 or limits is not None:
            x = np.stack(
                [to_bytes(image, limits, f"{path}: image {i}") for i, image in enumerate(x)]
            )
        warn_if_narrow(pieces(x), str(path))
        x = x[:, None] if x.ndim == 3 else x.transpose(0, 3, 1, 2)
    elif x.ndim != 2 or not np.issubdtype(x.dtype, np.floating) or not x.shape[1]:
        raise InputError(f"{path}: features must be floats (n, d), not {x.dtype} {x.shape}")
    else:
        x = x.astype(np.float32, copy=False)
    # Classes are numbered 0.. in the order of their labels, so that a file may keep CIFAR-100's own
    # numbers.
    values = np.unique(labels[labels >= 0])
    y = np.where(labels >= 0, np.searchsorted(values, labels), -1)
    require(
        len(x) == len(y), f"{path}: {len(x)} samples but {len(y)} labels; there must be one each"
    )
    given = np.atleast_1d(arrays.get("class_names", [])).astype(str)  # also of ASCII bytes
    require(given.ndim == 1, f"{path}: class_names must be (classes,), not {given.shape}")
    names = tuple(str(given[v]) if v < len(given) else str(v) for v in values)
    groups = arrays.get("superclasses")
    top = int(values[-1]) if len(values) else -1
    if groups is not None and (groups.ndim != 1 or top >= len(groups)):
        raise InputError(
            f"{path}: superclasses must be ({top + 1},), one for each label "
            f"0..{top}, not {groups.shape}"
        )
    supers = tuple(str(groups[v]) for v in values) if groups is not None else None
    name = f"{written(base.resolve().name)}/{split}"
    return Split(
        torch.from_numpy(np.ascontiguousarray(x)),
        torch.from_numpy(y.astype(np.int64)),
        names,
        name,
        supers,
    )
