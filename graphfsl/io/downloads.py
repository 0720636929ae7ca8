"""Files from the network: resumed, checked by md5, and named only when they are whole."""

from __future__ import annotations

import gzip
import os
import shutil
import tarfile
import time
import zlib
from collections.abc import Callable
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from filelock import FileLock
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from graphfsl.io.errors import InputError, require

TIMEOUT = 30.0  # seconds without a byte until a transfer counts as stalled
ATTEMPTS = 5
PAUSE = 1.0  # seconds before the second attempt; one more before each further one
CHUNK = 1 << 20
RETRIED = (408, 416, 429)  # timed out, range beyond the end, too many requests
HTML = (b"<!doctype html", b"<html")


class _Interrupted(Exception):
    """The transfer broke off; the next attempt goes on from there."""


class _Refused(Exception):
    """No further attempt would help."""


def fetch(url: str, folder: Path, md5: str) -> Path:
    """Download the file behind a URL into `folder`, under its own name.

    One that is there already is checked and kept.

    It grows as `<name>.part`, which an interrupted call leaves for the next one to go on with. Of
    two processes the second waits for the first.

    Raises:
        InputError: where the file cannot be had, with what to do by hand.
    """
    path = folder / url.rpartition("/")[2]
    part = path.with_name(f"{path.name}.part")
    by_hand = f"by hand: put {url} into {folder} (md5 {md5}) and run the same command again"
    if path.is_file():  # before anything is written: the folder may be read-only
        return _checked(path, md5, f"remove it, or {by_hand}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f".{path.name}.lock"):
            if path.is_file():
                return _checked(path, md5, f"remove it, or {by_hand}")
            _transfer(url, part, md5)
            try:
                os.replace(_checked(part, md5, f"it was removed; {by_hand}"), path)
            except InputError:
                part.unlink()
                raise
    except _Refused as error:
        raise InputError(f"{path.name} could not be downloaded: {error}; {by_hand}") from None
    except OSError as error:
        raise InputError(
            f"{part} cannot be written ({error.strerror or error}); make room, or set data.root "
            f"or GRAPHFSL_DATA to a "
            f"folder that can be written; {by_hand}"
        ) from None
    return path


def extract(archive: Path, folder: Path) -> None:
    """Unpack the folder of a .tar.gz archive that is named as `folder` is.

    It is there whole or not at all.

    Raises:
        InputError: for an archive that is broken, has no such folder, or a member that climbs out
            of its own.
    """
    temporary = folder.with_name(f".{folder.name}.part")
    try:
        with FileLock(folder.with_name(f".{archive.name}.lock")):
            if folder.is_dir():
                return
            shutil.rmtree(temporary, ignore_errors=True)  # of a call that was interrupted
            try:
                with (
                    Console(stderr=True).status(f"unpacking {archive.name}"),
                    tarfile.open(archive, "r:gz") as tar,
                ):
                    tar.extractall(temporary, filter="data")
                require(
                    (temporary / folder.name).is_dir(),
                    f"{archive} holds no folder {folder.name}; remove it and run the same "
                    f"command again",
                )
                os.replace(temporary / folder.name, folder)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
    except tarfile.FilterError as error:
        raise InputError(f"{archive}: {error}; do not use this file") from None
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise InputError(
            f"{archive} is broken ({error}); remove it and run the same command again"
        ) from None
    except OSError as error:
        raise InputError(
            f"{folder} cannot be written ({error.strerror or error}); make room or free its name"
        ) from None


def _checked(path: Path, md5: str, remedy: str) -> Path:
    # takes seconds to import, and most runs download nothing
    from torchvision.datasets.utils import calculate_md5

    found = calculate_md5(path)
    require(
        found == md5,
        f"{path} has the md5 {found}, so it is another file or a damaged one; {remedy}",
    )
    return path


def _transfer(url: str, part: Path, md5: str) -> None:
    """All bytes behind the URL into `part`, in as many attempts as it takes and ATTEMPTS allow."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
    )
    with Progress(
        *columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True
    ) as progress:
        task = progress.add_task(part.stem, total=None)
        for attempt in range(ATTEMPTS):
            time.sleep(PAUSE * attempt)
            try:
                return _attempt(
                    url,
                    part,
                    md5,
                    lambda done, total: progress.update(task, completed=done, total=total),
                )
            except _Interrupted as error:
                failure = error
    raise _Refused(
        f"{failure}, {ATTEMPTS} times; what came is kept and the same command goes on from there"
    )


def _attempt(url: str, part: Path, md5: str, show: Callable[[int, int | None], None]) -> None:
    start = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "graphfsl"} | ({"Range": f"bytes={start}-"} if start else {})
    try:
        response = urlopen(Request(url, headers=headers), timeout=TIMEOUT)
    except HTTPError as error:
        if error.code < 500 and error.code not in RETRIED:
            raise _Refused(f"the server answers {error.code} {error.reason}") from None
        if error.code == 416 and _complete(part, md5):
            return
        if error.code == 416:
            part.unlink()
        raise _Interrupted(f"the server answered {error.code} {error.reason}") from None
    except (TimeoutError, HTTPException) as error:
        raise _Interrupted(f"the server did not answer ({error})") from None
    except OSError as error:  # URLError: no network, no such host, nobody listens there
        reason = getattr(error, "reason", error)
        raise (_Interrupted if start else _Refused)(f"no connection ({reason})") from None
    with response:
        resumed = response.status == 206
        if resumed and not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            part.unlink()
            raise _Interrupted("the server sent another range than it was asked for")
        done, length, chunk = start if resumed else 0, response.length, _read(response)
        total = None if length is None else done + length
        if response.headers.get_content_type() == "text/html" or chunk.lstrip().lower().startswith(
            HTML
        ):
            raise _Refused(
                "the server sent an HTML page (a login, an error or a proxy's) in place of the file"
            )
        with part.open("ab" if resumed else "wb") as file:
            while chunk:
                file.write(chunk)
                done += len(chunk)
                show(done, total)
                chunk = _read(response)
    if total is not None and done < total:
        raise _Interrupted(f"the transfer ended after {done} of {total} bytes")


def _read(response: HTTPResponse) -> bytes:
    """What has arrived, at least one byte; nothing at the end."""
    try:
        # `read` would wait for the whole chunk, and lose it in a stall
        return response.read1(CHUNK)
    except (OSError, HTTPException) as error:
        raise _Interrupted(f"the transfer broke off ({error})") from None


def _complete(part: Path, md5: str) -> bool:
    """Whether a range beyond the end was asked for because nothing is missing."""
    from torchvision.datasets.utils import check_integrity

    return bool(check_integrity(part, md5))
