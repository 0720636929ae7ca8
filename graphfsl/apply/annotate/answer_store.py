"""Where answers last: one SQLite file, to which is only added.

Whatever `add` has returned from is on the disk. Undoing adds a line as well.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from graphfsl.io.errors import InputError, require

VERSION = 1  # of the tables; a newer one is refused
NETWORK = ("nfs", "cifs", "smb", "9p", "fuse", "afs", "lustre", "ceph", "gluster", "ncp")
MOUNTS = Path("/proc/mounts")
LEAST_ROOM = 2**17  # bytes that are free on a disk that is not full
BUSY = 10.0  # seconds that are waited for another program that reads the file

TABLES = """
CREATE TABLE about (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE event (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    at TEXT NOT NULL,
    user TEXT NOT NULL,
    kind TEXT NOT NULL,
    how TEXT NOT NULL,
    body TEXT NOT NULL,
    request TEXT UNIQUE
);
CREATE TABLE mark (
    event INTEGER NOT NULL REFERENCES event(id),
    sample TEXT NOT NULL,
    content TEXT NOT NULL,
    size INTEGER NOT NULL,
    value TEXT NOT NULL,
    guess TEXT,
    score REAL
);
CREATE INDEX mark_of_event ON mark(event);
CREATE TABLE screen (user TEXT PRIMARY KEY, body TEXT NOT NULL);
CREATE TABLE lease (sample TEXT NOT NULL, user TEXT NOT NULL, until REAL NOT NULL,
    PRIMARY KEY (sample, user));
CREATE TRIGGER event_stays BEFORE UPDATE ON event
    BEGIN SELECT RAISE(ABORT, 'events are only added'); END;
CREATE TRIGGER event_is_kept BEFORE DELETE ON event
    BEGIN SELECT RAISE(ABORT, 'events are only added'); END;
CREATE TRIGGER mark_stays BEFORE UPDATE ON mark
    BEGIN SELECT RAISE(ABORT, 'marks are only added'); END;
CREATE TRIGGER mark_is_kept BEFORE DELETE ON mark
    BEGIN SELECT RAISE(ABORT, 'marks are only added'); END;
"""


class NotStored(InputError):
    """A step that could not be written: the message says why, and nothing of it is kept."""


@dataclass(frozen=True)
class Mark:
    """What an event says of one sample.

    Attributes:
        sample: its path below the folder.
        content: SHA-256 of the file's bytes when it was answered.
        size: of the file, in bytes.
        value: "c" and the number of a class, or one of "none", "skip" and "clear".
        guess: the class that was predicted then, in the same words; None where none was.
        score: of the guess.
    """

    sample: str
    content: str
    size: int
    value: str
    guess: str | None = None
    score: float | None = None


@dataclass(frozen=True)
class Event:
    """Something that a person did.

    Attributes:
        id: its number, which only grows.
        at: when, UTC in ISO 8601.
        user: who.
        kind: "answer", "class", "rename", "merge", "delete", "audit", "move"
            (of a file) or "undo".
        how: of answers "single", "bulk", "correction" or "audit"; else empty.
        body: what else there is to say.
        marks: of answers, one a sample.
    """

    id: int
    at: str
    user: str
    kind: str
    how: str = ""
    body: dict[str, Any] = field(default_factory=dict)
    marks: tuple[Mark, ...] = ()


class AnswerStore:
    """The file of a pool's answers.

    Args:
        path: of the file; it is made where there is none.

    Raises:
        InputError: for a file that is none of ours, or of a newer version.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.RLock()
        self.shared = on_network(path)
        try:
            self._db = sqlite3.connect(
                path, timeout=BUSY, isolation_level=None, check_same_thread=False
            )
            self._open()
        except (sqlite3.Error, NotStored) as error:
            require(
                _room(path) >= LEAST_ROOM,
                f"the disk of {path} is full; make room, and start again: answers are kept",
            )
            raise InputError(
                f"{path} cannot be opened as a file of answers ({error}); "
                "choose another folder with -o, or bring its copy back"
            ) from None

    def _open(self) -> None:
        """Settings first: what is committed is on the disk before `add` returns."""
        if self.shared:  # a write-ahead log needs memory that processes share
            self._db.execute("PRAGMA locking_mode=EXCLUSIVE")
            self._db.execute("PRAGMA journal_mode=DELETE")
        else:
            self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        tables = {row[0] for row in self._db.execute("SELECT name FROM sqlite_master")}
        if not tables:
            self._db.executescript("BEGIN IMMEDIATE;" + TABLES + "COMMIT;")
            self.tell("version", str(VERSION))
        require(
            "about" in tables or not tables,
            f"{self.path} is a database of another program; choose another folder with -o",
        )
        version = int(self.told("version") or VERSION)
        require(
            version <= VERSION,
            f"{self.path} was written by a newer graphfsl (version {version} of the file, and "
            f"this one reads {VERSION}); update graphfsl",
        )

    def close(self) -> None:
        """Bring everything into the one file."""
        with self._lock:
            self._db.close()

    # Facts about the pool

    def told(self, name: str) -> str | None:
        """A fact that `tell` wrote; None where there is none."""
        with self._lock:
            row = self._db.execute("SELECT value FROM about WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def tell(self, name: str, value: str) -> None:
        """Write a fact about the pool."""
        self._write([("INSERT OR REPLACE INTO about VALUES (?, ?)", (name, value))])

    # Events

    def events(self) -> Iterator[Event]:
        """All events, in their order."""
        with self._lock:
            rows = self._db.execute(
                "SELECT id, at, user, kind, how, body FROM event ORDER BY id"
            ).fetchall()
            marks: dict[int, list[Mark]] = {}
            found = self._db.execute(
                "SELECT event, sample, content, size, value, guess, score FROM mark ORDER BY rowid"
            )
            for event, *fields in found:
                marks.setdefault(event, []).append(Mark(*fields))
        for number, at, user, kind, how, body in rows:
            own = tuple(marks.get(number, ()))
            yield Event(number, at, user, kind, how, json.loads(body), own)

    def add(
        self,
        user: str,
        kind: str,
        how: str = "",
        body: dict[str, Any] | None = None,
        marks: Sequence[Mark] = (),
        request: str | None = None,
    ) -> Event | None:
        """Write an event; on the disk when this returns.

        Args:
            user: who.
            kind: see `Event`.
            how: see `Event`.
            body: see `Event`.
            marks: see `Event`.
            request: a name of this request; what came twice under one name is written once.

        Returns:
            The event, or None where its request was written before.

        Raises:
            NotStored: where it cannot be written; then nothing of it is.
        """
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        row = (at, user, kind, how, json.dumps(body or {}, ensure_ascii=False), request)
        with self._lock, _told_plainly():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                number = self._insert(row, marks)
                self._db.execute("COMMIT")
            except BaseException as error:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                if isinstance(error, sqlite3.IntegrityError) and request is not None:
                    return None
                raise
        return Event(number, at, user, kind, how, body or {}, tuple(marks))

    def _insert(self, row: Sequence[Any], marks: Sequence[Mark]) -> int:
        cursor = self._db.execute(
            "INSERT INTO event (at, user, kind, how, body, request) VALUES (?, ?, ?, ?, ?, ?)", row
        )
        number = int(cursor.lastrowid or 0)
        lines = [(number, m.sample, m.content, m.size, m.value, m.guess, m.score) for m in marks]
        self._db.executemany("INSERT INTO mark VALUES (?, ?, ?, ?, ?, ?, ?)", lines)
        return number

    # Screens and leases, which are replaced

    def screen(self, user: str) -> dict[str, Any] | None:
        """What somebody saw last."""
        with self._lock:
            row = self._db.execute("SELECT body FROM screen WHERE user = ?", (user,)).fetchone()
        return None if row is None else dict(json.loads(row[0]))

    def keep_screen(self, user: str, body: dict[str, Any]) -> None:
        """Remember what somebody sees."""
        text = json.dumps(body, ensure_ascii=False)
        self._write([("INSERT OR REPLACE INTO screen VALUES (?, ?)", (user, text))])

    def leases(self, now: float) -> dict[str, dict[str, float]]:
        """Sample -> user -> until when, of leases that have not run out."""
        with self._lock:
            rows = self._db.execute(
                "SELECT sample, user, until FROM lease WHERE until > ?", (now,)
            ).fetchall()
        found: dict[str, dict[str, float]] = {}
        for sample, user, until in rows:
            found.setdefault(sample, {})[user] = until
        return found

    def lease(self, samples: Sequence[str], user: str, until: float, now: float) -> None:
        """Keep samples for somebody until then; those that ran out before now are dropped."""
        statement = "INSERT OR REPLACE INTO lease VALUES (?, ?, ?)"
        new = [(statement, (sample, user, until)) for sample in samples]
        self._write([("DELETE FROM lease WHERE until <= ?", (now,)), *new])

    def _write(self, lines: Sequence[tuple[str, Sequence[Any]]]) -> None:
        with self._lock, _told_plainly():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                for statement, values in lines:
                    self._db.execute(statement, values)
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise


class _told_plainly:
    """Errors of SQLite as `NotStored`, with what a person can do about them."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if not isinstance(error, sqlite3.Error):
            return
        full = "full" in str(error)
        what = "the disk is full" if full else f"the file of answers cannot be written ({error})"
        advice = "make room, and do it again" if full else "see to it, and do it again"
        raise NotStored(f"{what}; nothing of this step is kept: {advice}") from None


def _room(path: Path) -> int:
    """Bytes that are free where a file lies."""
    return shutil.disk_usage(path.parent).free


def on_network(path: Path) -> bool:
    """Whether a file lies on a share that other machines may write to as well."""
    try:
        lines = MOUNTS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        return False
    where, best, kind = path.resolve(), -1, ""
    for line in lines:
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        mount = Path(fields[1].replace("\\040", " "))
        if where.is_relative_to(mount) and len(mount.parts) > best:
            best, kind = len(mount.parts), fields[2]
    return kind.startswith(NETWORK)
