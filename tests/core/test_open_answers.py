"""Scores and novelty together: in pipelines, inner loops, and of queries that are asked alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import graphfsl as gf
from graphfsl.core.ensemble import Ensemble
from graphfsl.core.episode import Episode
from graphfsl.core.learner import Head
from graphfsl.core.pipeline import Pipeline
from graphfsl.experiment.builder import build
from graphfsl.functional.open_set import max_probability
from graphfsl.io.errors import InputError
from graphfsl.methods.heads.protonet import ProtoNet
from graphfsl.methods.novelty.class_distance import ClassDistance
from graphfsl.methods.novelty.propagated_mass import PropagatedMass
from tests.support.features import world


def test_a_learner_without_a_part_is_as_novel_as_it_doubts() -> None:
    class Own(Head):
        def score(self, episode: Episode) -> Tensor:
            return episode.x[..., : episode.way]

    episode, _ = world(way=3, open_classes=2)
    for net in (Own(), Pipeline(head=Own())):
        found = net.score_open(episode)
        assert torch.equal(found[..., :-1], net.score(episode))
        assert torch.equal(found[..., -1], max_probability(net.score(episode)))


def test_the_bound_is_taken_away_from_the_novelty_alone() -> None:
    episode, _ = world(way=3, open_classes=2)
    net = Pipeline(head=ProtoNet(), novelty=ClassDistance())
    before = net.answer_open(episode)
    net.rejects_above = 0.25
    after = net.answer_open(episode)
    assert torch.equal(before[..., :-1], after[..., :-1])
    torch.testing.assert_close(before[..., -1] - 0.25, after[..., -1])
    assert torch.equal(net.on_features().answer_open(episode), after)


def test_a_transductive_sign_is_inductive_where_each_query_is_asked_alone() -> None:
    episode, _ = world(way=3, open_classes=2, batch=2)
    net = Pipeline(head=ProtoNet(), novelty=PropagatedMass(), per_query=True)
    assert not net.transductive
    together = net.answer_open(episode)
    k = episode.n_support
    for i in (0, 7):
        keep = torch.tensor([*range(k), k + i])
        alone = Episode(episode.x[:, keep], episode.w[:, keep], k, 1)
        torch.testing.assert_close(net.answer_open(alone)[:, 0], together[:, i])
    assert Pipeline(head=ProtoNet(), novelty=PropagatedMass()).transductive


def test_an_inner_loop_answers_by_its_nets_part() -> None:
    """Each task's novelty is that of the net with the weights adapted to it."""
    parts = {"head": "linear", "adapt": {"name": "maml", "lr": 0.1}, "novelty": "class_distance"}
    model = build({"encoder": {"name": "mlp", "widths": [8]}, **parts}, (16,), 3).eval()
    episode, _ = world(way=3, open_classes=2)
    found = model.score_open(episode)
    assert torch.equal(found[..., :-1], model.score(episode))
    for i in range(2):
        task = episode.with_tensors({n: t[i : i + 1] for n, t in episode.tensors.items()})
        params = model.adapt(task)
        alone = torch.func.functional_call(model.caller, params, ("score_open", task))
        torch.testing.assert_close(found[i], alone[0], atol=1e-4, rtol=1e-4)


def test_an_ensemble_is_as_novel_as_its_members_say() -> None:
    episode, _ = world(way=3, open_classes=2)
    members = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        encoder = torch.nn.Linear(16, 8)
        members.append(Pipeline(encoder, head=ProtoNet(), novelty=ClassDistance()).eval())
    both = Ensemble(members)
    found, each = both.score_open(episode), [member.score_open(episode) for member in members]
    torch.testing.assert_close(found[..., -1], (each[0] + each[1])[..., -1] / 2)
    torch.testing.assert_close(found[..., :-1], both.score(episode))


def test_a_tied_learner_keeps_the_column_of_fewer_classes() -> None:
    net = build({"head": "gnn", "novelty": "class_distance", "per_query": False}, (16,), 5).eval()
    episode, _ = world(way=3, open_classes=2)
    found = net.score_open(episode)
    assert found.shape[-1] == 4
    alone = Pipeline(head=ProtoNet(), novelty=ClassDistance()).score_open(episode)
    torch.testing.assert_close(found[..., -1], alone[..., -1])


def test_open_queries_do_not_change_the_accuracy_of_an_inductive_learner() -> None:
    split = gf.load_data("glyphs", "test")
    net = gf.build({"head": "nearest_neighbor"}, split.shape, 5)
    closed = gf.evaluate(net, split, way=5, shot=1, query=4, episodes=20)
    opened = gf.evaluate(net, split, way=5, shot=1, query=4, episodes=20, open_classes=3)
    assert torch.equal(closed.measured["accuracy"], opened.measured["accuracy"])
    assert "AUROC" not in closed.measured and opened.task.metric[0] == "AUROC"
    row = opened.row()
    assert set(row.metrics) == {
        "AUROC", "AUPR", "FPR@95", "accuracy", "calibration error", "macro-F1"
    }  # fmt: skip
    assert "AUROC" in str(opened) and "accuracy" in str(opened)
    net.rejects_above = 0.0  # minus a probability is never above
    never = gf.evaluate(net, split, way=5, shot=1, query=4, episodes=20, open_classes=3)
    share = never.measured["accuracy with rejection"]
    torch.testing.assert_close(share, closed.measured["accuracy"] * 20 / 32)


def test_training_on_episodes_with_open_queries_learns_from_the_others() -> None:
    split = gf.load_data("glyphs", "train")
    net = gf.build({"encoder": {"name": "conv4", "width": 4}, "head": "protonet"}, split.shape, 5)
    closed = gf.Episodes(split, way=5, shot=1, query=4).batch([0, 1])
    opened = gf.Episodes(split, way=5, shot=1, query=4, open_classes=3).batch([0, 1])
    torch.testing.assert_close(net.eval().loss(*closed), net.loss(*opened))


def test_the_slot_takes_one_part() -> None:
    with pytest.raises(InputError, match="novelty takes one part"):
        build({"head": "protonet", "novelty": ["oslo", "energy"]}, (8,), 5)
