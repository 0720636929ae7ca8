"""What episodes ask: one kind of task, one file, whose `__all__` names its class.

A new file here is a new `episode.task`, but for those whose names begin with an underscore: these
hold what one of the others uses.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graphfsl.core.arguments import described
from graphfsl.core.schema import make
from graphfsl.core.task import Task
from graphfsl.io.errors import require, unknown

DEFAULT = "classes"
# what a results row says of other things than the task
RESERVED = {
    *("task", "method", "data", "setting", "traits", "batch_norm", "metric", "metrics", "ci95"),
    *("values", "accuracies", "episodes", "seed", "seeds", "seconds", "config", "commit", "steps"),
    *("paper_steps", "device", "published", "source", "difference", "command", "environment"),
    *("unfinished", "setting_from", "spread", "run", "cell", "best", "baseline", "unit"),
}


def names() -> list[str]:
    """The kinds of tasks that there are."""
    files = [file for folder in __path__ for file in Path(folder).glob("*.py")]
    return sorted(file.stem for file in files if not file.stem.startswith("_"))


def get(name: str) -> type[Task]:
    """The class of a kind of task; an unknown name raises InputError with the nearest one."""
    if name not in names():
        raise unknown("task", name, names())
    module = importlib.import_module(f"graphfsl.data.tasks.{name}")
    found: type[Task] = getattr(module, module.__all__[0])
    taken = RESERVED & {field.name for field in dataclasses.fields(found)}
    require(
        not taken,
        f"task {name!r} has a field {min(taken, default='')!r}, which results rows have for "
        "something else; give it another name",
    )
    return found


def name_of(task: Task) -> str:
    """The name that a task is registered by: that of its file."""
    return type(task).__module__.rpartition(".")[2]


def as_task(given: Any, options: Mapping[str, Any] | None = None, where: str = "episode") -> Task:
    """The task that a caller gave, as one or by its fields.

    Raises:
        InputError: for both at once, and for anything else.
    """
    require(
        given is None or isinstance(given, (Task, Mapping)),
        f"the setting must be a gf.Setting, such as gf.Setting(way=5), not {described(given)}",
    )
    require(
        given is None or not options,
        f"give a setting or its fields, not both: {', '.join(options or ())} beside a setting",
    )
    if isinstance(given, Task):
        return given
    fields = dict(given if given is not None else options or {})
    kind = get(fields.pop("task", DEFAULT))
    task: Task = make(kind, fields, where)
    return task
