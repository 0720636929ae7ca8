"""A trained network under another inner loop, or under its own with the rule as it began."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch

import graphfsl as gf
from graphfsl.experiment import run as runs
from graphfsl.experiment.data_source import Splits
from graphfsl.experiment.experiment import Experiment
from graphfsl.experiment.measure import asked_of, check, measure
from graphfsl.io.errors import InputError
from graphfsl.methods.adapt.maml import MAML
from tests.support.command import EXPERIMENT, Call

STEPS, LR = 3, 0.2
DESCENT = f"learner.adapt={{name: maml, steps: {STEPS}, lr: {LR}}}"
LSTM = "{name: lstm_meta_learner, steps: 3, hidden: 4}"


def experiment(world: Path, *changes: str) -> Experiment:
    (world / "inner.yaml").write_text(EXPERIMENT.replace("DATA", str(world / "data")))
    shorter = ["trainer.steps=4", "trainer.val_every=4", "evaluation.episodes=6"]
    return Experiment.read(world / "inner.yaml", [*shorter, *changes])


def trained(world: Path, *changes: str) -> runs.Run:
    run, base = runs.prepare(experiment(world, *changes), world / "run")
    return runs.train(run, base)


@pytest.fixture
def learned(world: Path) -> runs.Run:
    """A run of the meta-learner LSTM whose gates differ from those that it began with."""
    return trained(world, "learner.head=linear", f"learner.adapt={LSTM}", "trainer.lr=0.05")


def by_hand(run: runs.Run) -> list[float]:
    """The accuracies of gradient descent from the network's trained weights, set one by one."""
    encoder, head = {"name": "conv4", "width": 8}, "linear"
    net = gf.build(
        {"encoder": encoder, "head": head, "adapt": {"name": "maml"}}, run.shape, run.way
    ).innermost
    there = dict(run.learner.innermost.named_parameters())
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            parameter.copy_(there[name])
    descent = MAML(net, STEPS, LR)
    split = run.experiment.data.split("test")
    task = run.experiment.task
    return gf.evaluate(descent, split, task, 6, transform=run.transform).accuracies.tolist()


def test_another_rule_starts_at_the_trained_weights(learned: runs.Run) -> None:
    with pytest.warns(UserWarning, match="that the rule of lstm_meta_learner learned are left out"):
        (row,) = measure(learned, [DESCENT])
    assert list(row.values) == by_hand(learned)
    assert row.method.endswith("maml") and "trained with lstm_meta_learner" in row.traits
    (own,) = measure(learned)
    assert list(own.values) != list(row.values)
    assert own.published == 90.0 and row.published is None
    assert not any("trained with" in trait for trait in own.traits)


def test_the_untrained_rule_is_the_one_that_the_training_began_with(world: Path) -> None:
    lstm = ("learner.head=linear", f"learner.adapt={LSTM}", "trainer.lr=0.05", "seed=3")
    run, base = runs.prepare(experiment(world, *lstm), world / "run")
    began = copy.deepcopy(run.learner.state_dict())
    run = runs.train(run, base)
    ended = run.learner.state_dict()
    with pytest.warns(UserWarning, match="an untrained rule takes the steps"):
        asked = asked_of(runs.load(run.path), ["evaluation.untrained_rule=true"])
    found = asked.learner.state_dict()
    assert found.keys() == ended.keys()
    for name, tensor in found.items():
        is_rule = name.startswith("rule.")
        assert torch.equal(tensor, (began if is_rule else ended)[name]), name
        assert not is_rule or not torch.equal(began[name], ended[name]), "it was trained"
    assert asked.remarks == ("untrained rule",)
    with pytest.warns(UserWarning):
        (row,) = measure(run, ["evaluation.untrained_rule=true"])
    assert row.published is None and "untrained rule" in row.traits


def test_the_command_writes_a_row_that_says_so(learned: runs.Run, call: Call) -> None:
    with pytest.warns(UserWarning, match="left out: maml takes the steps"):
        code, _, _ = call("evaluate", learned.path, DESCENT, "--out", "rows.json", "--json")
    assert code == 0
    rows = json.loads(Path("rows.json").read_text())["rows"]
    assert all("trained with lstm_meta_learner" in row["traits"] for row in rows)
    assert rows[0]["accuracies"] == [round(v, 6) for v in by_hand(learned)]


def test_a_rule_that_nobody_trained_is_asked_for_by_name(learned: runs.Run) -> None:
    changes = ["learner.adapt={name: meta_sgd, low: 0.05, high: 0.05, steps: 1}"]
    with pytest.raises(InputError, match=r"MetaSGD learns, .* evaluation\.untrained_rule=true"):
        asked_of(learned, changes)
    with pytest.warns(UserWarning):
        (row,) = measure(learned, [*changes, "evaluation.untrained_rule=true"])
        (same,) = measure(learned, ["learner.adapt={name: maml, steps: 1, lr: 0.05}"])
    assert list(row.values) == list(same.values)
    assert {"untrained rule", "trained with lstm_meta_learner"} <= set(row.traits)


def test_a_network_that_was_trained_without_an_inner_loop(world: Path) -> None:
    run = trained(world, "learner.head=imprinting")
    (still,) = measure(run, ["learner.adapt={name: maml, steps: 0}", "learner.batch_norm=running"])
    assert list(still.values) == list(measure(run)[0].values)
    assert "trained with no inner loop" in still.traits


@pytest.mark.parametrize(
    ("trained_by", "changes", "says"),
    [
        ("maml_plus_plus", ("learner.adapt=maml",), "MAMLPlusPlus reads 'norms."),
        ("maml", ("learner.adapt=maml_plus_plus", "evaluation.untrained_rule=true"), "MAMLPlusPl"),
        ("cavia", ("learner.adapt=maml",), "of another architecture"),
        ("maml", ("learner.adapt=cavia",), "of another architecture"),
        ("maml", ("evaluation.untrained_rule=true",), "no inner loop whose rule learns"),
        ("maml", ("learner.adapt=maml", "learner.encoder.width=4"), "of another architecture"),
        (LSTM, ("learner.adapt.hidden=5",), "of another architecture"),
    ],
)
def test_what_does_not_fit_is_one_line_before_and_after_the_training(
    world: Path, trained_by: str, changes: tuple[str, ...], says: str
) -> None:
    asked = ("learner.head=linear", f"learner.adapt={trained_by}", "trainer.steps=1")
    with pytest.raises(InputError, match=says):
        check(experiment(world, *asked), changes, Splits())
    with pytest.raises(InputError, match=says) as caught:
        asked_of(trained(world, *asked), changes)
    assert "\n" not in str(caught.value)


def test_a_study_compares_rules_from_one_training(world: Path) -> None:
    own = experiment(world, "learner.head=linear", f"learner.adapt={LSTM}")
    check(own, (DESCENT,), Splits())
    check(own, ("evaluation.untrained_rule=true",), Splits())
