"""The file of answers: what was acknowledged is there, whatever happens."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from graphfsl.apply.annotate import answer_store
from graphfsl.apply.annotate.answer_store import AnswerStore, Mark, NotStored, on_network
from graphfsl.io.errors import InputError
from tests.support import ROOT
from tests.support.command import posix

WRITER = """
import sys
from pathlib import Path
from graphfsl.apply.annotate.answer_store import AnswerStore, Mark
store = AnswerStore(Path(sys.argv[1]))
print("ready", flush=True)
for i in range(100_000):
    event = store.add("anna", "answer", "single", {}, [Mark(f"{i}.png", "0", 1, "c0")])
    print(event.id, flush=True)
"""


def mark(name: str, value: str = "c0") -> Mark:
    return Mark(name, "0" * 64, 7, value, "c1", 0.25)


def test_what_was_added_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    store = AnswerStore(path)
    first = store.add("änna", "class", body={"class": "c0", "name": "猫"})
    second = store.add("änna", "answer", "single", {"view": "next"}, [mark("é.png"), mark("b")])
    store.close()
    again = AnswerStore(path)
    assert list(again.events()) == [first, second]
    again.close()


def test_the_file_holds_to_its_promises(tmp_path: Path) -> None:
    """Write-ahead log and full synchronisation are set; events cannot be changed or removed."""
    store = AnswerStore(tmp_path / "a.sqlite")
    store.add("anna", "answer", "single", {}, [mark("a")])
    one = store._db.execute("PRAGMA journal_mode").fetchone()[0]
    assert (one, store._db.execute("PRAGMA synchronous").fetchone()[0]) == ("wal", 2)
    for statement in ("DELETE FROM event", "UPDATE event SET user = 'x'", "DELETE FROM mark"):
        with pytest.raises(sqlite3.IntegrityError, match="only added"):
            store._db.execute(statement)
    store.close()


def test_a_request_that_comes_twice_is_written_once(tmp_path: Path) -> None:
    store = AnswerStore(tmp_path / "a.sqlite")
    assert store.add("anna", "answer", "single", {}, [mark("a")], "r1") is not None
    assert store.add("anna", "answer", "single", {}, [mark("a")], "r1") is None
    assert len(list(store.events())) == 1
    store.close()


def test_on_a_network_share_there_is_no_write_ahead_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounts = tmp_path / "mounts"
    share = tmp_path / "a share"
    share.mkdir()
    monkeypatch.setattr(answer_store, "MOUNTS", mounts)
    escaped = str(share.resolve()).replace(" ", "\\040")
    mounts.write_text(f"/dev/sda / ext4 rw 0 0\nserver:/x {escaped} nfs4 rw 0 0\n")
    assert on_network(share / "a.sqlite") and not on_network(tmp_path / "a.sqlite")
    store = AnswerStore(share / "a.sqlite")
    store.add("anna", "answer", "single", {}, [mark("a")])
    assert store._db.execute("PRAGMA journal_mode").fetchone()[0] == "delete"
    other = sqlite3.connect(share / "a.sqlite", timeout=0)
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        other.execute("SELECT * FROM event").fetchall()
    other.close()
    store.close()


def test_a_full_disk_keeps_what_there_was_and_says_so(tmp_path: Path) -> None:
    store = AnswerStore(tmp_path / "a.sqlite")
    store.add("anna", "answer", "single", {}, [mark("a")])
    pages = store._db.execute("PRAGMA page_count").fetchone()[0]
    store._db.execute(f"PRAGMA max_page_count={pages}")
    many = [mark(f"{i}" * 50) for i in range(500)]
    with pytest.raises(NotStored, match="the disk is full; nothing of this step is kept"):
        store.add("anna", "answer", "bulk", {}, many)
    store._db.execute("PRAGMA max_page_count=100000")
    assert store.add("anna", "answer", "bulk", {}, many) is not None
    assert [len(event.marks) for event in store.events()] == [1, 500]
    store.close()


def test_a_full_disk_at_the_start_is_said_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.sqlite"
    path.write_text("what SQLite makes of a disk without room" * 20)
    monkeypatch.setattr(answer_store, "_room", lambda _: 0)
    with pytest.raises(InputError, match=r"the disk of .*a\.sqlite is full; make room"):
        AnswerStore(path)


@pytest.mark.parametrize(
    ("what", "says"),
    [("newer", "newer graphfsl"), ("other", "another program"), ("text", "cannot be opened")],
)
def test_a_file_that_is_none_of_ours_is_refused(tmp_path: Path, what: str, says: str) -> None:
    path = tmp_path / "a.sqlite"
    if what == "newer":
        store = AnswerStore(path)
        store.tell("version", "2")
        store.close()
    elif what == "other":
        with sqlite3.connect(path) as db:
            db.execute("CREATE TABLE t (x)")
    else:
        path.write_text("no database, but a text that is long enough to be read as one" * 20)
    with pytest.raises(InputError, match=says):
        AnswerStore(path)


@posix
def test_a_kill_at_any_moment_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    """Ten times a program that answers without a pause is killed, each time at another moment."""
    path, known, rng = tmp_path / "a.sqlite", 0, np.random.default_rng(0)
    for wait in rng.uniform(0.005, 0.12, 10):
        program = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        assert program.stdout is not None and program.stdout.readline() == "ready\n"
        time.sleep(float(wait))
        program.send_signal(signal.SIGKILL)
        told = [
            int(line) for line in program.stdout.read().splitlines(keepends=True) if "\n" in line
        ]
        program.wait()
        known = max([known, *told])
        store = AnswerStore(path)
        there = list(store.events())
        store.close()
        assert len(there) >= known and all(len(event.marks) == 1 for event in there)
        assert [event.id for event in there] == list(range(1, len(there) + 1))
    assert known > 20
