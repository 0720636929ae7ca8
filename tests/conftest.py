"""What every test file has without an import: checked shapes in graphfsl.functional, property tests
that repeat themselves, one seed, and the worlds that the command line is called in.
"""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
from pathlib import Path

# One thread a process, also in the processes that tests start: several share the cores.
os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch
from hypothesis import HealthCheck, settings
from jaxtyping import install_import_hook

# Before anything imports graphfsl.functional; its users never install the hook and pay nothing.
install_import_hook("graphfsl.functional", "beartype.beartype")
pytest.register_assert_rewrite("tests.support")  # a failed assertion there says its values too

from graphfsl.cli import main as cli  # noqa: E402
from graphfsl.cli.terminal import app  # noqa: E402
from tests.support import ROOT  # noqa: E402
from tests.support.command import RUN, Call, write_world  # noqa: E402

# The same examples in every run, and nothing that depends on how busy the machine is.
# `pytest --hypothesis-profile search` draws others each time.
settings.register_profile("search", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("repeatable", settings.get_profile("search"), derandomize=True)
settings.load_profile("repeatable")


def pytest_collection_finish() -> None:
    """Libraries and collected tests stay to the end: looking for garbage among them took a tenth of
    the time.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _one_seed() -> None:
    """Each test draws the same numbers, whatever ran before it."""
    torch.manual_seed(0)


@pytest.fixture
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, in a place of its own."""
    path = tmp_path_factory.mktemp("cache") / "cache"
    monkeypatch.setenv("GRAPHFSL_CACHE", str(path))
    return path


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with data, an experiment file and nothing else; it is the working directory."""
    write_world(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GRAPHFSL_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """The command line in this process: arguments -> exit code, output, error output."""

    def run(*args: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["graphfsl", *map(str, args)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        out, err = capsys.readouterr()
        return int(stop.value.code or 0), out, err

    return run


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, shared by the tests that only read it."""
    root = tmp_path_factory.mktemp("trained")
    write_world(root)
    command = [sys.executable, "-m", "graphfsl.cli.main", "run", str(root / "my.yaml")]
    subprocess.run(
        [*command, "--out", str(root / "run")], check=True, capture_output=True, cwd=ROOT
    )
    return root / "run"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, my.yaml and the finished run r, which tests copy."""
    root = tmp_path_factory.mktemp("finished")
    write_world(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setenv("GRAPHFSL_CACHE", str(root / "cache"))
        app(list(RUN), standalone_mode=False)
    return root


@pytest.fixture
def ran(world: Path, finished: Path) -> Path:
    """`world` with a finished run r."""
    shutil.copytree(finished / "r", world / "r")
    facts = (world / "r" / "config.json").read_text()
    (world / "r" / "config.json").write_text(facts.replace(str(finished), str(world)))
    return world
