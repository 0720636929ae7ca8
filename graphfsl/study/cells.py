"""The cells of a study: every one is measured on the same episodes.

What they share is computed once, and an interrupted study resumes.

OUT/runs/<digest>    one training, shared by the cells that differ in the evaluation only
OUT/cells/<digest>.json  the row of a finished cell; it is not measured again
OUT/cells.csv        the table; nothing in it depends on when or how it was made
OUT/report.*         findings, tables, pictures
"""

from __future__ import annotations

import json
import os
import signal
import traceback
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread, Timer
from typing import Any

import torch
from rich.console import Console
from rich.progress import track

from graphfsl.core.invalid_scores import Diverged
from graphfsl.data import Split
from graphfsl.data.identity import Identity, difference, identity
from graphfsl.experiment import run as runs
from graphfsl.experiment.data_source import Splits, placeless_key
from graphfsl.experiment.experiment import Experiment
from graphfsl.experiment.measure import check, measure
from graphfsl.experiment.results import steps_so_far
from graphfsl.experiment.same_run import check_weights
from graphfsl.io.checkpoint import read_json, write_json
from graphfsl.io.errors import InputError
from graphfsl.io.lock import locked
from graphfsl.io.ray_cluster import ray_cluster
from graphfsl.loops.progress_bar import Log
from graphfsl.loops.row import Row
from graphfsl.report.tables import DIVERGES, finite
from graphfsl.study.grid import Cell, Study, shown


@dataclass(frozen=True)
class Unit:
    """One training and the cells that share it; what a process is given."""

    experiment: Experiment
    path: Path  # of the run
    # where each row goes, and the changes of its evaluation
    cells: tuple[tuple[Path, tuple[str, ...]], ...]
    threads: int
    also: tuple[str, ...] = ()  # further metrics whose values are kept


@dataclass(frozen=True)
class Failure:
    """Why a cell has no row.

    Args:
        error: one line.
        diverged: the kind of setting, where the inner loop left no finite answer in it: that is a
            result, though no number.
    """

    error: str
    diverged: str | None = None

    @property
    def verdict(self) -> str:
        """What it is in one word."""
        return DIVERGES if self.diverged else "failed"


Done = dict[Path, Row | Failure]  # by the cell's file
Told = Callable[[], None]
# of the row of a cell
NEEDED = {"batch_norm", "ci95", "data", "episodes", "seed", "setting", "steps"}
TIDYING = 5.0  # seconds of a process that was told to end


def units(study: Study, out: Path) -> list[Unit]:
    """The work that is not done yet, in the order of the grid."""
    shared: dict[str, list[Cell]] = {}
    for cell in study.cells:
        if row_of(cell, out, study.also) is None:
            shared.setdefault(cell.training, []).append(cell)
    return [
        Unit(
            c[0].experiment,
            out / "runs" / name,
            tuple((cell_file(x, out), x.changes) for x in c),
            study.threads,
            tuple(study.also),
        )
        for name, c in shared.items()
    ]


def cell_file(cell: Cell, out: Path) -> Path:
    """The file of a cell's row."""
    return out / "cells" / f"{cell.name}.json"


def row_of(cell: Cell, out: Path, also: Sequence[str] = ()) -> Row | None:
    """The row of a finished cell.

    It is None where there is none, a damaged one, or one without the values of a metric in `also`:
    such a cell is measured again.
    """
    try:
        found = read_json(cell_file(cell, out))
        if not isinstance(found, dict) or not found.keys() >= NEEDED:
            return None
        row = Row.from_dict(found)
    except (InputError, KeyError, TypeError):
        return None
    if not set(also) <= set(row.further or {}):
        return None
    return row if row.values and all(map(finite, row.values)) else None


def check_folder(study: Study, out: Path) -> None:
    """Refuse a folder in which a table would be lost.

    Raises:
        InputError: where OUT holds a run, or finished cells that are none of this study's.
    """
    if (out / "config.json").is_file():
        raise InputError(f"{out} holds a run; choose another --out for a study")
    own = {c.name for c in study.cells}
    others = sum(file.stem not in own for file in out.glob("cells/*.json"))
    if others:
        raise InputError(
            f"{out} holds {others} finished cells that are not of this study with these "
            f"overrides; choose another "
            "--out, or remove it"
        )


@dataclass(frozen=True)
class Checked:
    """What the check of a study found of its data.

    Attributes:
        identities: of every split that was looked at, by the options that name it.
        numbers: of each cell, what follows the name of its data, where other data of the study have
            the same name: " 1", " 2", …; else nothing.
    """

    identities: Mapping[str, Identity]
    numbers: dict[str, str]


def check_cells(study: Study, console: Console | None = None) -> Checked:
    """Build every cell, and see whether its data suffice, before the first one trains.

    Args:
        study: what is checked.
        console: shows how far it is.

    Raises:
        InputError: names the cell.
    """
    splits = Splits()
    feasible: set[str] = set()
    asked: dict[str, str] = {}
    shows = console is not None and len(study.cells) > 4
    for cell in track(
        study.cells, "checking cells", console=console, transient=True, disable=not shows
    ):
        try:
            if cell.training not in feasible:
                runs.check(cell.experiment, splits)
                feasible.add(cell.training)
            asked[cell.name] = check(cell.experiment, cell.changes, splits)
        except InputError as error:
            raise InputError(f"cell {shown(cell.levels)}: {error}") from None
    identities = {placeless_key(key): identity(split) for key, split in splits.loaded.items()}
    return Checked(identities, _numbers(asked, splits.loaded))


def _numbers(asked: Mapping[str, str], splits: Mapping[str, Split]) -> dict[str, str]:
    """Numbers that tell data of one name apart: those in other folders, or with other labels.

    Their episodes are others, though a folder's name may be the same.

    Args:
        asked: cell -> key of its split.
        splits: key -> split.
    """
    place_of: dict[str, int] = {}
    same_name: dict[str, list[Any]] = {}
    for key in dict.fromkeys(asked.values()):
        split = splits[key]
        samples = (json.loads(key)[0].get("root"), split.classes, split.label_bytes)
        known = same_name.setdefault(split.name, [])
        if samples not in known:
            known.append(samples)
        place_of[key] = known.index(samples) + 1
    several = {name for name, known in same_name.items() if len(known) > 1}
    return {
        cell: f" {place_of[key]}" if splits[key].name in several else ""
        for cell, key in asked.items()
    }


def check_data(out: Path, data: Mapping[str, Identity], weights: Mapping[str, str]) -> None:
    """Keep in `out` on what data, and which weights of encoders, a study is.

    Args:
        out: the folder of the study.
        data: split -> identity.
        weights: training -> digest of the file that its encoder began with.

    Raises:
        InputError: where it holds cells of others.
    """
    file = out / "data.json"
    before = read_json(file) if file.is_file() else {}
    known = before.pop("weights", {})
    for training, digest in weights.items():
        check_weights(out, known.get(training), digest)
    for key in before.keys() & data.keys():
        if change := difference(before[key], data[key]):
            name, split = json.loads(key)[1:3]
            raise InputError(
                f"{out} holds cells of other data: in {name}/{split} {change}; choose another --out"
            )
    write_json(file, before | dict(data) | ({"weights": known | dict(weights)} if weights else {}))


def work(unit: Unit, log: Log | None = None, told: Told | None = None) -> Done:
    """Train, unless that is done, and measure the cells.

    An error is a result, so that the other cells go on.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(unit.threads)
    done: Done = {}
    try:
        with locked(unit.path):
            run, base = runs.prepare(unit.experiment, unit.path)
            runs.pretrain(run, base, log)
            run = runs.train(run, base, log)
            memo: dict[str, Any] = {}
            for file, changes in unit.cells:
                try:
                    (row,) = measure(run, changes, memo=memo, also=unit.also)
                    write_json(file, row.to_dict())
                    done[file] = row
                except Exception as error:
                    done[file] = _failed(error)
                if told:
                    told()
    except Exception as error:
        done |= {file: _failed(error) for file, _ in unit.cells if file not in done}
    finally:
        torch.set_num_threads(threads)
    return done


def _failed(error: Exception) -> Failure:
    line = " ".join(str(error).split()) or type(error).__name__
    where = "" if isinstance(error, InputError) else f" ({_place(error)})"
    return Failure(f"{line}{where}", error.setting if isinstance(error, Diverged) else None)


def _place(error: Exception) -> str:
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} in {Path(last.filename).name}:{last.lineno}"


def _end_with_parent() -> None:
    """End a worker process when the study is killed.

    It would go on, and hold its run against the next one.
    """
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    Thread(target=watch, daemon=True).start()


def _tidy_up(*_: object) -> None:
    """Interrupt the work once.

    The executor sends SIGTERM again where another process ended, which would interrupt the tidying;
    a process that is not done with it in some seconds ends as it is.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    end = Timer(TIDYING, os._exit, [1])
    end.daemon = True
    end.start()
    raise KeyboardInterrupt


def _in_pool(unit: Unit) -> Done:
    """`work` in a worker process, where SIGTERM is as Ctrl-C elsewhere.

    Nothing half-written stays.
    """
    before = signal.signal(signal.SIGTERM, _tidy_up)
    try:
        return work(unit)
    except KeyboardInterrupt:
        os._exit(1)  # or the executor would hand this process another unit
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _pool(processes: int, todo: Sequence[Unit]) -> Iterator[dict[Future[Done], Unit]]:
    """Units at work in processes, which end at once where the block does with an error.

    They are spawned, since a fork of a process with threads may hang, and Windows has none.
    """
    pool = ProcessPoolExecutor(processes, get_context("spawn"), _end_with_parent)
    before = signal.getsignal(signal.SIGINT)
    try:
        # workers inherit that they ignore Ctrl-C: it reaches this process alone, which ends them
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        waiting = {pool.submit(_in_pool, u): u for u in todo}
        signal.signal(signal.SIGINT, before)
        yield waiting
    except BaseException:
        for process in list((pool._processes or {}).values()):
            process.terminate()
        raise
    finally:
        signal.signal(signal.SIGINT, before)
        pool.shutdown(cancel_futures=True)


def in_processes(todo: Sequence[Unit], processes: int) -> Generator[Done, None, None]:
    """Finished units as they come; {} each second, for the display.

    A process that dies fails its unit only.
    """
    left = list(todo)
    while left:
        try:
            with _pool(processes, left) as waiting:
                while waiting:
                    finished, _ = wait(waiting, timeout=1.0, return_when=FIRST_COMPLETED)
                    for future in finished:
                        unit = waiting[future]
                        result = future.result()
                        del waiting[future]
                        left.remove(unit)
                        yield result
                    yield {}
        except BrokenProcessPool:
            # Which of those that ran was it? The first ones; they are tried alone, so that one is
            # blamed rightly.
            suspects, left = left[:processes], left[processes:]
            for unit in suspects:
                yield _alone(unit)


def _alone(unit: Unit) -> Done:
    try:
        with _pool(1, [unit]) as (future,):
            return future.result()
    except BrokenProcessPool:
        killed = Failure("the process was killed; is memory short?")
        return {file: killed for file, _ in unit.cells}


def _from_elsewhere(unit: Unit, folder: str, environment: Mapping[str, str]) -> Done:
    """`work` where a cluster was started in another folder, with other settings.

    Relative paths mean the same.
    """
    os.makedirs(folder, exist_ok=True)
    os.chdir(folder)
    os.environ.update(environment)
    return work(unit)


def on_ray(todo: Sequence[Unit], address: str) -> Generator[Done, None, None]:
    """Finished units as they come from a Ray cluster; {} each second, for the display.

    Its machines see OUT under the same path.

    Args:
        todo: the units.
        address: as `ray.init` takes it; "local" starts a cluster on this machine.

    Raises:
        InputError: where Ray is not installed, or no cluster answers.
    """
    with ray_cluster(address) as ray:
        task = ray.remote(num_cpus=1, max_retries=1)(_from_elsewhere)
        ours = {k: v for k, v in os.environ.items() if k.startswith("GRAPHFSL_")}
        waiting = {task.remote(u, os.getcwd(), ours): u for u in todo}
        while waiting:
            finished, _ = ray.wait(list(waiting), timeout=1.0)
            for reference in finished:
                unit = waiting.pop(reference)
                try:
                    yield ray.get(reference)
                except Exception as error:
                    yield {file: _failed(error) for file, _ in unit.cells}
            yield {}


def rows_of(study: Study, out: Path) -> list[Row | None]:
    """The row of each cell of the study, None where it is not finished."""
    return [row_of(c, out, study.also) for c in study.cells]


def steps_of(unit: Unit) -> int:
    """The step that a unit's training has reached."""
    return steps_so_far(unit.path)
