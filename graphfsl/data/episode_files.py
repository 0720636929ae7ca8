"""Episodes as lists of sample ids in a JSON file.

So another library, or another run, meets the very same ones.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from graphfsl.core.display import block
from graphfsl.core.task import Draw, Task
from graphfsl.data.split import Split
from graphfsl.data.tasks import DEFAULT, as_task, name_of
from graphfsl.io.checkpoint import FORMAT, check_format, read_json, write_atomically
from graphfsl.io.errors import InputError


@dataclasses.dataclass(frozen=True)
class Listed:
    """Episodes that were drawn before; `draw` has the meaning of `Sampler.draw`."""

    task: Task
    seed: int
    every: Draw

    def __repr__(self) -> str:
        return block(
            f"Listed: {len(self):,} episodes", {"episodes": str(self.task), "seed": self.seed}
        )

    def __len__(self) -> int:
        return len(self.every.ids)

    def draw(self, i: np.ndarray | list[int]) -> Draw:
        """The listed episodes with the numbers i (B,)."""
        return self.every.rows(np.asarray(i))


def digest(split: Split) -> str:
    """A check of a split's samples: it changes with their names and labels.

    Ids mean the same only where it is equal.
    """
    names = "\n".join(split.classes).encode(errors="surrogateescape")
    return hashlib.sha256(names + b"\0" + split.y.numpy().astype("<i8").tobytes()).hexdigest()[:16]


def write_episodes(path: Path, split: Split, task: Task, seed: int, episodes: int) -> None:
    """Write episodes 0 .. episodes - 1 of a split as JSON.

    The file holds: data, samples and digest, the split, how many samples it has, and a check of
    their labels; setting; seed; classes, the names of the split's classes; and episodes, a list of
    {ids, …}, the arrays of the task's draw.

    Of the task `classes` it has n_support and n_query: the first nodes of an episode are support,
    the next queries, the rest unlabeled; and each episode is {ids, labels, classes}: ids of the
    nodes in the split (-1 = no node), the column of `classes` that each belongs to (-1 = a
    distractor or unknown, -100 = no node), and the split's class of each column.

    Args:
        path: the file.
        split: of which they are drawn.
        task: what they ask.
        seed: of the episodes.
        episodes: how many.
    """
    draw = task.draws(split, seed).draw(np.arange(episodes))
    names = [draw.listed_as.get(name, name) for name in draw.arrays]
    rows = zip(*(array.tolist() for array in draw.arrays.values()), strict=True)
    kind = name_of(task)
    facts = {
        "format": FORMAT,
        "data": split.name,
        "samples": len(split.x),
        "digest": digest(split),
        "setting": ({} if kind == DEFAULT else {"task": kind}) | dataclasses.asdict(task),
        "seed": seed,
        **draw.numbers,
        "classes": list(split.classes),
    }
    head = ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in facts.items())
    lines = ",\n".join(json.dumps(dict(zip(names, row, strict=True))) for row in rows)
    write_atomically(path, f'{{{head},\n"episodes": [\n{lines}\n]}}\n'.encode())


def read_episodes(path: Path, split: Split) -> Listed:
    """The episodes of a file, for the split that they were drawn from.

    Raises:
        InputError: where it is another split, or the file is no list of episodes.
    """
    facts = read_json(path)
    try:
        check_format(facts["format"], path)
        if (facts["samples"], facts["digest"]) != (len(split.x), digest(split)):
            raise InputError(
                f"{path} lists episodes of {facts['data']}, whose samples are not "
                f"those of {split.name}"
            )
        task, seed = as_task(facts["setting"]), facts["seed"]
        draw = _read_draw(facts, task.draw_type)
        task.check_draw(draw, split)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{path} is not a list of episodes ({error!r}); write it with `graphfsl episodes`"
        ) from None
    return Listed(task, seed, draw)


def _read_draw(facts: Mapping[str, Any], kind: type[Draw]) -> Draw:
    """What the file lists, as the task's draw."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(kind):
        name = kind.listed_as.get(field.name, field.name)
        if name in facts["episodes"][0]:
            values[field.name] = np.array([episode[name] for episode in facts["episodes"]])
        elif name in facts or field.default is dataclasses.MISSING:
            values[field.name] = facts[name]
    return kind(**values)
