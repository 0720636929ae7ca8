"""Episodes as lists of sample ids in a JSON file, so that another library, or another run, meets
the very same ones.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from graphfsl.core.display import block
from graphfsl.data.sampler import Draw, Sampler, Setting
from graphfsl.data.split import Split
from graphfsl.io.checkpoint import FORMAT, check_format, read_json, write_atomically
from graphfsl.io.errors import InputError


@dataclasses.dataclass(frozen=True)
class Listed:
    """Episodes that were drawn before; `draw` has the meaning of `Sampler.draw`."""

    setting: Setting
    seed: int
    every: Draw

    def __repr__(self) -> str:
        return block(
            f"Listed: {len(self):,} episodes", {"episodes": str(self.setting), "seed": self.seed}
        )

    def __len__(self) -> int:
        return len(self.every.ids)

    def draw(self, i: np.ndarray | list[int]) -> Draw:
        """The listed episodes with the numbers i (B,)."""
        return self.every.rows(np.asarray(i))


def digest(split: Split) -> str:
    """Changes with the names and the labels of a split's samples: ids mean the same only where it
    is equal.
    """
    names = "\n".join(split.classes).encode(errors="surrogateescape")
    return hashlib.sha256(names + b"\0" + split.y.numpy().astype("<i8").tobytes()).hexdigest()[:16]


def write_episodes(path: Path, split: Split, setting: Setting, seed: int, episodes: int) -> None:
    """Episodes 0 .. episodes - 1 of a split as JSON.

    data, samples, digest: the split, how many samples it has, and a check of their labels. setting,
        seed.
    classes: the names of the split's classes. n_support, n_query: the first nodes of an episode are
    support, the next queries, the rest unlabeled. episodes: a list of {ids, labels, classes}: ids
    of the nodes in the split (-1 = no node), the column of `classes` that each belongs to (-1 = a
    distractor or unknown, -100 = no node), and the split's class of each column.
    """
    draw = Sampler(split, setting, seed).draw(np.arange(episodes))
    rows = zip(draw.ids.tolist(), draw.label.tolist(), draw.classes.tolist(), strict=True)
    facts = {
        "format": FORMAT,
        "data": split.name,
        "samples": len(split.x),
        "digest": digest(split),
        "setting": dataclasses.asdict(setting),
        "seed": seed,
        "n_support": draw.n_support,
        "n_query": draw.n_query,
        "classes": list(split.classes),
    }
    head = ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in facts.items())
    lines = ",\n".join(json.dumps({"ids": i, "labels": y, "classes": c}) for i, y, c in rows)
    write_atomically(path, f'{{{head},\n"episodes": [\n{lines}\n]}}\n'.encode())


def read_episodes(path: Path, split: Split) -> Listed:
    """The episodes of a file, for the split that they were drawn from; InputError where it is
    another one.
    """
    facts = read_json(path)
    try:
        check_format(facts["format"], path)
        if (facts["samples"], facts["digest"]) != (len(split.x), digest(split)):
            raise InputError(
                f"{path} lists episodes of {facts['data']}, whose samples are not "
                f"those of {split.name}"
            )
        setting, seed = Setting(**facts["setting"]), facts["seed"]
        ids, label, classes = (
            np.array([e[k] for e in facts["episodes"]]) for k in ("ids", "labels", "classes")
        )
        draw = Draw(ids, label, classes, facts["n_support"], facts["n_query"])
        _check(draw, split, setting)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{path} is not a list of episodes ({error!r}); write it with `graphfsl episodes`"
        ) from None
    return Listed(setting, seed, draw)


def _check(draw: Draw, split: Split, setting: Setting) -> None:
    """ValueError where a list contradicts itself or the labels of the split."""
    ids, label, columns = draw.ids, draw.label, draw.classes
    k, q = draw.n_support, draw.n_query
    shapes: tuple[Any, ...] = (
        ids.ndim,
        ids.shape == label.shape,
        columns.shape,
        k + q <= ids.shape[-1],
    )
    if shapes != (2, True, (len(ids), setting.way), True) or min(k, q) < 1:
        raise ValueError("lists of unequal length")
    if ids.min() < -1 or ids.max() >= len(split.x) or ((ids < 0) != (label == -100)).any():
        raise ValueError("an id that no sample has")
    known = label[:, : k + q]
    if known[ids[:, : k + q] >= 0].min(initial=0) < 0 or label.max() >= setting.way:
        raise ValueError("a support or query node without a class")
    truth = np.where(label >= 0, np.take_along_axis(columns, label.clip(0), 1), -1)
    real = label >= 0
    if (split.y.numpy()[ids.clip(0)] != truth)[real].any():
        raise ValueError("a label that the split does not have")
