"""Committed intervals are Student's, and the tool that made them so changes nothing else."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import scipy.stats

from tests.support import ROOT

STUDY = "learner.head,episode.shot,setting,accuracy,ci95,episodes,data\n"
PAGE = (
    "| head | shot | accuracy |\n| --- | --: | --: |\n| none | 1 | **61.00 ± {}** |\n| a | 5 "
    "| 70.00 ± 1.00 |\n"
)


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "student_intervals", ROOT / "tools" / "student_intervals.py"
    )
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def half_of(accuracies: list[float]) -> float:
    n = len(accuracies)
    return 100 * float(scipy.stats.t.ppf(0.975, n - 1)) * float(np.std(accuracies, ddof=1)) / n**0.5


@pytest.mark.skipif(
    not (ROOT / "experiments" / "results").is_dir(), reason="the results are in the repository only"
)
def test_every_committed_interval_is_that_of_its_accuracies() -> None:
    results = ROOT / "experiments" / "results"
    files = [*results.glob("*/results.json"), *results.glob("*/evaluations/*.json")]
    every = [(f, r) for f in files for r in json.loads(f.read_text())["rows"]]
    rows = [(f, r) for f, r in every if "accuracies" in r]
    assert len(rows) >= 75
    for file, row in rows:
        assert row["ci95"] == pytest.approx(half_of(row["accuracies"]), abs=6e-4), file


def test_only_intervals_change_and_only_once(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [
        {
            "accuracy": 50.0,
            "ci95": 1.0,
            "episodes": 4,
            "accuracies": [0.25, 0.5, 0.5, 0.75],
            "note": '"ci95": 7',
        },
        {"accuracy": 25.0, "ci95": float("nan"), "accuracies": [0.25]},
    ]
    file = tmp_path / "results.json"
    file.write_text(json.dumps({"rows": rows, "seconds": 1.50}, indent=2) + "\n")
    before = file.read_text()
    assert tool.rewrite_rows(file) and not tool.rewrite_rows(file)
    told = json.loads(file.read_text())["rows"]
    assert (
        told[0]["ci95"] == pytest.approx(half_of(rows[0]["accuracies"]), abs=1e-3)
        and told[1]["ci95"] is None
    )
    changed = [
        (a, b)
        for a, b in zip(before.splitlines(), file.read_text().splitlines(), strict=True)
        if a != b
    ]
    assert len(changed) == 2 and all('"ci95"' in a and '"ci95"' in b for a, b in changed)

    younger = {"mse": 0.1, "ci95": 0.01, "metrics": {"mse": {"value": 0.1, "ci95": 0.01}}}
    file.write_text(json.dumps({"rows": [younger | {"values": [0.1, 0.2]}]}))
    assert not tool.rewrite_rows(file)

    study, page = tmp_path / "pools.csv", tmp_path / "pools.md"
    old = STUDY + ",1,inductive,61.0,0.994,10,x\n" + "a,5,inductive,70.0,1.0,600,x\n"
    # made again since then
    study.write_text(old.replace("a,5,inductive,70.0,1.0", "a,5,inductive,70.0,1.004"))
    page.write_text(PAGE.format("0.99"))
    monkeypatch.setattr(tool, "text_at", lambda commit, file: old)
    wide = 0.994 * scipy.stats.t.ppf(0.975, 9) / 1.96
    for _ in range(2):  # the second time nothing is as it was before
        tool.rewrite_study(study, "before")
        assert (
            study.read_text()
            == STUDY + f",1,inductive,61.0,{wide:.3f},10,x\na,5,inductive,70.0,1.004,600,x\n"
        )
        assert page.read_text() == PAGE.format(f"{wide:.2f}")
