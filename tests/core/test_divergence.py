"""An inner loop that explodes is one line that names its rate, wherever it is noticed."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from graphfsl.core.adapt import Adapt
from graphfsl.core.rules import Rule
from graphfsl.data import Episodes
from graphfsl.io.errors import InputError
from graphfsl.loops.evaluation import measured
from graphfsl.loops.trainer import Trainer
from graphfsl.methods.adapt.imaml import IMAML
from graphfsl.methods.adapt.maml import FOMAML, MAML
from graphfsl.methods.adapt.maml_plus_plus import MAMLPlusPlus
from graphfsl.methods.adapt.meta_sgd import MetaSGD
from graphfsl.methods.adapt.reptile import Reptile
from tests.support.command import Call
from tests.support.training import SETTING, patterns


def net() -> nn.Module:
    """Two layers, whose product leaves the range of floats soon."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Linear(16, SETTING.way))


LESS = "; a smaller lr or fewer steps may do"
FEWER = " at the rates that it learned; fewer steps, or a training with a smaller trainer.lr, may"
EXPLODING: dict[str, tuple[Callable[[], Adapt], str]] = {
    "maml": (lambda: MAML(net(), 5, 1e20), "MAML diverged: … after 5 steps at lr 1e+20" + LESS),
    "fomaml": (
        lambda: FOMAML(net(), 3, 1e30),
        "FOMAML diverged: … after 3 steps at lr 1e+30" + LESS,
    ),
    "reptile": (
        lambda: Reptile(net(), 5, 1e20, rule="sgd", steps_test=5),
        "Reptile diverged: … after 5 steps at lr 1e+20" + LESS,
    ),
    "imaml": (
        lambda: IMAML(net(), 4, 1e20, lam=1e-20),
        "IMAML diverged: … after 4 steps at lr 1e+20" + LESS,
    ),
    "meta_sgd": (lambda: MetaSGD(net(), 1, 1e30, 1e31), "MetaSGD diverged: … after 1 step" + FEWER),
    "maml_plus_plus": (
        lambda: MAMLPlusPlus(net(), 2, lr=1e30, norms_per_step=False),
        "MAMLPlusPlus diverged: … after 2 steps" + FEWER,
    ),
}
exploding = pytest.mark.parametrize("name", EXPLODING)


def expect_line(caught: pytest.ExceptionInfo[InputError], start: str, name: str) -> None:
    """The error is one line, which begins with a match of `start` and then says what diverged."""
    said = EXPLODING[name][1].replace("…", "nothing finite is left")
    line = re.escape(f": the inner loop of {said}")
    assert re.match(start + line, str(caught.value)), str(caught.value)
    assert "\n" not in str(caught.value)


@exploding
def test_an_evaluation_says_so(name: str) -> None:
    model = EXPLODING[name][0]()
    with pytest.raises(InputError) as caught:
        measured(model, Episodes(patterns("test", 2), SETTING), 4)
    expect_line(caught, "episode 0", name)


@exploding
def test_a_training_says_so(name: str) -> None:
    """At its next line."""
    trainer = Trainer(steps=3, log_every=3, lr=1e-3, device="cpu")
    with pytest.raises(InputError) as caught:
        trainer.fit(EXPLODING[name][0](), Episodes(patterns("train", 0), SETTING))
    expect_line(caught, "the loss is (nan|inf) at step 3", name)


def test_a_training_whose_own_rate_is_too_large_names_that_one() -> None:
    options = {"optimizer": "sgd", "lr": 1e15, "weight_decay": 1e15}
    trainer = Trainer(steps=3, log_every=3, device="cpu", **options)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"the loss is nan at step 3; lower trainer\.lr"):
        trainer.fit(MAML(net(), 1, 0.1), Episodes(patterns("train", 0), SETTING))


class Blind(Rule):
    """A rule of a user's own, which has no rate."""

    def update(self, params, grads, loss, state, step):  # type: ignore[no-untyped-def]
        return {n: p / 0 for n, p in params.items()}, state


def test_a_rule_without_a_rate_is_named_without_one() -> None:
    with pytest.raises(InputError, match="Adapt diverged: nothing finite is left after 2 steps; a"):
        measured(Adapt(net(), Blind(), 2), Episodes(patterns("test", 2), SETTING), 1)


def test_the_command_ends_with_one_line(world: Path, call: Call) -> None:
    options = ("learner.head=linear", "trainer.steps=1", "trainer.val_episodes=2")
    adapt = "learner.adapt={name: maml, lr: 0.01}"
    assert call("run", "my.yaml", *options, adapt, "evaluation.episodes=2", "--out", "r")[0] == 0
    explode = "learner.adapt={name: maml, lr: 9.0e+15, steps: 20}"
    for command in (
        ("run", "my.yaml", *options, explode, "--out", "other"),
        ("evaluate", "r", explode),
    ):
        code, _, err = call(*command)
        said = "the inner loop of MAML diverged: nothing finite is left after 20 steps at lr 9e+15"
        assert code == 2 and said in err and "Traceback" not in err, err
        assert err.splitlines()[-1].startswith("graphfsl: ")
