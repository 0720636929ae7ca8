"""Tasks over shards: in this process, and on Ray, where a worker may die."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from graphfsl.apply.label.shards import workers as module
from graphfsl.apply.label.shards.workers import workers
from graphfsl.functional.neighbors import silent
from graphfsl.io.errors import InputError


@dataclass(frozen=True)
class Touch:
    """Makes an empty file for a shard, and a line in `log`; dies once in shard 2 where it is to."""

    folder: Path
    dies: bool = False
    what: str = "touching"

    def is_done(self, shard: int) -> bool:
        return (self.folder / str(shard)).exists()

    def __call__(self, shard: int) -> None:
        with (self.folder / "log").open("a") as log:
            log.write(f"{shard}\n")
        death = self.folder / "death"
        if self.dies and shard == 2 and not death.exists():
            death.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        (self.folder / str(shard)).touch()

    @property
    def tried(self) -> list[int]:
        return [int(line) for line in (self.folder / "log").read_text().splitlines()]


def test_one_process_does_what_is_not_done(tmp_path: Path) -> None:
    (tmp_path / "1").touch()
    with workers(None, silent) as work:
        work(Touch(tmp_path), range(4))
    assert Touch(tmp_path).tried == [0, 2, 3]


class Rows:
    """Stands for a data set of Ray Data."""

    def __init__(self, shards: Sequence[int], fails: Exception | None) -> None:
        self.shards, self.fails = shards, fails

    def iter_rows(self) -> Iterator[Any]:
        for shard in self.shards:
            if self.fails is not None:
                raise self.fails
            yield {"shard": shard}


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (InputError("a shard is missing"), "a shard is missing"),
        (
            RuntimeError("ray::Map()\n  File x\nValueError: cannot read\nTo change retries, see"),
            "--ray local: touching failed: ValueError: cannot read",
        ),
        (RuntimeError(""), "--ray local: touching failed: RuntimeError"),
    ],
)
def test_what_fails_elsewhere_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, says: str
) -> None:
    monkeypatch.setattr(module, "_mapped", lambda task, shards: Rows(shards, error))
    with pytest.raises(InputError) as refused:
        module._on_ray("local", silent)(Touch(tmp_path), range(3))
    assert str(refused.value) == says


@pytest.mark.slow
def test_ray_does_the_shard_of_a_killed_worker_again_and_nothing_else(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="a cluster needs Ray: pip install graphfsl[ray]")
    (tmp_path / "1").touch()
    task = Touch(tmp_path, dies=True)
    with workers("local", silent) as work:
        work(task, range(5))
        assert sorted(task.tried) == [0, 2, 2, 3, 4]
        work(task, range(5))
    assert sorted(task.tried) == [0, 2, 2, 3, 4], "all was done"
