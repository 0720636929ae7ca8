"""One task for every shard: in this process, or as a map of Ray Data over several machines."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from graphfsl.functional.neighbors import Bar
from graphfsl.io.errors import InputError
from graphfsl.io.ray_cluster import ray_cluster

MISTAKE = re.compile(r"[\w.]*(Error|Exception): ")  # the last line of a traceback


class Task(Protocol):
    """Makes the file of a shard, from files alone."""

    @property
    def what(self) -> str:
        """What it does, for a progress bar."""

    def is_done(self, shard: int) -> bool:
        """Whether the file is there already."""

    def __call__(self, shard: int) -> None:
        """Make it."""


Work = Callable[[Task, Sequence[int]], None]  # does a task for each of some shards


def one_process(bar: Bar) -> Work:
    """Shard after shard, in this process."""

    def work(task: Task, shards: Sequence[int]) -> None:
        left = [shard for shard in shards if not task.is_done(shard)]
        for shard in bar(left, task.what):
            task(shard)

    return work


@contextmanager
def workers(address: str | None, bar: Bar) -> Iterator[Work]:
    """What does a task for each shard: this process, or a Ray cluster while the block lasts.

    A cluster does as many shards at once as it has processors, a task of Ray Data for each. Where a
    worker dies, Ray gives its shard to another; all others stand in files. Every machine sees these
    files under the same path.

    Args:
        address: as `ray.init` takes it, "local" for a cluster on this machine; None for this
            process.
        bar: shows progress.

    Raises:
        InputError: where Ray is not installed or of another kind, and where no cluster answers.
    """
    if address is None:
        yield one_process(bar)
        return
    with ray_cluster(address):
        yield _on_ray(address, bar)


def _on_ray(address: str, bar: Bar) -> Work:
    def work(task: Task, shards: Sequence[int]) -> None:
        left = [shard for shard in shards if not task.is_done(shard)]
        if not left:
            return
        rows = iter(_mapped(task, left).iter_rows())
        for _ in bar(left, task.what):
            try:
                next(rows)
            except InputError:
                raise
            except Exception as error:  # Ray has a class of its own for each mistake
                why = _mistake(error)
                raise InputError(f"--ray {address}: {task.what} failed: {why}") from None

    return work


def _mistake(error: Exception) -> str:
    """The line of an error from another process that says what it was."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    named = [line for line in lines if MISTAKE.match(line)]
    return (named or lines or [type(error).__name__])[-1]


def _mapped(task: Task, shards: Sequence[int]) -> Any:
    """The data set of Ray Data that a task makes of shards, a block each."""
    try:
        import ray.data as data
    except ImportError as error:
        raise InputError(
            f"this ray lacks Ray Data ({error}); pip install graphfsl[ray] brings it"
        ) from None
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    context = data.DataContext.get_current()
    context.enable_progress_bars = False
    context.raise_original_map_exception = True
    ours = {k: v for k, v in os.environ.items() if k.startswith("GRAPHFSL_")}
    folder = os.getcwd()

    def one(row: dict[str, int]) -> dict[str, int]:
        _do_elsewhere(task, row["shard"], folder, ours)
        return row

    rows = [{"shard": shard} for shard in shards]
    return data.from_items(rows, override_num_blocks=len(rows)).map(one, num_cpus=1)


def _do_elsewhere(task: Task, shard: int, folder: str, environment: Mapping[str, str]) -> None:
    """A task where a cluster was started in another folder, with other settings.

    A shard that was finished by a worker that died afterwards stands already.
    """
    os.makedirs(folder, exist_ok=True)
    os.chdir(folder)
    os.environ.update(environment)
    if not task.is_done(shard):
        task(shard)
