"""BatchNorm averages of the target: what they are, and that a row says so."""

from __future__ import annotations

import torch

from graphfsl.core.pipeline import Pipeline
from graphfsl.data import Transform
from graphfsl.loops.evaluation import evaluate
from graphfsl.loops.target_statistics import with_target_statistics
from graphfsl.methods.heads.protonet import ProtoNet
from graphfsl.testing import TinyEncoder, unlike_fresh
from tests.support.refusal import refused
from tests.support.training import patterns

TASK = {"way": 3, "shot": 2, "query": 4}
TRANSFORM = Transform([0.4], [0.3])


def net(**options: str) -> Pipeline:
    torch.manual_seed(0)
    model = Pipeline(TinyEncoder(), head=ProtoNet(), **options)  # type: ignore[arg-type]
    unlike_fresh(model)
    return model.eval()


def test_they_are_of_all_images_and_the_learner_stays_as_it_was() -> None:
    model, split = net(), patterns("test", 0)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    told = with_target_statistics(model, split, TRANSFORM)
    maps = model.encoder.conv(TRANSFORM(split.x)).detach()  # type: ignore[operator]
    norm = told.encoder.norm
    torch.testing.assert_close(norm.running_mean, maps.mean((0, 2, 3)))
    torch.testing.assert_close(norm.running_var, maps.transpose(0, 1).flatten(1).var(1))
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert not told.training and not norm.training and norm.momentum == 0.1


def test_answers_are_transductive_and_say_so() -> None:
    model, split = net(), patterns("test", 0)
    told = with_target_statistics(model, split, TRANSFORM)
    assert told.transductive and not model.transductive and told.fixed
    row = evaluate(told, split, TASK, 5, transform=TRANSFORM).row()
    assert row.setting == "transductive" and "BatchNorm averages of the target" in row.traits
    assert evaluate(model, split, TASK, 5, transform=TRANSFORM).row().setting == "inductive"


def test_what_has_no_averages_is_refused() -> None:
    split = patterns("test", 0)
    with refused("batch_norm=running"):
        with_target_statistics(net(batch_norm="joint"), split, TRANSFORM)
    with refused("no BatchNorm"):
        plain = Pipeline(torch.nn.Flatten(), head=ProtoNet())
        with_target_statistics(plain, split, TRANSFORM)
