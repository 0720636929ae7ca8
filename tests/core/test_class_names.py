"""Names of classes reach the learners that declare to use them, and no others."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import graphfsl as gf
from graphfsl.apply.explain.attributions import explain
from graphfsl.core.class_names import NO_CLASS, name_keys
from graphfsl.core.episode import Episode, ValueTarget
from graphfsl.core.learner import Augment
from graphfsl.core.pipeline import Pipeline
from graphfsl.data.split import Split
from graphfsl.io.errors import InputError
from graphfsl.methods.augment.class_graph import ClassGraph
from graphfsl.methods.heads.protonet import ProtoNet
from tests.support.base_classes import base_features

DIM = 4
PAIRS = [(f"{kind}{i}", kind) for kind in "abc" for i in range(6)]


class Seen(Augment):
    """Notes which names an episode shows it."""

    def __init__(self, uses: bool) -> None:
        super().__init__()
        self.uses_class_names = uses
        self.names: list[Tensor | None] = []

    def forward(self, episode: Episode) -> Episode:
        self.names.append(episode.classes)
        return episode


def world(numbers: range, name: str) -> Split:
    """Classes a0 … c5, whose letter says where their samples lie, up to much noise."""
    g = torch.Generator().manual_seed(0)
    centre = torch.eye(3, DIM)
    names = tuple(f"{kind}{i}" for kind in "abc" for i in numbers)
    y = torch.arange(len(names)).repeat_interleave(20)
    x = centre[y // len(numbers)] + 0.3 * torch.randn(len(y), DIM, generator=g)
    return Split(x, y, names, name)


def test_keys_are_of_the_names_alone() -> None:
    keys = name_keys(["a", "b", "a"])
    assert keys[0] == keys[2] != keys[1] and NO_CLASS not in keys and (keys > 0).all()
    assert keys.tolist() == name_keys(np.array(["a", "b", "a"])).tolist()


@pytest.mark.parametrize("uses", [False, True])
def test_only_those_that_use_names_are_shown_them(uses: bool) -> None:
    split = world(range(3), "w/t")
    seen = Seen(uses)
    learner = Pipeline(augment=seen, head=ProtoNet("cosine"))
    gf.Trainer(steps=1, batch=1).fit(learner, gf.Episodes(split, way=3, shot=1, query=2))
    result = gf.evaluate(learner, split, way=3, shot=1, query=2, episodes=2, block=2)
    assert ("class names" in result.row().setting) is uses
    assert ("uses_class_names" in result.row().traits) is uses
    assert len(seen.names) >= 2
    if not uses:
        assert seen.names == [None] * len(seen.names)
        return
    _, target = gf.Episodes(split, way=3, shot=1, query=2).batch([0, 1])
    wanted = name_keys(split.classes)[target.classes]
    assert seen.names[-1] is not None and torch.equal(seen.names[-1], wanted)


def test_every_door_hands_the_names_on() -> None:
    """The graph answers without a sample, and the estimator answers as the learner itself does."""
    base, new = world(range(4), "w/b"), world(range(4, 6), "w/n")
    learner = Pipeline(augment=ClassGraph(DIM, PAIRS), head=ProtoNet("cosine"))
    learner.fit_base(base.x, base.y, names=base.classes)
    zero = gf.evaluate(learner, new, way=3, shot=0, query=5, episodes=20)
    assert 40 < 100 * zero.mean < 100

    given = new.x.numpy()[[0, 40, 80]]
    model = gf.FewShotClassifier(learner).fit(given, ["a4", "b4", "c4"])
    plain = gf.FewShotClassifier(learner).fit(given, ["x", "y", "z"])
    asked = new.x.numpy()[20:40]
    p, without = model.predict_proba(asked), plain.predict_proba(asked)
    assert np.abs(p - without).max() > 0.05
    support = torch.from_numpy(given)
    episode = Episode(
        torch.cat([support, new.x[20:40]])[None],
        torch.cat([torch.eye(3), torch.zeros(20, 3)])[None],
        3,
        20,
        classes=name_keys(["a4", "b4", "c4"])[None],
    )
    with torch.no_grad():
        wanted = learner.eval()(episode)[0].softmax(-1).numpy()
    np.testing.assert_allclose(p, wanted, atol=1e-5)


def test_an_answer_with_names_is_explained_and_split_into_queries() -> None:
    """Tasks that are taken apart keep their own names: each query alone, one task, some nodes."""
    base, new = world(range(4), "w/b"), world(range(4, 6), "w/n")
    learner = Pipeline(augment=ClassGraph(DIM, PAIRS), head=ProtoNet("cosine"))
    learner.fit_base(base.x, base.y, names=base.classes)
    episode, target = gf.Episodes(new, way=3, shot=1, query=2).batch([0, 1, 2])
    named = target.named(episode)
    scores = learner.eval()(named)
    alone = Pipeline(augment=learner.augment[0], head=learner.head, per_query=True).eval()(named)
    torch.testing.assert_close(alone, scores)
    found = explain(learner, named, query=1, task=2)
    assert found.probability == pytest.approx(float(scores[2, 1].softmax(-1).max()), abs=1e-6)


def test_mistakes_are_one_line() -> None:
    split = world(range(3), "w/t")
    with pytest.raises(InputError, match="only names tell the classes apart"):
        gf.evaluate(Pipeline(head=ProtoNet()), split, way=3, shot=0, query=2, episodes=2)
    x, _, _ = base_features()
    values: Any = ValueTarget(torch.zeros(1, 2, 1))
    with pytest.raises(InputError, match="no classes whose names"):
        values.named(Episode(x[None], torch.zeros(1, len(x), 1), 0, 2))
    with pytest.raises(InputError, match=r"classes must be \(B, C\), not \(1, 2\)"):
        Episode(x[None], torch.zeros(1, len(x), 3), 3, 2, classes=torch.zeros(1, 2).long())
