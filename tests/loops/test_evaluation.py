"""Evaluation: intervals, traits, blocks, and what may not leak."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from graphfsl.apply.estimator import FewShotClassifier
from graphfsl.apply.explain.attributions import explain
from graphfsl.apply.predict import Predictor
from graphfsl.core.adapt import Adapt
from graphfsl.core.episode import Episode
from graphfsl.core.learner import Graph, Head, Learner, Refine
from graphfsl.core.pipeline import Pipeline
from graphfsl.core.protocol import kind_of
from graphfsl.core.rules import GradientDescent
from graphfsl.data import Episodes, Setting, Transform
from graphfsl.experiment.experiment import Experiment, Published
from graphfsl.experiment.results import beside_published
from graphfsl.experiment.run import Run
from graphfsl.io.errors import InputError
from graphfsl.loops.evaluation import diagnose, encode_once, evaluate, measured
from graphfsl.loops.row import MetricValue, Row
from graphfsl.loops.trainer import Trainer
from graphfsl.methods.heads.gnn import GNN
from graphfsl.methods.heads.protonet import ProtoNet
from graphfsl.methods.refine.soft_kmeans import SoftKmeans
from graphfsl.testing import learner
from tests.support.training import patterns, pipeline

SETTING = Setting(way=4, shot=1, query=3, unlabeled=2)


def test_accuracy_equals_a_loop_and_does_not_depend_on_blocks() -> None:
    model, split = pipeline(), patterns("test", 2)
    loader = Episodes(split, SETTING)
    expected = []
    for i in range(20):
        episode, target = loader.batch([i])
        with torch.no_grad():
            right = model.eval()(episode)[0].argmax(-1) == target.query[0]
        expected.append(float(right.float().mean()))
    for block in (1, 7, 64):
        found = measured(model, loader, 20, block=block)["accuracy"]
        assert found.tolist() == pytest.approx(expected)
    result = evaluate(model, split, SETTING, episodes=20)
    values = torch.tensor(expected, dtype=torch.float64)
    assert result.mean == pytest.approx(float(values.mean()))
    # t of 19 degrees
    assert result.ci95 == pytest.approx(float(2.093024 * values.std() / 20**0.5), rel=1e-6)


def test_features_are_encoded_once_with_the_same_answer() -> None:
    model, split = pipeline().eval(), patterns("test", 2)
    many = evaluate(model, split, SETTING, episodes=100)
    direct = measured(model, Episodes(split, SETTING), 100)["accuracy"]
    assert torch.equal(many.accuracies, direct)
    found, features = encode_once(model, split, None, 10**6)
    assert found is not model and features.x.shape == (len(split.x), 6)
    assert encode_once(model, split, None, 10) == (model, split), "not worth it for a few images"
    model.set_batch_norm("joint")
    assert encode_once(model, split, None, 10**6)[0] is model


@pytest.mark.parametrize("training", [False, True])
def test_evaluation_leaves_every_part_in_its_mode(training: bool) -> None:
    model = learner(head="gnn").train(training)
    evaluate(model, patterns("test", 2), way=3, query=2, episodes=100)
    assert {m.training for m in model.modules()} == {training}


def test_augmentation_is_a_function_of_the_episode() -> None:
    loader = Episodes(patterns("train", 0), SETTING, transform=Transform(rotate=20, color=0.2))
    together, alone = loader.batch([3, 4, 9])[0], loader.batch([9])[0]
    assert torch.equal(together.x[2:], alone.x)
    assert not torch.equal(alone.x, Episodes(patterns("train", 0), SETTING).batch([9])[0].x)


def published_of(entries: list[dict[str, Any]], setting: Setting, kind: str) -> float | None:
    """The published number beside a row of this setting and kind."""
    values = {"accuracy": MetricValue(90.0)}
    row = Row(data="a/test", asked=setting.row, setting=kind, metrics=values)
    return beside_published(row, setting, list(map(Published.of, entries))).published


def test_a_published_number_is_for_its_own_setting() -> None:
    published = [{"way": 5, "shot": 1, "accuracy": 98.8}]
    assert published_of(published, Setting(way=5, shot=1, query=3), "inductive") == 98.8
    pool = [{"way": 5, "shot": 1, "unlabeled": 5, "setting": "semi-supervised", "accuracy": 97.45}]
    for kind, found in (("semi-supervised", 97.45), ("inductive", None)):
        assert published_of(pool, Setting(way=5, shot=1, unlabeled=5), kind) == found
    for other in (
        {"shot": 5},
        {"unlabeled": 5},
        {"dirichlet": 2.0},
        {"labeled_fraction": 0.5},
        {"groups": "within"},
        {"pool_dirichlet": 2.0},
    ):
        changed = Setting(**{"way": 5, "shot": 1} | other)
        assert published_of(published, changed, "inductive") is None


def test_kinds_are_told_apart() -> None:
    refined = Pipeline(head=ProtoNet(), refine=SoftKmeans())
    assert kind_of(refined, SETTING) == "semi-supervised"
    assert kind_of(refined, dataclasses.replace(SETTING, unlabeled=0)) == "inductive"
    asking = Pipeline(head=GNN(8, 4, ask="random"))
    assert (
        kind_of(asking, SETTING) == "active"
        and kind_of(asking, dataclasses.replace(SETTING, unlabeled=0)) == "inductive"
    )
    joint = learner(batch_norm="joint")
    assert kind_of(joint, SETTING) == "transductive"
    assert kind_of(learner(batch_norm="support"), SETTING) == "inductive"


class Balanced(ProtoNet):
    needs_balance = True


class BalancedPool(ProtoNet):
    needs_balanced_pool = True


class Few(ProtoNet):
    max_queries_per_class = 3


def test_traits_forbid_protocols() -> None:
    split = patterns("test", 2)
    model = Pipeline(head=Balanced())
    with pytest.raises(InputError, match=r"episode\.dirichlet=null"):
        evaluate(model, split, way=4, query=3, dirichlet=2.0)
    row = (
        evaluate(model, split, way=4, query=3, dirichlet=2.0, episodes=2, unbalanced=True)
        .row()
        .to_dict()
    )
    assert "needs_balance" in row["traits"] and row["dirichlet"] == 2.0
    model, pool = (
        Pipeline(head=BalancedPool()),
        {"way": 4, "query": 3, "unlabeled": 2, "pool_dirichlet": 2.0},
    )
    with pytest.raises(InputError, match=r"episode\.pool_dirichlet=null"):
        evaluate(model, split, **pool)
    row = evaluate(model, split, **pool, episodes=2, unbalanced=True).row().to_dict()
    assert "needs_balanced_pool" in row["traits"] and row["pool_dirichlet"] == 2.0
    assert evaluate(model, split, **{**pool, "unlabeled": 0}, episodes=2).mean >= 0, (
        "no pool, nothing to assume"
    )
    for wrong in ({"query": 4}, {"query": 3, "dirichlet": 2.0}):
        with pytest.raises(InputError, match="at most 3 queries per class"):
            evaluate(Pipeline(head=Few()), split, way=4, unbalanced=True, **wrong)
    with pytest.raises(InputError, match="tied to 3-way"):
        evaluate(learner(head="gnn"), split, SETTING)


class Cheat(Head):
    """Scores an unlabeled node's own label weights: the leak that must be impossible."""

    uses_unlabeled = True

    def score(self, episode: Episode) -> Tensor:
        return ProtoNet().score(episode) + 1e6 * episode.w[:, episode.unlabeled].sum(
            1, keepdim=True
        )


def test_true_labels_of_the_pool_change_nothing() -> None:
    """The labels of unlabeled and query nodes are altered in the draw itself; every prediction
    stays.
    """
    split = patterns("test", 2)
    loader = Episodes(split, dataclasses.replace(SETTING, distractors=2))
    draw = loader.sampler.draw([0, 1, 2])
    label = draw.label.copy()
    label[:, draw.n_support :] = (label[:, draw.n_support :] + 1) % 4
    for model in (
        Pipeline(torch.nn.Flatten(), head=ProtoNet(), refine=SoftKmeans()),
        Pipeline(torch.nn.Flatten(), head=Cheat()),
    ):
        true, _ = loader.assemble(draw)
        altered, target = loader.assemble(dataclasses.replace(draw, label=label))
        assert torch.equal(model(true), model(altered))
        assert not torch.equal(target.query, loader.assemble(draw)[1].query)


def test_episodes_without_a_pool_have_no_unlabeled_nodes() -> None:
    episode, target = Episodes(
        patterns("test", 2), dataclasses.replace(SETTING, unlabeled=0)
    ).batch([0, 1])
    assert episode.n_unlabeled == 0 and target.unlabeled.shape == (2, 0)


class Broken(Refine):
    """Makes a value that is none in the last of the episodes."""

    def forward(self, episode: Episode, scores: Tensor, head: Head) -> Tensor:
        return (
            scores
            * torch.where(torch.arange(len(scores)) == len(scores) - 1, float("nan"), 1.0)[
                :, None, None
            ]
        )


class Overflow(Graph):
    def forward(self, episode: Episode) -> Episode:
        return episode.replace(x=episode.x * float("inf"), relabeled=episode.relabeled)


def broken_encoder() -> Pipeline:
    model = pipeline()
    model.set_batch_norm("support")  # so that images are not encoded once
    with torch.no_grad():
        next(model.encoder.parameters()).fill_(float("nan"))
    return model


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (broken_encoder, "episode 0: the encoder"),
        (
            lambda: Pipeline(nn.Flatten(), graph=Overflow(), head=ProtoNet()),
            "episode 0: the graph Overflow",
        ),
        (
            lambda: Pipeline(nn.Flatten(), head=ProtoNet(), refine=Broken()),
            "episode 4: the refine Broken",
        ),
        (
            lambda: Pipeline(nn.Flatten(), head=ProtoNet(), refine=[SoftKmeans(), Broken()]),
            "refine Broken",
        ),
        (
            lambda: Pipeline(nn.Flatten(), head=ProtoNet(), refine=Broken(), per_query=True),
            "refine Broken",
        ),
        (
            lambda: Adapt(pipeline(), GradientDescent(float("inf")), 1),
            "episode 0: the inner loop of Adapt div",
        ),
        (lambda: Adapt(broken_encoder(), GradientDescent(0.1), 1), "episode 0: the encoder"),
    ],
    ids=["encoder", "graph", "refine", "second", "per_query", "adapt", "inside"],
)
def test_scores_that_are_no_numbers_name_the_episode_and_the_part(
    model: Callable[[], Learner], said: str
) -> None:
    learner, split = model(), patterns("test", 2)
    with pytest.raises(InputError, match=said) as caught:
        evaluate(learner, split, SETTING, episodes=7, block=5)
    assert "finite" in str(caught.value)
    assert "score" not in vars(getattr(learner, "head", nn.Identity())), (
        "the head is watched no longer"
    )


def test_nan_is_no_answer_anywhere_else() -> None:
    model = Pipeline(head=ProtoNet(), refine=Broken())
    x, y = torch.randn(8, 5).numpy(), [0, 0, 0, 0, 1, 1, 1, 1]
    with pytest.raises(
        InputError, match="there is no answer: the refine Broken made values that are not finite"
    ):
        FewShotClassifier(model).fit(x, y).predict_proba(x)
    images = Pipeline(nn.Flatten(), head=ProtoNet(), refine=Broken())
    experiment = Experiment.of_saved({"data": {"name": None}, "learner": {}})
    predictor = Predictor(Run(experiment, Path("run"), images, (1, 8, 8), 2))
    shown = [np.full((8, 8), v, np.uint8) for v in (0, 200, 90)]
    with pytest.raises(InputError, match="there is no answer: the refine Broken"):
        predictor.predict({"a": shown[:1], "b": shown[1:2]}, shown[2:])
    with pytest.raises(InputError, match="there is no answer: the refine Broken"):
        explain(images, Episodes(patterns("test", 2), SETTING).batch([0])[0])
    with pytest.raises(InputError, match="have no finite scores"):
        diagnose(images, Episodes(patterns("test", 2), SETTING), 3)


def test_validation_on_nan_ends_the_training() -> None:
    class Later(Broken):
        def forward(self, episode: Episode, scores: Tensor, head: Head) -> Tensor:
            return scores if self.training else super().forward(episode, scores, head)

    model = pipeline()
    model.refine.append(Later())
    train, val = (Episodes(patterns(s, i), SETTING) for i, s in enumerate(("train", "val")))
    with pytest.raises(InputError, match=r"episode \d+: the refine Later"):
        Trainer(steps=2, val_every=2, val_episodes=4, device="cpu").fit(model, train, val)


def test_an_encoder_of_nan_is_named_where_images_are_encoded_once() -> None:
    model = broken_encoder()
    model.set_batch_norm("running")
    with pytest.raises(InputError, match=r"the encoder .* made features that are not finite"):
        evaluate(model, patterns("test", 2), SETTING, episodes=1000)


def test_one_episode_has_no_interval() -> None:
    result = evaluate(pipeline(), patterns("test", 2), SETTING, episodes=1)
    assert result.ci95 is None and result.row().value.ci95 is None and "±" not in str(result)
    assert json.loads(json.dumps(result.row().to_dict(), allow_nan=False))["episodes"] == 1
