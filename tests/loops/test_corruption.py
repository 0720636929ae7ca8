"""Corrupted episodes: which images are, and that a number is the same however it is computed."""

from __future__ import annotations

import pytest
import torch

import graphfsl as gf
from graphfsl.core.episode import ValueTarget
from graphfsl.core.pipeline import Pipeline
from graphfsl.data import Transform
from graphfsl.loops.corruption import Corruption
from graphfsl.loops.evaluation import evaluate
from graphfsl.methods.heads.nearest_neighbor import NearestNeighbor
from graphfsl.methods.heads.protonet import ProtoNet
from graphfsl.testing import TinyEncoder, unlike_fresh
from tests.support.refusal import refused
from tests.support.training import patterns

TASK = {"way": 3, "shot": 2, "query": 4, "unlabeled": 2}
TRANSFORM = Transform([0.4], [0.3])


def net() -> Pipeline:
    torch.manual_seed(0)
    model = Pipeline(TinyEncoder(), head=ProtoNet())
    unlike_fresh(model)
    return model.eval()


@pytest.mark.parametrize("on", ["all", "query", "support"])
def test_the_part_that_is_asked_for_is_corrupted(on: str) -> None:
    episode, target = gf.Episodes(patterns("test", 0), TASK, transform=TRANSFORM).batch([3, 8])
    bad = Corruption("gaussian_noise", 5, on).changed(net(), episode, target, TRANSFORM, [3, 8])
    moved = (bad.x != episode.x).flatten(2).any(-1)
    part = {"query": episode.query, "support": episode.support, "all": slice(None)}[on]
    expected = torch.zeros_like(moved)
    expected[:, part] = True
    assert torch.equal(moved, expected)
    # pixels of the image, not of its normalised values
    noise = (bad.x - episode.x)[expected] * 0.3
    assert 0.06 < float(noise.std()) < 0.1


def test_the_number_of_episodes_at_once_changes_nothing() -> None:
    found = [
        evaluate(
            net(),
            patterns("test", 0),
            TASK,
            episodes=6,
            transform=TRANSFORM,
            image_change=Corruption("fog", 4),
            block=block,
        ).accuracies
        for block in (1, 4)
    ]
    assert torch.equal(*found)


def test_bad_input_is_one_line() -> None:
    with refused("unknown corruption 'smoke'"):
        Corruption("smoke")
    with refused("a corruption has the levels 1 to 5, not 6"):
        Corruption("fog", 6)
    with refused("unknown part of an episode to corrupt 'pool'"):
        Corruption("fog", on="pool")
    episode, _ = gf.Episodes(patterns("test", 0), TASK).batch([0])
    with refused("which only the class of an image does"):
        Corruption("elastic").changed(
            net(), episode, ValueTarget(torch.zeros(1, 12, 1)), TRANSFORM, [0]
        )
    x = torch.rand(120, 5)
    features = gf.Split(x, torch.arange(120) % 12, tuple("abcdefghijkl"), "mine/test")
    with refused("a corruption changes pixels, but these samples are features"):
        evaluate(
            Pipeline(head=NearestNeighbor()), features, TASK, 2, image_change=Corruption("fog")
        )
