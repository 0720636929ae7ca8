"""Attacks on pixels, and whether they tell robust learners from masked gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import graphfsl as gf
from graphfsl.core.episode import Episode
from graphfsl.core.pipeline import Pipeline
from graphfsl.data import Transform
from graphfsl.loops.attack import PGD, parse_eps
from graphfsl.loops.evaluation import evaluate
from graphfsl.loops.trainer import Trainer
from graphfsl.methods.heads.nearest_neighbor import NearestNeighbor
from graphfsl.methods.heads.protonet import ProtoNet
from graphfsl.testing import TinyEncoder, unlike_fresh
from tests.support.refusal import refused

TASK = {"way": 3, "shot": 2, "query": 4}
TRANSFORM = Transform([0.4], [0.3])


def split(features: bool = False) -> gf.Split:
    """Images around a pattern for each class."""
    g = torch.Generator().manual_seed(0)
    y = torch.arange(5).repeat_interleave(10)
    x = torch.rand(5, 1, 8, 8, generator=g)[y] + 0.15 * torch.randn(50, 1, 8, 8, generator=g)
    images = (255 * x.clamp(0, 1)).byte()
    x = images.flatten(1).float() if features else images
    return gf.Split(x, y, tuple("abcde"), "mine/test")


def net() -> Pipeline:
    torch.manual_seed(0)
    model = Pipeline(TinyEncoder(), head=ProtoNet())
    unlike_fresh(model)
    return model.eval()


def batch() -> tuple[Episode, Any]:
    return gf.Episodes(split(), TASK, transform=TRANSFORM).batch([0, 1])


def pixels(episode: Episode) -> torch.Tensor:
    return episode.x * 0.3 + 0.4


@pytest.mark.parametrize("on", ["query", "support"])
def test_pixels_stay_within_eps_and_all_else_is_as_it_was(on: str) -> None:
    model, (episode, target) = net(), batch()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    found = PGD(0.1, steps=5, on=on).changed(model, episode, target, TRANSFORM, [0, 1])
    part, other = episode.query, episode.support
    if on == "support":
        part, other = other, part
    assert torch.equal(found.x[:, other], episode.x[:, other])
    moved = (pixels(found) - pixels(episode))[:, part].abs()
    assert 0.09 < float(moved.max()) <= 0.1 + 1e-6
    assert float(pixels(found).min()) >= -1e-6 and float(pixels(found).max()) <= 1 + 1e-6
    assert torch.equal(found.w, episode.w)
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters()) and not model.training


def accuracy(attack: PGD | None, model: Pipeline | None = None, **options: Any) -> torch.Tensor:
    return evaluate(
        model or net(),
        split(),
        TASK,
        episodes=6,
        transform=TRANSFORM,
        image_change=attack,
        **options,
    ).accuracies


def test_accuracy_falls_to_nothing_with_eps_and_never_rises_with_steps() -> None:
    natural = accuracy(None)
    assert torch.equal(accuracy(PGD(0.0)), natural)
    by_steps = [accuracy(PGD(0.1, steps=n, step=0.02)) for n in (1, 4, 12)]
    assert (by_steps[0] <= natural).all(), "the unchanged image is among those that are tried"
    assert (by_steps[1] <= by_steps[0]).all() and (by_steps[2] <= by_steps[1]).all()
    assert natural.mean() > 0.6 > by_steps[-1].mean()
    assert accuracy(PGD(0.9, steps=20)).mean() <= 0.02


def test_random_changes_of_the_size_do_less() -> None:
    episode, target = batch()
    model = net()
    attack = PGD(0.1, steps=8)
    found = attack.changed(model, episode, target, TRANSFORM, [0, 1])
    noise = 0.1 * torch.sign(
        torch.randn(episode.x.shape, generator=torch.Generator().manual_seed(0))
    )
    noisy = episode.with_tensors({"x": ((pixels(episode) + noise).clamp(0, 1) - 0.4) / 0.3})
    clean, random, attacked = (model.loss(e, target) for e in (episode, noisy, found))
    assert attacked > random and attacked > clean


def test_answers_do_not_depend_on_blocks() -> None:
    attack = PGD(0.1, steps=3)
    torch.testing.assert_close(accuracy(attack, block=1), accuracy(attack, block=5))


@pytest.mark.parametrize("on", ["query", "support"])
def test_what_is_not_attacked_may_be_encoded_once(on: str) -> None:
    """A learner whose images cannot be encoded once is asked as a whole, with the same answers."""

    class Whole(Pipeline):
        fixed = False

    whole = Whole(TinyEncoder(), head=ProtoNet()).eval()
    whole.load_state_dict(net().state_dict())
    attack = PGD(0.1, steps=3, on=on)
    torch.testing.assert_close(accuracy(attack), accuracy(attack, whole))
    changed = [attack.changed(m, *batch(), TRANSFORM, [0, 1]).x for m in (net(), whole)]
    torch.testing.assert_close(*changed, atol=1e-4, rtol=1e-4)


def test_a_learner_without_gradients_falls_to_those_of_another() -> None:
    """Rounded features have none: what looks robust to its own falls in a transfer."""

    class Rounded(TinyEncoder):
        def readout(self, maps: torch.Tensor) -> torch.Tensor:
            return (super().readout(maps) * 64).round() / 64

    torch.manual_seed(0)
    masked = Pipeline(Rounded(), head=ProtoNet()).eval()
    masked.load_state_dict(net().state_dict())
    own, other = (accuracy(PGD(0.2, steps=10, source=s), masked) for s in (None, net()))
    assert other.mean() < own.mean() - 0.2


def test_poisoned_support_misleads() -> None:
    assert accuracy(PGD(0.3, steps=10, on="support")).mean() < accuracy(None).mean() - 0.1


def test_what_cannot_be_attacked_is_refused() -> None:
    with refused("features", "run on images"):
        evaluate(Pipeline(head=NearestNeighbor()), split(True), TASK, 2, image_change=PGD(0.1))
    with refused("support"):
        PGD(0.1, on="pool")
    with refused("[0, 1]"):
        PGD(8.0)
    with refused("8/255"):
        parse_eps("eight")
    assert parse_eps("8/255") == pytest.approx(8 / 255)


def test_adversarial_querying_trains_on_changed_queries() -> None:
    """The loss of a step is that of queries which were changed against the learner as it was."""
    model = net()
    data = gf.Episodes(split(), TASK, transform=TRANSFORM)
    episode, target = data.batch([0, 1])
    attack = {"eps": 0.15, "steps": 3}
    changed = PGD(**attack).changed(model, episode, target, TRANSFORM, [0, 1])
    expected = net().train().loss(changed, target)
    trainer = Trainer(steps=1, batch=2, attack=attack, log_every=1, device="cpu")
    (line,) = trainer.fit(model, data)
    assert line["loss"] == pytest.approx(float(expected.detach()), rel=1e-5)
    assert line["loss"] > float(net().train().loss(episode, target)) + 0.1
    with refused("features"):
        learned = Pipeline(nn.Linear(64, 3), head=ProtoNet())
        trainer.fit(learned, gf.Episodes(split(features=True), TASK))
