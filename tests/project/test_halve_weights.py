"""tools/halve_weights.py: weights become float16 where accuracies stay; nothing else changes."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from graphfsl.experiment import run as runs
from graphfsl.experiment.measure import measure
from graphfsl.io.checkpoint import load_checkpoint, read_json, save_checkpoint, write_json
from graphfsl.io.package_data import experiments_dir
from tests.support import ROOT

COMMITTED = experiments_dir() / "results" / "snell2017_glyphs_5w1s"


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("halve", ROOT / "tools" / "halve_weights.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look for it there
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with float32 weights, measured on few episodes in two settings and in an evaluation."""
    run = tmp_path_factory.mktemp("results") / "run"
    (run / "evaluations").mkdir(parents=True)
    facts = read_json(COMMITTED / "config.json")
    settings = [{"way": 5, "shot": 1}, {"way": 3, "shot": 2}]
    facts["config"]["evaluation"] = {"episodes": 8, "settings": settings}
    write_json(run / "config.json", facts)
    save_checkpoint(run / "model.safetensors", *load_checkpoint(COMMITTED / "model.safetensors"))
    rows = [row.to_dict() for row in measure(runs.load(run))]
    write_json(run / "results.json", {"rows": rows, "config": facts["config"]})
    facts["config"]["evaluation"] = {"split": "val"}  # the run was planned otherwise
    write_json(run / "config.json", facts)
    overrides = ["episode.way=4", "evaluation.split=test", "evaluation.episodes=8"]
    found = {
        "overrides": overrides,
        "rows": [row.to_dict() for row in measure(runs.load(run), overrides)],
    }
    write_json(run / "evaluations" / "a.json", found)
    return run


@pytest.fixture
def run(whole: Path, tmp_path: Path, tool: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tool, "RESULTS", tmp_path)
    return Path(shutil.copytree(whole, tmp_path / "run"))


def test_weights_are_halved_and_rows_stay(
    run: Path, whole: Path, tool: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tool.main([]) == 0
    assert capsys.readouterr().out.startswith("run: float16, moved by 0.0")
    size, before = ((r / "model.safetensors").stat().st_size for r in (run, whole))
    assert size < 0.52 * before
    results = read_json(run / "results.json")
    note = results.pop("weights")
    assert note["stored"] == "float16" and note["moved"] <= tool.MOST
    assert results == read_json(whole / "results.json")
    assert (run / "evaluations/a.json").read_bytes() == (whole / "evaluations/a.json").read_bytes()
    assert runs.load(run).steps == runs.load(whole).steps
    # the same command again passes it over
    assert tool.main([]) == 0 and capsys.readouterr().out == ""


@pytest.mark.parametrize("file", ["results.json", "evaluations/a.json"])
def test_weights_stay_where_the_mean_of_any_row_moves(
    file: str, run: Path, whole: Path, tool: ModuleType
) -> None:
    facts = read_json(run / file)
    # a thirtieth of a query is too much, and is no query
    facts["rows"][-1]["accuracies"] = [a + 0.0006 for a in facts["rows"][-1]["accuracies"]]
    write_json(run / file, facts)
    assert tool.main(["run"]) == 0
    model = "model.safetensors"
    assert (run / model).read_bytes() == (whole / model).read_bytes()
    note = read_json(run / "results.json")["weights"]
    assert note == {"stored": "float32", "moved": pytest.approx(0.06, abs=0.002)}


def test_rows_under_statistics_of_the_support_are_compared_with_such(
    run: Path, tool: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run whose own policy lets queries share statistics has each task twice."""
    (run / "evaluations/a.json").unlink()
    facts = read_json(run / "results.json")
    own, other = [0.5] * 8, [0.25] * 8
    row = facts["rows"][0]
    facts["rows"] = [{**row, "accuracies": own}, {**row, "accuracies": other}]
    write_json(run / "results.json", facts)

    def measured(_: object, overrides: list[str], splits: object) -> list[torch.Tensor]:
        of_support = overrides == ["learner.batch_norm=support"]
        return [torch.tensor(other if of_support else own)]

    monkeypatch.setattr(tool, "accuracies", measured)
    assert tool.main([]) == 0
    note = read_json(run / "results.json")["weights"]
    assert note == {"stored": "float16", "moved": 0.0}


def test_weights_stay_where_a_first_episode_flips(run: Path, tool: ModuleType) -> None:
    facts = read_json(run / "results.json")
    query = 1 / (facts["rows"][0]["way"] * facts["rows"][0]["query"])
    accuracies = facts["rows"][0]["accuracies"]
    accuracies[0] += 2 * query
    accuracies[6] -= 2 * query  # the mean is what it was
    write_json(run / "results.json", facts)
    tool.main([])
    assert read_json(run / "results.json")["weights"]["stored"] == "float32"


def test_a_run_that_cannot_be_tried_is_told_and_left(
    run: Path, tool: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    tensors, facts = load_checkpoint(run / "model.safetensors")
    next(t for t in tensors.values() if t.is_floating_point()).view(-1)[0] = 1e6
    save_checkpoint(run / "model.safetensors", tensors, facts)
    before = (run / "model.safetensors").read_bytes()
    assert tool.main([]) == 1
    assert "not tried: " in (told := capsys.readouterr().out) and "too large for float16" in told
    assert (run / "model.safetensors").read_bytes() == before
    assert "weights" not in json.loads((run / "results.json").read_text())


def test_a_run_of_another_metric_keeps_its_weights(
    run: Path, whole: Path, tool: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    results = read_json(run / "results.json")
    row = results["rows"][0]
    results["rows"][0] = row | {"metric": "mse", "mse": 0.1, "values": row.pop("accuracies")}
    write_json(run / "results.json", results)
    before = (run / "results.json").read_bytes()
    assert tool.main([]) == 0 and "only accuracies are compared" in capsys.readouterr().out
    assert (run / "results.json").read_bytes() == before
    model = "model.safetensors"
    assert (run / model).read_bytes() == (whole / model).read_bytes()
