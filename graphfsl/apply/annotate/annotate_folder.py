"""`annotate`: a page on this machine on which people label a folder of images."""

from __future__ import annotations

import contextlib
import errno
import getpass
import os
import shutil
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphfsl.apply.annotate.answer_store import AnswerStore
from graphfsl.apply.annotate.answers import NONE, class_name
from graphfsl.apply.annotate.exports import write_answers
from graphfsl.apply.annotate.guard import Keys, reached_as
from graphfsl.apply.annotate.pool_refiner import refiner_of
from graphfsl.apply.annotate.sample_files import in_words
from graphfsl.apply.annotate.web import PROGRAM, address, make_app, missing
from graphfsl.apply.annotate.workbench import MOST_MARKS, OURSELVES, Workbench
from graphfsl.apply.label.label_table import read_labels, samples_meant
from graphfsl.apply.label.pool_files import ANSWERS, EXPORTS, Pool, check_places, read_pool
from graphfsl.data.pixel_range import Range
from graphfsl.experiment.learner_spec import PartSpec
from graphfsl.io.errors import InputError, require
from graphfsl.io.lock import locked
from graphfsl.io.plain_text import one_line

TABLE = "answers.csv"
LONGEST_NAME = 40  # letters of a person's name
KNOWN = 0.5  # of the answered files, the share that another folder may lack


@dataclass(frozen=True)
class Served:
    """A pool that is ready to be labelled.

    Attributes:
        bench: the pool.
        app: the web application.
        addresses: user -> the address that lets them in.
        predictions: the address that Label Studio takes as its ML backend.
    """

    bench: Workbench
    app: Any
    addresses: dict[str, str]
    predictions: str


def annotate(
    folder: Path,
    out: Path,
    say: Callable[[str], None],
    users: Sequence[str] = (),
    host: str = "127.0.0.1",
    port: int = 8765,
    token: str | None = None,
    twice: float = 0.1,
    support: Path | None = None,
    encoder: str | Mapping[str, Any] | PartSpec = "efficientnet_lite0",
    run: Path | None = None,
    size: int | None = None,
    range: Range | None = None,
) -> None:
    """Serve the page until it is interrupted.

    Answers stand in `out`/answers.sqlite, and as a table in `out`/answers.csv.

    Args:
        folder: of images.
        out: where answers and exports go.
        say: prints a line.
        users: the names of those who label; none is the name of this account.
        host: where the page is served.
        port: of it.
        token: that lets people in; None draws one.
        twice: the share of samples that two people are asked.
        support: labels to begin with, see `read_labels`.
        encoder: as in `label`.
        run: as in `label`.
        size: as in `label`.
        range: as in `label`.

    Raises:
        InputError: for anything that cannot be used.
    """
    try:
        import uvicorn
    except ImportError:
        raise missing() from None
    keys = Keys(token, host)
    users = named(users)
    require(0 <= twice <= 1, f"--twice is a share from 0 to 1, not {twice}")
    folder, out = Path(folder), Path(out)
    what = "a file; features have nothing to be looked at" if folder.exists() else "nothing at all"
    require(folder.is_dir(), f"{folder} is no folder of images, but {what}")
    check_places([out], [out / ANSWERS, out / TABLE])
    given = {} if support is None else read_labels(support)
    with listening(host, port) as listener, locked(out):
        port = listener.getsockname()[1]
        pool = read_pool(folder, PartSpec.of(encoder, "encoder"), run, size, range, out)
        if support is not None:
            given = samples_meant(support, given, pool.every_name, folder, pool.called)
        with opened(folder, out, pool, users, keys, host, port, twice, given, run) as served:
            for line in served.bench.notices:
                say(line)
            if pool.unreadable:
                name, why = pool.unreadable[0]
                left_out = in_words(len(pool.unreadable))
                say(f"{left_out} left out, as unreadable: {one_line(name)} {why}")
            for user, where in served.addresses.items():
                say(f"{one_line(user)}: {where}")
            say(f"Label Studio's ML backend: {served.predictions}")
            say("Ctrl-C ends; answers are kept as they are given")
            _serve(uvicorn, served.app, listener)


@contextlib.contextmanager
def opened(
    folder: Path,
    out: Path,
    pool: Pool,
    users: Sequence[str],
    keys: Keys,
    host: str = "127.0.0.1",
    port: int = 8765,
    twice: float = 0.1,
    given: Mapping[str, str] | None = None,
    run: Path | None = None,
) -> Iterator[Served]:
    """A pool with its answers, its threads at work, and the application that serves it.

    Args:
        folder: of the images.
        out: where answers and exports go; it exists.
        pool: what was read of the folder.
        users: who labels.
        keys: the tokens.
        host: where it is served.
        port: of it.
        twice: the share of samples that two people are asked.
        given: sample -> class, "" for none, which become answers of the first user.
        run: whose refiner betters the predictions, see `refiner_of`.

    Raises:
        InputError: for answers of another folder, or of a newer version.
    """
    require(
        len(pool.names) > 2, f"{folder} holds {len(pool.names)} readable images; there is no pool"
    )
    for stale in (out / EXPORTS).glob(".*-*"):  # of an export that was killed
        shutil.rmtree(stale, ignore_errors=True)
    store = AnswerStore(out / ANSWERS)
    try:
        _check_folder(store, folder, pool)
        refiner, why = refiner_of(run, pool.x)
        bench = Workbench(pool, store, users, twice, refiner=refiner, why=why)
        _take_over(bench, given or {})

        def write(now: Workbench) -> None:
            write_answers(out / TABLE, now.given_answers())

        bench.start(write)
        try:
            app = make_app(bench, keys, out, folder, host, port)
            name = reached_as(host)
            addresses = {user: address(keys, user, name, port) for user in users}
            base = address(keys, PROGRAM, name, port).partition("/u/")[0]
            yield Served(bench, app, addresses, f"{base}/{PROGRAM}/{keys.of(PROGRAM)}")
        finally:
            bench.stop()
    finally:
        store.close()


def named(users: Sequence[str]) -> list[str]:
    """The names of people; that of this account where none is given.

    Raises:
        InputError: for a name twice, or one that no address can hold.
    """
    names = [name.strip() for name in users]
    if not names:
        try:
            names = [getpass.getuser()]
        except (KeyError, OSError):  # an account without a name
            names = ["me"]
    for name in names:
        fits = 0 < len(name) <= LONGEST_NAME and one_line(name) == name
        require(
            fits and "/" not in name and name not in (".", ".."),
            f"--user {name!r} is no name; a name has 1 to {LONGEST_NAME} letters and no slash",
        )
        require(
            name not in (OURSELVES, PROGRAM),
            f"--user {name} is what a program is called here; choose another name",
        )
    require(len(set(names)) == len(names), "two users have one name; --user takes each once")
    return names


@contextlib.contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """A socket at a port, taken before anything long is computed.

    Raises:
        InputError: where the port is in use, or no such host is this machine's.
    """
    require(0 <= port <= 65535, f"--port must be 0 to 65535, not {port}")
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((host, port), family=family)
    except OSError as error:
        advice = f"--host {host} is no address of this machine that can be served; choose another"
        if error.errno in (errno.EADDRINUSE, errno.EACCES):
            advice = "end what uses it, or choose another --port"
        known = error.errno is not None and error.errno > 0
        reason = os.strerror(error.errno or 0) if known else error.strerror
        raise InputError(
            f"the page cannot be served at {host}:{port} ({reason}); {advice}"
        ) from None
    with listener:
        yield listener


def _serve(uvicorn: Any, app: Any, listener: socket.socket) -> None:
    """Until Ctrl-C. No line for each request: an address may hold a token."""
    options = {"log_level": "error", "access_log": False, "server_header": False}
    config = uvicorn.Config(app, lifespan="off", timeout_graceful_shutdown=2, **options)
    with contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listener])


def _check_folder(store: AnswerStore, folder: Path, pool: Pool) -> None:
    """InputError where the answers are of another folder; one that was moved is followed."""
    here, known = str(folder.resolve()), store.told("folder")
    if known is not None and known != here:
        answered = {mark.sample for event in store.events() for mark in event.marks}
        there = len(answered & set(pool.names))
        require(
            not answered or there >= KNOWN * len(answered),
            f"{store.path} holds answers of the folder {known}, of which {folder} has {there:,} of "
            f"{len(answered):,} files; choose another folder with -o",
        )
    if known != here:
        store.tell("folder", here)


def _take_over(bench: Workbench, given: Mapping[str, str]) -> None:
    """Labels of a table become answers, of samples that have none.

    Raises:
        InputError: for a label that no class can be called; nothing is written.
    """
    new = {
        bench.place[name]: label
        for name, label in given.items()
        if name in bench.place and not bench.answers.latest.get(name)
    }
    called = {label: class_name(label, {}) for label in new.values() if label}
    user = bench.users[0]
    classes = {name: own for own, name in bench.answers.classes.items()}
    for name in called.values():
        if name not in classes:
            classes[name] = bench.change_class(user, "class", name=name)
    answers = [
        {"n": n, "value": classes[called[label]] if label else NONE, "seen": 0}
        for n, label in new.items()
    ]
    for first in range(0, len(answers), MOST_MARKS):
        bench.answer(user, answers[first : first + MOST_MARKS], bulk=True)
