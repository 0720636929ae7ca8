"""One process at a time works in a run directory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from graphfsl.io import distributed
from graphfsl.io.errors import InputError


@contextmanager
def locked(path: Path, wait: bool = False) -> Iterator[None]:
    """Within this block the run directory is this process's alone.

    What a killed process left half-written in it is removed, and so are folders that were made here
    and are still empty. Of several processes of one training the first holds it for all.

    Args:
        path: the directory.
        wait: for another process that has it.

    Raises:
        InputError: while another process has it, unless this one is to wait.
    """
    if distributed.rank():
        yield
        return
    made: list[Path] = []
    lock = FileLock(path / ".lock", timeout=-1 if wait else 0)
    try:
        try:
            made = [folder for folder in (path, *path.parents) if not folder.exists()]
            path.mkdir(parents=True, exist_ok=True)
            lock.acquire()
            for stale in path.glob(".*.*-*"):  # temporary names of `write_atomically`
                stale.unlink(missing_ok=True)
        except Timeout:
            raise InputError(
                f"another process works in {path}; wait for it, or choose another --out"
            ) from None
        except OSError as error:
            raise InputError(
                f"cannot write {path}: {error.strerror}; choose another --out"
            ) from None
        yield
    finally:
        if lock.is_locked:
            with suppress(OSError):  # before the release: afterwards it may be another process's
                (path / ".lock").unlink(missing_ok=True)
            lock.release()
        with suppress(OSError):
            for folder in made:
                folder.rmdir()


def held(path: Path) -> bool:
    """Whether a process works in the run directory now."""
    if not (path / ".lock").is_file():
        return False
    lock = FileLock(path / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        return True
    except OSError:  # a folder that cannot be written is nobody's place of work
        return False
    lock.release()
    return False
