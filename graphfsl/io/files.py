"""Files that a user names.

A pipe would be waited for without end, a device such as /dev/zero never ends.
"""

from __future__ import annotations

import os
import stat
import zipfile
from pathlib import Path

from graphfsl.io.errors import require

MOST = 2**30  # bytes of a file that is read as a whole


def check_regular(path: Path) -> None:
    """Refuse what is there and is no regular file, nor a link to one.

    Raises:
        InputError: names it.
    """
    require(
        not path.exists() or path.is_file(),
        f"{path} is not a regular file, but a folder, a pipe or a device; give a file",
    )


def check_unpacked(path: Path, archive: zipfile.ZipFile) -> None:
    """Refuse a zip whose content is larger than this machine's memory.

    A few bytes may stand for terabytes.

    Raises:
        InputError: names it.
    """
    size, memory = sum(entry.file_size for entry in archive.infolist()), memory_of_machine()
    require(
        memory is None or size <= memory,
        f"{path} would unpack to {size:,} bytes, and this machine has {memory:,}; do not use it",
    )


def memory_of_machine() -> int | None:
    """The bytes of physical memory; None where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def read_regular(path: Path, most: int = MOST) -> bytes:
    """The bytes of a regular file, of at most `most` bytes.

    Raises:
        InputError: for anything else, and for a larger file.
        OSError: where it will not open.
    """
    descriptor = os.open(
        path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    )
    with os.fdopen(descriptor, "rb") as file:
        facts = os.fstat(descriptor)
        require(
            stat.S_ISREG(facts.st_mode),
            f"{path} is not a regular file, but a pipe or a device; give a file",
        )
        require(
            facts.st_size <= most, f"{path} has {facts.st_size:,} bytes; at most {most:,} are read"
        )
        return file.read()


def first_bytes(path: Path, count: int) -> bytes:
    """The first bytes of a regular file; none where it is something else or cannot be opened."""
    try:
        descriptor = os.open(
            path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        )
    except OSError:
        return b""
    try:
        return os.read(descriptor, count) if stat.S_ISREG(os.fstat(descriptor).st_mode) else b""
    except OSError:
        return b""
    finally:
        os.close(descriptor)
