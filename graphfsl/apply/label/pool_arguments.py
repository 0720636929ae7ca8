"""What `pool.label_pool` is given, checked before anything is computed.

It is features, a support and options.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch

from graphfsl.core.arguments import as_tensor, described, real_number, whole_number
from graphfsl.io.errors import InputError, require, unknown

PRIORS = ("none", "uniform", "labels")


def features_of(x: Any) -> np.ndarray:
    """Features as an array of floats (n, d).

    Args:
        x: an array, a tensor, lists or a data frame.

    Raises:
        InputError: where they are no features, or not finite.
    """
    if not isinstance(x, np.ndarray):
        x = as_tensor(x, "a pool, features (n, d),").detach().cpu()
        x = (x.float() if x.dtype == torch.bfloat16 else x).numpy()
    if x.ndim != 2 or x.dtype.kind not in "iuf":
        hint = "; `graphfsl features` makes them of images" if x.ndim in (3, 4) else ""
        raise InputError(f"a pool is features (n, d), not {described(x)}{hint}")
    bad = np.flatnonzero(~np.isfinite(x).all(1))
    if len(bad):
        raise InputError(
            f"sample {bad[0]} of the pool holds NaN or infinity; features must be finite"
        )
    floats: np.ndarray = x if x.dtype.kind == "f" else x.astype(np.float32)
    return floats


def check_pool(
    x: np.ndarray,
    support: np.ndarray,
    label: np.ndarray,
    k: int,
    alpha: float,
    prior: str,
    none: float | None,
    chunk: int,
) -> None:
    """Refuse options or a support that `label_pool` cannot be used with.

    Args:
        x: (n, d) features.
        support: see `label_pool`.
        label: see `label_pool`.
        k: its `neighbors`.
        alpha: see `label_pool`.
        prior: see `label_pool`.
        none: see `label_pool`.
        chunk: see `label_pool`.

    Raises:
        InputError: for the first thing that is wrong.
    """
    check_options(len(x), support, label, k, alpha, prior, none, chunk)
    need, have = 4 * len(x) * len(support), os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if need > have:
        sizes = f"need {need / 1e9:.1f} GB, and this machine has {have / 1e9:.1f}"
        raise InputError(
            f"{len(support):,} labels in a pool of {len(x):,} {sizes}; a handful of labels will do"
        )


def check_options(
    n: int,
    support: np.ndarray,
    label: np.ndarray,
    k: int,
    alpha: float,
    prior: str,
    none: float | None,
    chunk: int,
) -> None:
    """Refuse options or a support that no pool of n samples can be labelled with.

    Args:
        n: how many samples there are.
        support: see `label_pool`.
        label: see `label_pool`.
        k: its `neighbors`.
        alpha: see `label_pool`.
        prior: see `label_pool`.
        none: see `label_pool`.
        chunk: see `label_pool`.

    Raises:
        InputError: for the first thing that is wrong.
    """
    if prior not in PRIORS:
        raise unknown("prior", prior, PRIORS)
    check_graph(k, alpha)
    _check_between("none", real_number(1 if none is None else none, "none"), 0, 1)
    whole_number(chunk, "chunk", 1)
    require(
        len(support) == len(label),
        f"the support has {len(support)} samples, but {len(label)} labels; there must be one each",
    )
    check_samples(n, support)
    classes = np.unique(label[label >= 0])
    if not np.array_equal(classes, np.arange(len(classes))) or label.min(initial=0) < -1:
        wrong = (
            (f"{label.min()} is none")
            if label.min(initial=0) < -1
            else f"there are {classes.tolist()!s:.60}"
        )
        raise InputError(
            f"classes of the support are numbered 0 .. C - 1, and -1 is none of them, but {wrong}"
        )
    require(
        len(classes) + (label < 0).any() >= 2 and len(classes),
        f"the support has {len(classes)} class; at least 2 are needed, or 1 and a sample of "
        f"none of them",
    )


def check_graph(k: int, alpha: float) -> None:
    """Refuse a number of neighbours, or a reach of labels, that no graph of a pool has.

    Raises:
        InputError: names it.
    """
    _check_between("neighbors", whole_number(k, "neighbors"), 1, 1000)
    _check_between("alpha", real_number(alpha, "alpha"), 0, 0.999)


def check_samples(n: int, support: np.ndarray) -> None:
    """Refuse a pool without a sample, and a support that names others or one twice.

    Raises:
        InputError: names the sample.
    """
    require(n > 0, "the pool holds no sample")
    outside = support[(support < 0) | (support >= n)]
    if len(outside):
        raise InputError(f"sample {outside[0]} of the support is none of the pool's, 0..{n - 1}")
    found, times = np.unique(support, return_counts=True)
    if len(found) < len(support):
        raise InputError(f"sample {found[times.argmax()]} stands in the support twice; keep one")


def _check_between(name: str, value: float, low: float, high: float) -> None:
    require(low <= value <= high, f"{name} must lie between {low} and {high}, not be {value}")
