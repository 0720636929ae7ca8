"""Full disks, lost permissions, odd clocks, two runs in one directory and signals: one line, exit
code 2 (130 when interrupted), and the same command goes on to the very weights of a run that
nothing happened to."""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from tests.support import ROOT
from tests.support.command import (
    RUN,
    Call,
    folder,
    pictures,
    posix,
    refused,
    same_weights,
    snapshot,
)

linux = pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")


@contextmanager
def file_limit(size: int) -> Iterator[None]:
    """No file may grow beyond `size` bytes, as on a full disk."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Python ignores the signal, so that the write fails
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


SHORT = 300  # bytes: more than two runs' files differ by, and less than the files are apart
LATE = ("trainer.checkpoint_every=20", "trainer.log_every=1")
# file -> overrides, what is missing (None: all)
FULL: dict[str, tuple[tuple[str, ...], tuple[str, ...] | None]] = {
    "config.json": ((), None),
    "metrics.jsonl": ((*LATE, "trainer.val_every=20"), None),
    "best.safetensors": (LATE, None),
    "last.safetensors": ((), None),
    "model.safetensors": ((), ("model.safetensors", "results.json")),
    "results.json": ((), ("results.json",)),
}


@linux
@pytest.mark.parametrize("name", FULL)
def test_a_full_disk_stops_a_run(name: str, world: Path, call: Call) -> None:
    """One line, whatever was whole stays; with room again the same command ends with the
    uninterrupted weights.
    """
    overrides, missing = FULL[name]
    assert call("run", "my.yaml", *overrides, "--out", "whole")[0] == 0
    if missing is not None:
        shutil.copytree("whole", "r", ignore=shutil.ignore_patterns(*missing))
    with file_limit(Path("whole", name).stat().st_size - SHORT):
        error = refused(world, call, *RUN, *overrides, says=f"cannot write r/{name}", may_leave="r")
    assert "File too large" in error
    assert Path("r").exists() == (name != "config.json")
    assert call(*RUN, *overrides)[0] == 0
    assert same_weights(Path("r"), Path("whole"))


WRITERS: dict[str, tuple[str, ...]] = {
    "episodes.json": ("episodes", "r"),
    "rep/report.html": ("report", "r", "--out", "rep"),
    "f/test.npz": ("features", "s", "--run", "r", "--out", "f"),
}


@linux
@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_stops_other_commands(name: str, ran: Path, call: Call) -> None:
    pictures(ran / "s", "a", "b")
    before = snapshot(ran)
    assert call(*WRITERS[name])[0] == 0
    size = Path(name).stat().st_size
    for path in snapshot(ran).keys() - before.keys():
        shutil.rmtree(path) if Path(path).is_dir() else Path(path).unlink(missing_ok=True)
    with file_limit(size - 1):
        code, _, err = call(*WRITERS[name])
    assert (
        code == 2
        and err.startswith(f"graphfsl: cannot write {name}: File too large")
        and err.count("\n") == 1
    ), err
    assert not [p for p in snapshot(ran).keys() - before.keys() if Path(p).is_file()]
    assert call(*WRITERS[name])[0] == 0 and Path(name).stat().st_size == size


@linux
def test_a_cache_without_room_is_done_without(ran: Path, call: Call) -> None:
    folder(ran)
    data = "data={name: folder, root: images, size: 32}"
    command = ("episodes", "my.yaml", data, "evaluation.episodes=2")
    assert call(*command)[0] == 0
    listed = Path("episodes.json").read_bytes()
    shutil.rmtree("cache")
    with file_limit(len(listed) + 1), pytest.warns(UserWarning, match="could not be written"):
        code, _, err = call(*command)
    assert code == 0 and Path("episodes.json").read_bytes() == listed, err
    assert not [p for p in Path("cache").rglob("*") if p.suffix != ".lock" and p.is_file()]


@linux
def test_a_full_standard_output(ran: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures(ran / "s", "a", "b")
    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        refused(
            ran,
            call,
            "predict",
            "r",
            "--support",
            "s",
            "--query",
            "s",
            "--json",
            says="No space left on device",
        )


WRITES: dict[str, tuple[int, OSError]] = {  # how often a run calls it, and what it then raises
    "replace": (9, PermissionError(13, "Permission denied")),  # at the end of each whole file
    # after each whole file, and each line of metrics
    "fsync": (13, OSError(28, "No space left on device")),
}


@pytest.mark.parametrize(
    ("function", "n"), [(f, n) for f, (count, _) in WRITES.items() for n in range(1, count + 1)]
)
def test_the_nth_write_of_a_run_fails(
    function: str, n: int, world: Path, finished: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    error, real, calls = WRITES[function][1], getattr(os, function), itertools.count(1)

    def failing(*args: Any) -> None:
        if next(calls) == n:
            raise error
        real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(os, function, failing)
        refused(world, call, *RUN, says=f"{error.strerror}; free space", may_leave="r")
    for file in Path("r").glob("*.json*"):
        [
            json.loads(line)
            for line in ([file.read_text()] if file.suffix == ".json" else file.open())
        ]
    assert call(*RUN)[0] == 0 and same_weights(Path("r"), finished / "r")


def test_a_run_writes_no_more_often(
    world: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or the test above would miss some writes."""
    seen = dict.fromkeys(WRITES, 0)

    def counting(name: str) -> Callable[..., None]:
        real = getattr(os, name)

        def function(*args: Any) -> None:
            seen[name] += 1
            real(*args)

        return function

    for name in WRITES:
        monkeypatch.setattr(os, name, counting(name))
    assert call(*RUN)[0] == 0
    assert seen == {name: count for name, (count, _) in WRITES.items()}


def replaced() -> None:
    shutil.rmtree("r")
    Path("r").write_text("a file")


# what happens at the first validation, is the run left
SABOTAGE: dict[str, tuple[Callable[[], object], bool]] = {
    "directory deleted": (lambda: shutil.rmtree("r"), False),
    "directory replaced by a file": (replaced, False),
    "directory renamed": (lambda: Path("r").rename("s"), False),
    "file replaced by a folder": (lambda: Path("r/best.safetensors").mkdir(), True),
}


@pytest.mark.parametrize("case", SABOTAGE)
def test_a_run_whose_directory_goes(
    case: str, world: Path, finished: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    from graphfsl.loops import training_loop as loop

    spoil, left = SABOTAGE[case]
    real = loop.measured  # type: ignore[attr-defined]

    def spoiled(*args: Any, **options: Any) -> Any:
        spoil()
        return real(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "measured", spoiled)
        code, _, err = call(*RUN)
    assert code == 2 and err.startswith("graphfsl: cannot write r/best") and err.count("\n") == 1, (
        err
    )
    assert Path("r").is_dir() == left, "half a run began in its place"
    assert not [
        p for p in snapshot(world) if Path(p).name.startswith(".") and Path(p).name != ".lock"
    ]
    if case == "directory renamed":
        Path("s").rename("r")
    elif not left:
        Path("r").unlink(missing_ok=True)
    else:
        Path("r/best.safetensors").rmdir()
    assert call(*RUN)[0] == 0 and same_weights(Path("r"), finished / "r")


CLOCKS = {"backwards": -1.0, "standing still": 0.0, "leaping": 1e9}


@pytest.mark.parametrize("case", CLOCKS)
@pytest.mark.parametrize("clock", ["time", "perf_counter"])
def test_clocks(
    clock: str, case: str, world: Path, finished: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, ticks = getattr(time, clock)(), itertools.count()
    with monkeypatch.context() as patch:
        patch.setattr(time, clock, lambda: start + CLOCKS[case] * next(ticks))
        code, _, err = call(*RUN)
    assert code == 0, err
    assert same_weights(Path("r"), finished / "r")
    result = json.loads(Path("r/results.json").read_text())
    assert (
        result["rows"][0]["accuracy"]
        == json.loads((finished / "r/results.json").read_text())["rows"][0]["accuracy"]
    )


def test_a_second_run_is_refused_and_a_dead_ones_lock_is_not(ran: Path, call: Call) -> None:
    with FileLock("r/.lock"):
        refused(ran, call, *RUN, says="another process works in r")
    Path("r/.lock").write_text("of a process that was killed")
    Path("r/.model.safetensors-x1y2").write_text("half")
    assert call(*RUN)[0] == 0
    assert not list(Path("r").glob(".*"))


# Signals
# --------------------------------------------------------------------------------------------------

SERVER = """
import os, signal, sys
from graphfsl.cli import main as cli
from graphfsl.experiment import runner as progress

later, app = {signal.SIGTERM, signal.SIGINT}, cli.app

def ready(*words, **options):
    signal.pthread_sigmask(signal.SIG_UNBLOCK, later)
    return app(*words, **options)

cli.app = ready
signal.pthread_sigmask(signal.SIG_BLOCK, later)  # until `main` has begun, where a new process imports for seconds
for line in sys.stdin:
    out, cwd = line.split()
    pid = os.fork()
    if not pid:
        os.chdir(cwd)
        for fd, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(f"{out}.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), fd)
        sys.argv = ["graphfsl", "run", "my.yaml", "--out", out]
        try:
            cli.main()
        except SystemExit as stop:
            sys.stdout.flush(), sys.stderr.flush()
            os._exit(stop.code)
        os._exit(99)
    print(pid, flush=True)
    sys.stdin.readline()  # until then the number stays this process's, even if it has ended
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""  # noqa: E501


class Runs:
    """Processes of `graphfsl run`, forked from one that has imported everything: 0.1 s each in
    place of 5.
    """

    def __init__(self) -> None:
        self.server = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", SERVER],
            text=True,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def start(self, out: str) -> int:
        """The number of a new process in this working directory."""
        return self._said(f"{out} {Path.cwd()}")

    def wait(self) -> int:
        """The exit code of the process that was started; minus the signal that killed it."""
        return self._said("wait")

    def _said(self, line: str) -> int:
        assert self.server.stdin and self.server.stdout
        self.server.stdin.write(f"{line}\n")
        self.server.stdin.flush()
        return int(self.server.stdout.readline())


@pytest.fixture(scope="module")
def runs() -> Iterator[Runs]:
    runs = Runs()
    yield runs
    assert runs.server.stdin
    runs.server.stdin.close()
    runs.server.wait(timeout=60)


def metrics(run: Path) -> list[dict[str, Any]]:
    lines = (json.loads(line) for line in (run / "metrics.jsonl").open())
    return [
        {k: v for k, v in line.items() if k not in ("seconds", "episodes_per_s")} for line in lines
    ]


@posix
@pytest.mark.slow  # minutes where a process starts slowly; test_train kills in every run
def test_signals_at_random_moments(world: Path, runs: Runs) -> None:
    """SIGKILL and SIGTERM, ten each, and SIGINT: what is left goes on to the uninterrupted run, bit
    for bit.
    """
    text = (
        Path("my.yaml")
        .read_text()
        .replace("steps: 20", "steps: 60")
        .replace("log_every: 5", "log_every: 2")
    )
    Path("my.yaml").write_text(text)
    begun = time.monotonic()
    runs.start("whole")
    assert runs.wait() == 0, Path("whole.err").read_text()
    long, rng, directory = time.monotonic() - begun, random.Random(0), 0
    signals = [signal.SIGKILL, signal.SIGTERM] * 10 + [signal.SIGINT] * 2
    rng.shuffle(signals)
    while signals:
        out = f"r{directory}"
        # what SIGKILL left is removed by who next works in the directory
        killed = set(Path(out).glob(".*"))
        pid = runs.start(out)
        time.sleep(rng.uniform(0, 0.25 * long))
        os.kill(pid, signals[-1])
        code = runs.wait()
        if code == 0:  # it had ended, and the next moment is another run's
            directory += 1
            long *= 0.7  # the first one, which was timed, may have been slow
            continue
        if signals.pop() == signal.SIGKILL:
            assert code == -signal.SIGKILL
            continue
        said = Path(f"{out}.err").read_text()
        assert code == 130, said
        assert said == "graphfsl: interrupted; the same command goes on from the last checkpoint\n"
        assert set(Path(out).glob(".*")) <= killed, "a lock or a temporary"
    runs.start(f"r{directory}")
    assert runs.wait() == 0, Path(f"r{directory}.err").read_text()
    names = {p.name for p in Path("whole").iterdir()}
    for run in (Path(f"r{d}") for d in range(directory + 1)):
        assert {p.name for p in run.iterdir()} == names, "a temporary, or something lost"
        assert same_weights(run, Path("whole")) and metrics(run) == metrics(Path("whole"))
        a, b = (
            json.loads((d / "results.json").read_text())["rows"][0] for d in (run, Path("whole"))
        )
        assert a["accuracies"] == b["accuracies"]


@posix
def test_two_processes_in_one_directory(world: Path, runs: Runs, call: Call) -> None:
    Path("my.yaml").write_text(Path("my.yaml").read_text().replace("steps: 20", "steps: 60"))
    pid, begun = runs.start("r"), time.monotonic()
    while not Path("r/metrics.jsonl").is_file():
        assert time.monotonic() - begun < 120, Path("r.err").read_text()
        time.sleep(0.01)
    os.kill(pid, signal.SIGSTOP)
    try:
        refused(world, call, *RUN, says="another process works in r")
    finally:
        os.kill(pid, signal.SIGCONT)
        code = runs.wait()
    assert code == 0, Path("r.err").read_text()
    assert call("run", "my.yaml", "--out", "alone")[0] == 0
    assert same_weights(Path("r"), Path("alone")) and metrics(Path("r")) == metrics(Path("alone"))
