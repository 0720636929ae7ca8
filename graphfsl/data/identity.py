"""What a data set is: its classes, how many samples each has, and a digest of the samples.

Where it lies does not matter.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from graphfsl.data.split import Split
from graphfsl.io.array_cache import cache_dir

AT_ONCE = 4096  # samples
UNLABELED = "samples without a label"
Identity = Mapping[str, Any]


def identity(split: Split) -> dict[str, Any]:
    """What tells a split from any other: its classes, how many samples each has, and digests.

    Equal for equal content at any place.

    Samples that stay on disk are read once: their digests are kept in the cache by path, size and
    modification time.

    Returns:
        {"classes": {name: [samples, digest]}, "order": digest of the labels}.
    """
    kept = _kept(split)
    if kept is not None:
        try:
            return dict(json.loads(kept.read_text(encoding="utf-8")))
        except (OSError, ValueError):
            pass
    y = split.y.cpu().numpy()
    order = _hex(split.label_bytes)
    found = {"shape": list(split.shape), "classes": _classes(split, y), "order": order}
    if kept is not None:
        try:
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_text(json.dumps(found), encoding="utf-8")
        except OSError:  # it is computed again
            pass
    return found


def is_identity(found: Any) -> bool:
    """Whether a value, as a file holds it, is what `identity` made."""
    classes = found.get("classes") if isinstance(found, Mapping) else None
    entries = classes.values() if isinstance(classes, Mapping) else [None]
    return all(isinstance(e, list) and [type(v) for v in e] == [int, str] for e in entries)


def digest(found: Identity) -> str:
    """Eight characters that change with any part of an identity."""
    return _hex(json.dumps(found, sort_keys=True).encode())[:8]


def class_names(found: Identity) -> list[str]:
    """The classes of a split, in its order."""
    return [c for c in found["classes"] if c != UNLABELED]


def difference(old: Identity, new: Identity) -> str | None:
    """What has changed in a sentence, from one identity of a split to another.

    None where nothing has.
    """
    if old == new:
        return None
    before, now = old["classes"], new["classes"]
    if lost := sorted(before.keys() - now.keys()):
        return f"class {lost[0]!r} is no longer there" + _more(lost)
    if added := sorted(now.keys() - before.keys()):
        return f"class {added[0]!r} was added" + _more(added)
    counts = [c for c in before if before[c][0] != now[c][0]]
    if counts:
        had, has = before[counts[0]][0], now[counts[0]][0]
        what = (
            ("an image was added to")
            if has == had + 1
            else f"{abs(has - had)} images were added to"
        )
        if has < had:
            what = (
                ("an image was taken out of")
                if has == had - 1
                else f"{had - has} images were taken out of"
            )
        return f"{what} class {counts[0]!r}, which had {had}" + _more(counts)
    if swapped := [c for c in before if before[c][1] != now[c][1]]:
        return f"images of class {swapped[0]!r} are others" + _more(swapped)
    return "its samples are of another shape or stand in another order"


def _more(names: list[str]) -> str:
    return f", and {len(names) - 1} classes more" if len(names) > 1 else ""


def _classes(split: Split, y: np.ndarray) -> dict[str, list[Any]]:
    """Class -> [number of samples, digest of them in their order]."""
    # the last of no class
    hashes = [hashlib.blake2b(digest_size=8) for _ in range(len(split.classes) + 1)]
    first = 0
    for x in split.blocks(AT_ONCE):
        rows = np.ascontiguousarray(x.cpu().numpy())
        labels = y[first : first + len(rows)]
        ends = [*(np.flatnonzero(np.diff(labels)) + 1).tolist(), len(rows)]
        for start, end in zip([0, *ends[:-1]], ends, strict=True):
            hashes[labels[start]].update(rows[start:end].data)
        first += len(rows)
    counts = [*split.counts.tolist(), int((y < 0).sum())]
    names = [*split.classes, UNLABELED]
    return {n: [c, h.hexdigest()] for n, c, h in zip(names, counts, hashes, strict=True) if c}


def _kept(split: Split) -> Path | None:
    """Where the identity of samples on disk is kept.

    None for those in memory, which are hashed at once.
    """
    if split.stored is None:
        return None
    status = split.stored.path.stat()
    rows = [
        str(split.stored.path.resolve()),
        status.st_size,
        status.st_mtime_ns,
        split.stored.start,
        list(split.shape),
    ]
    key = _hex(json.dumps([rows, list(split.classes)]).encode() + split.y.cpu().numpy().tobytes())
    return cache_dir() / "identities" / f"{key}.json"


def _hex(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=8).hexdigest()
