"""CONTRIBUTING's example, dropped as two files into a copy of the package: the generic suite finds
and passes it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from graphfsl.core import registry
from graphfsl.io.errors import InputError
from tests.support import ROOT


def test_a_method_is_one_file_and_one_experiment(tmp_path: Path) -> None:
    code, experiment = re.findall(
        r"```(?:python|yaml)\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL
    )
    for folder in ("graphfsl", "experiments", "tests", "data"):
        shutil.copytree(
            ROOT / folder,
            tmp_path / folder,
            ignore=shutil.ignore_patterns("__pycache__", "results"),
        )
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "graphfsl/methods/heads/cosine_attention.py").write_text(code)
    (tmp_path / "experiments/cosine_attention").mkdir()
    (tmp_path / "experiments/cosine_attention/vinyals2016_omniglot_5w1s.yaml").write_text(
        experiment
    )
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "tests/test_contract.py",
        "-k",
        "cosine_attention and not pairwise",
    ]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed and int(passed[1]) >= 22, "every generic case must have run on it"
    listed = subprocess.run(
        [sys.executable, "-m", "graphfsl.cli.main", "methods", "--json"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert '"cosine_attention"' in listed.stdout


def test_two_files_cannot_claim_one_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:

    heads = tmp_path / "twice" / "heads"
    heads.mkdir(parents=True)
    (tmp_path / "twice" / "__init__.py").touch()
    (heads / "a.py").write_text(
        '__all__ = ["MyNet", "MyNets"]\nclass MyNet: ...\nclass MyNets: ...\n'
    )
    (heads / "mynet.py").write_text('__all__ = ["Other"]\nclass Other: ...\n')
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        InputError,
        match=r"head 'mynet' is defined twice: in twice\.heads\.a and in "
        r"twice\.heads\.mynet",
    ):
        registry.find("twice")
    (heads / "mynet.py").unlink()
    registry.find.cache_clear()
    assert registry.names("head", "twice") == ["mynet", "my_nets"]
    with pytest.raises(InputError, match="did you mean 'mynet'"):
        registry.get("head", "mynett", "twice")


def test_names_are_as_people_say_them() -> None:
    said = {
        "ProtoNet": "protonet",
        "MAML": "maml",
        "GNN": "gnn",
        "SoftKmeans": "soft_kmeans",
        "PTMap": "pt_map",
    }
    assert {k: registry.snake(k) for k in said} == said
