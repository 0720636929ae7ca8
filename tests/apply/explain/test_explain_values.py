"""`graphfsl explain` of runs that answer with values: curves before and after inner steps."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.support.command import Call

EXPERIMENT = {
    "data": {"name": "sinusoid"},
    "learner": {"encoder": {"name": "mlp", "widths": [8]}, "head": "regressor"},
    "episode": {"task": "functions", "shot": 6, "query": 25, "query_points": "grid"},
    "trainer": {"steps": 2, "val_every": 2, "val_episodes": 2},
    "evaluation": {"episodes": 5},
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("e.yaml").write_text(json.dumps(EXPERIMENT))
    return tmp_path


def test_the_errors_are_those_of_the_evaluation_at_each_number_of_steps(
    place: Path, call: Call
) -> None:
    assert call("run", "e.yaml", "learner.adapt={name: maml, lr: 0.02}", "--out", "r")[0] == 0
    code, out, err = call("explain", "r", "--episode", "2", "--out", "shown")
    assert code == 0, err
    assert out.split() == ["shown/explanation.json", "shown/explanation.svg"]
    told = json.loads(Path("shown/explanation.json").read_text())
    assert told["metric"] == "MSE" and told["data"] == "sinusoid/test"
    steps = {"before": 0, "after 1 step": 1, "after 10 steps": 10}
    assert list(told["values"]) == list(steps)
    for name, count in steps.items():
        changes = (f"learner.adapt.steps_test={count}", "--out", f"{count}.json")
        assert call("evaluate", "r", *changes)[0] == 0
        (row,) = json.loads(Path(f"{count}.json").read_text())["rows"]
        assert told["values"][name] == pytest.approx(row["values"][2:], rel=1e-4)
    svg = Path("shown/explanation.svg").read_text()
    assert svg.count('id="axes_') == 3
    assert all(f"<!-- {name} -->" in svg for name in ("true function", "known points", *steps))


@pytest.mark.parametrize(
    ("adapt", "shown"),
    [
        ("null", ["answer"]),
        ("{name: meta_sgd}", ["before", "after 1 step"]),
        ("{name: meta_sgd, beyond: last}", ["before", "after 1 step", "after 10 steps"]),
    ],
)
def test_only_steps_that_the_rule_can_take_are_shown(
    place: Path, call: Call, adapt: str, shown: list[str]
) -> None:
    head = "learner.head=kernel_ridge" if adapt == "null" else f"learner.adapt={adapt}"
    assert call("run", "e.yaml", head, "--out", "r")[0] == 0
    code, _, err = call("explain", "r", "--out", "shown")
    assert code == 0, err
    told = json.loads(Path("shown/explanation.json").read_text())
    assert list(told["values"]) == shown


def test_images_are_no_curves_and_no_query_is_chosen(place: Path, call: Call) -> None:
    Path("images").mkdir()
    for i, part in enumerate(("train", "val", "test")):
        x = np.random.default_rng(i).integers(0, 256, (6, 6, 5), dtype=np.uint8)
        np.savez(f"images/{part}.npz", images=x, labels=np.arange(6) % 2)
    images = ("learner.head=kernel_ridge", "data={name: arrays, root: images}")
    assert call("run", "e.yaml", *images, "--out", "r")[0] == 0
    code, _, err = call("explain", "r")
    assert code == 2 and "only functions of one number" in err and err.count("\n") == 1
    code, _, err = call("explain", "r", "--query", "1")
    assert code == 2 and "leave --query out" in err and err.count("\n") == 1
