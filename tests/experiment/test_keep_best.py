"""A run that keeps the weights of several validations has rows of the ensemble of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from graphfsl.core.ensemble import Ensemble
from graphfsl.experiment.measure import measure_policies
from graphfsl.experiment.run import load
from graphfsl.experiment.trained import kept_learners
from graphfsl.loops.evaluation import evaluate
from graphfsl.report.committed_tables import table
from graphfsl.report.results_csv import write_records
from tests.support.command import RUN, Call, refused

ACCIDENTAL = ("seconds", "config", "command", "commit", "environment", "device")


def essential(row: dict[str, Any]) -> dict[str, Any]:
    """A row without what tells one command from another."""
    return {key: value for key, value in row.items() if key not in ACCIDENTAL}


def rows_of(file: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(Path(file).read_text())["rows"]
    return rows


@pytest.fixture
def kept(world: Path, call: Call) -> Path:
    """A finished run that kept two of its four validations."""
    code, _, err = call(*RUN, "trainer.keep_best=2", "trainer.val_every=5")
    assert code == 0, err
    return world / "r"


def test_a_further_row_is_that_of_the_ensemble(kept: Path, call: Call) -> None:
    """The mean of the probabilities, on the same episodes; the other row is as it would be."""
    code, _, err = call("run", "my.yaml", "--out", "plain", "trainer.val_every=5")
    assert code == 0, err
    (plain,) = rows_of("plain/results.json")
    own, together = rows_of("r/results.json")
    assert essential(own) == essential(plain)
    assert not list(Path("plain").glob("kept-*"))
    assert together["method"] == f"{own['method']}, ensemble of 2"
    assert together["traits"] == [*own["traits"], "ensemble of 2"]

    run = load(kept)
    (first, one), (second, other) = kept_learners(run.path, run.experiment, run.shape, run.way)
    assert together["steps"] == max(one, other)

    class ByHand(Ensemble):
        def forward(self, episode):  # type: ignore[no-untyped-def]
            return (first(episode).softmax(-1) + second(episode).softmax(-1)).log()

    split, (task,) = run.experiment.data.split("test"), run.experiment.evaluation.tasks
    want = evaluate(ByHand([first, second]), split, task, 40, transform=run.transform)
    assert together["accuracies"] == pytest.approx(want.accuracies.tolist(), abs=1e-6)
    assert together["accuracies"] != own["accuracies"]


def test_an_evaluation_has_it_in_any_setting(kept: Path, call: Call) -> None:
    code, out, err = call("evaluate", "r", "episode.shot=2", "--out", "e.json")
    assert code == 0 and "ensemble of 2, 3-way 2-shot" in out, err
    assert [row["shot"] for row in rows_of("e.json")] == [2, 2]
    policy = "learner.batch_norm=joint"  # and under `support`, both alone and together
    code, out, err = call("evaluate", "r", policy, "--out", "e.json")
    assert code == 0 and [row["batch_norm"] for row in rows_of("e.json")] == ["joint"] * 2, err


def test_equal_checkpoints_are_no_better_than_one(kept: Path) -> None:
    run = load(kept)
    weights = kept / f"kept-{run.steps}.safetensors"
    (worse,) = (file for file in kept.glob("kept-*") if file != weights)
    shutil.copy(weights, worse)
    own, together = measure_policies(run)
    assert own.values == together.values


def test_results_do_without_the_weights_of_the_others(kept: Path, call: Call) -> None:
    """Those of committed runs are not kept: the rows stay, and are not measured anew."""
    code, out, _ = call("evaluate", "r", "--out", "both.json")
    assert code == 0 and len(rows_of("both.json")) == 2
    next(iter(kept.glob("kept-*"))).unlink()
    code, out, _ = call("evaluate", "r", "--out", "one.json")
    assert code == 0 and "no ensemble: the run directory does not hold the weights" in out
    assert len(rows_of("one.json")) == 1
    assert rows_of("one.json")[0]["accuracies"] == rows_of("both.json")[0]["accuracies"]


def test_tables_have_a_line_for_each(kept: Path, tmp_path: Path) -> None:
    folder = tmp_path / "results" / "r"
    folder.mkdir(parents=True)
    shutil.copy(kept / "results.json", folder)
    write_records(tmp_path / "results")
    own, together = rows_of("r/results.json")
    text = table(own["data"].split("/")[0], tmp_path / "results")
    for row in (own, together):
        (line,) = (line for line in text.splitlines() if line.startswith(f"| {row['method']} ("))
        assert f"{row['accuracy']:.2f} ±" in line


def test_a_learner_of_a_frozen_encoder_has_it(world: Path, call: Call) -> None:
    """Its training sees features, and the files of weights hold no encoder."""
    options = ("trainer.keep_best=2", "learner.encoder.frozen=true", "learner.head=relationnet")
    code, _, err = call(*RUN, *options)
    assert code == 0, err
    own, together = rows_of("r/results.json")
    assert "ensemble" in together["method"] and own["episodes"] == together["episodes"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["trainer.keep_best=0"], "trainer.keep_best must be above 0"),
        (["trainer.keep_best=2", "learner.encoder.frozen=true"], "this run has none; leave it out"),
        (
            ["pretrain.objective=cross_entropy", "pretrain.trainer.keep_best=2"],
            "pretrain.trainer.keep_best changes nothing",
        ),
        (["trainer.keep_best=2", "learner.refine=plcm"], "base features"),
    ],
)
def test_what_makes_no_ensemble_is_refused(
    world: Path, call: Call, options: list[str], says: str
) -> None:
    refused(world, call, *RUN, *options, says=says)


def test_damaged_weights_are_named(kept: Path, call: Call) -> None:
    file = max(kept.glob("kept-*"))
    file.write_bytes(file.read_bytes()[:-8])
    code, _, err = call("evaluate", "r", "--out", "e.json")
    assert code == 2 and f"checkpoint r/{file.name} is broken" in err and err.count("\n") == 1


def test_another_keep_best_is_another_training(kept: Path, call: Call) -> None:
    code, _, err = call(*RUN, "trainer.keep_best=3", "trainer.val_every=5")
    assert code == 2 and "keep_best" in err
    assert torch.isfinite(torch.tensor(rows_of("r/results.json")[1]["accuracies"])).all()
