"""The task `labeling`: a pool, a budget of labels, and the accuracy of the rest."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graphfsl as gf
from graphfsl.core.episode import Episode
from graphfsl.core.pipeline import Pipeline
from graphfsl.core.protocol import kind_of
from graphfsl.data.tasks import as_task
from graphfsl.data.tasks.labeling import is_asked
from graphfsl.io.errors import InputError
from graphfsl.loops.evaluation import evaluate
from graphfsl.methods.acquire.coverage import Coverage
from graphfsl.methods.acquire.random import Random
from graphfsl.methods.acquire.uncertainty import Margin
from graphfsl.methods.heads.label_propagation import LabelPropagation
from graphfsl.methods.heads.protonet import ProtoNet
from graphfsl.testing import TinyEncoder, learner

POOL = {"task": "labeling", "way": 3, "images": 8}


def split(classes: int = 6, each: int = 12, seed: int = 0) -> gf.Split:
    """Features of classes around means."""
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(classes).repeat_interleave(each)
    x = 3 * torch.randn(classes, 5, generator=g)[y] + torch.randn(len(y), 5, generator=g)
    return gf.Split(x, y, tuple(map(str, range(classes))), "mine/test")


def batch(**options: Any) -> tuple[Episode, Any]:
    return gf.Episodes(split(), {**POOL, **options}).batch([0, 1, 2, 3])


def test_a_pool_is_all_queries_in_random_order_with_a_budget() -> None:
    episode, target = batch(budget=4)
    assert (episode.n_support, episode.n_query, episode.n_unlabeled) == (0, 24, 0)
    assert episode.budget == 4 and not episode.w.any() and episode.oracle is None
    assert all((target.query == c).sum(1).eq(8).all() for c in range(3))
    first = target.query[:, :3].sort(-1).values
    assert not (first == torch.arange(3)).all(), "places must not tell classes"
    assert len({tuple(row) for row in target.query.tolist()}) == 4


def test_images_depend_on_neither_budget_nor_labels_given() -> None:
    """So that budgets are paired, and the class-aware reference has the same pools."""
    pools = ({"budget": 4}, {"budget": 9}, {"shot": 2, "budget": 1})
    ids = [batch(**options)[1].ids.sort(1).values for options in pools]
    assert torch.equal(ids[0], ids[1]) and torch.equal(ids[0], ids[2])
    episode, _ = batch(shot=2, budget=0)
    assert episode.n_support == 6 and episode.budget == 0
    assert torch.equal(episode.w[:, :6].sum(1), torch.full((4, 3), 2.0))
    assert not is_asked(episode).any()


def test_accuracy_is_of_the_rest_and_classes_are_counted() -> None:
    task = as_task({**POOL, "budget": 5})
    model = Pipeline(head=ProtoNet(), acquire=Random()).eval()
    episode, target = batch(budget=5)
    told = model.ask(target.told(episode))
    scores = model(told)
    found = {name: m.measure(scores, target, told) for name, m in task.metrics.items()}
    for b in range(4):
        asked = told.w[b].sum(-1) > 0
        assert int(asked.sum()) == 5
        rest = ~asked
        right = (scores[b].argmax(-1) == target.query[b])[rest].float().mean()
        assert float(found["accuracy"][b]) == pytest.approx(float(right))
        assert int(found["classes hit"][b]) == len(target.query[b][asked].unique())
    assert model(target.told(episode)).equal(scores), "it asks by itself, too"


@pytest.mark.parametrize("rule", [Random(), Coverage(k=3), Margin()], ids=repr)
def test_turned_labels_that_were_not_asked_for_change_no_answer(rule: Any) -> None:
    model = Pipeline(head=LabelPropagation(average=True), acquire=rule).eval()
    episode, target = batch(budget=5)
    told = model.ask(target.told(episode))
    turned = (target.query + 1) % 3
    other = target.with_tensors({"query": turned.where(~is_asked(told), target.query)})
    again = model.ask(other.told(episode))
    assert torch.equal(again.w, told.w) and torch.equal(model(again), model(told))


def test_what_a_rule_scores_with_has_no_oracle() -> None:
    """Neither has the head, in any round."""
    seen: list[Episode] = []

    class Watching(ProtoNet):
        def score(self, episode: Episode) -> Tensor:
            seen.append(episode)
            return super().score(episode)

    episode, target = batch(budget=6)
    Pipeline(head=Watching(), acquire=Margin())(target.told(episode))
    assert len(seen) > 2 and all(e.oracle is None and e.budget == 0 for e in seen)
    assert [int((e.w[0].sum(-1) > 0).sum()) for e in seen] == [1, 2, 3, 4, 5, 6]
    assert [e.n_support for e in seen] == [1, 2, 3, 4, 5, 6], "what was asked for is support"


def test_a_frozen_encoder_sees_each_image_of_the_split_once(home: Any) -> None:
    calls = []

    class Counted(TinyEncoder):
        def forward(self, x: Tensor) -> Tensor:
            calls.append(len(x))
            return super().forward(x)

    g = torch.Generator().manual_seed(0)
    y = torch.arange(4).repeat_interleave(10)
    x = (255 * torch.rand(40, 1, 8, 8, generator=g)).byte()
    images = gf.Split(x, y, tuple("abcd"), "mine/test")
    model = Pipeline(Counted(), head=ProtoNet(), acquire=Coverage(k=3))
    fresh = evaluate(model, images, {**POOL, "budget": 3}, episodes=1)
    calls.clear()
    for p in model.encoder.parameters():
        p.requires_grad_(False)
    found = evaluate(model, images, {**POOL, "budget": 3}, episodes=30)
    assert sum(calls) <= len(x) + 1
    assert found.accuracies[0] == pytest.approx(float(fresh.accuracies[0]))
    assert evaluate(model, images, {**POOL, "budget": 3}, episodes=30, block=7).accuracies.equal(
        found.accuracies
    )


def test_asked_images_and_classes_without_a_label_are_no_part_of_the_loss() -> None:
    model = Pipeline(head=ProtoNet(), acquire=Random()).train()
    episode, target = batch(budget=3)
    told = model.ask(target.told(episode))
    scores = model.score(told)
    seen = (told.w.sum(1) > 0).gather(1, target.query)
    assert not seen.all(), "some class was not hit"
    rest = ~is_asked(told) & seen
    expected = nn.functional.cross_entropy(scores[rest], target.query[rest])
    torch.testing.assert_close(model.loss(target.told(episode), target), expected)


def test_rows_say_that_it_asks() -> None:
    result = evaluate(
        Pipeline(head=LabelPropagation(), acquire=Coverage(k=3)),
        split(),
        {**POOL, "budget": 6},
        episodes=4,
    )
    row = result.row()
    assert row.task == "labeling" and row.asked == {"way": 3, "images": 8, "shot": 0, "budget": 6}
    assert row.setting == "active + transductive" and "asks" in row.traits
    assert {"accuracy", "classes hit"} == set(row.metrics)
    plain = Pipeline(head=LabelPropagation())
    assert kind_of(plain, as_task({**POOL, "shot": 1, "budget": 0})) == "transductive"
    assert str(result.task) == "3 classes of 8 images, 6 labels asked for"
    assert result.accuracies.shape == (4,)


def test_coverage_beats_chance_where_classes_are_clusters() -> None:
    found = {}
    for rule in (Random(), Coverage(k=4)):
        model = Pipeline(head=LabelPropagation(k=5, alpha=0.9, average=True), acquire=rule)
        found[repr(rule)] = evaluate(model, split(), {**POOL, "budget": 3}, episodes=60).mean
    random, coverage = found.values()
    assert coverage > random + 0.1


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"budget": 24}, "episode.budget must be below the 24 images without a label, not 24"),
        ({"shot": 2, "budget": 18}, "below the 18 images without a label"),
        ({"shot": 8, "budget": 0}, "episode.shot must be below the 8 images of a class"),
        ({"budget": 0}, "a pool needs a label"),
        ({"budget": -1}, "episode.budget"),
        ({"way": 1}, "episode.way"),
    ],
)
def test_pools_that_cannot_be_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        as_task({**POOL, **options})


def test_a_split_that_is_too_small_is_refused() -> None:
    task = as_task({**POOL, "images": 13})
    with pytest.raises(InputError, match=r"has 12 images, but episode\.images is 13"):
        task.check(split())
    with pytest.raises(InputError, match="way 7"):
        as_task({**POOL, "way": 7}).check(split())


def test_a_budget_without_a_rule_and_a_rule_without_a_budget_are_refused() -> None:
    with pytest.raises(InputError, match=r"learner\.acquire=coverage"):
        evaluate(Pipeline(head=ProtoNet()), split(), {**POOL, "budget": 3}, episodes=2)
    asking = Pipeline(head=ProtoNet(), acquire=Random())
    for task in ({**POOL, "shot": 1, "budget": 0}, {"way": 3, "shot": 1, "query": 2}):
        with pytest.raises(InputError, match="the task gives none"):
            evaluate(asking, split(), task, episodes=2)
    with pytest.raises(InputError, match="cannot be adapted"):
        learner(acquire="random", adapt="maml")


def test_where_nobody_answers_a_learner_that_asks_is_refused() -> None:
    x, y = split().x.numpy(), split().y.numpy()
    with pytest.raises(InputError, match="nobody answers it here"):
        gf.FewShotClassifier({"head": "protonet", "acquire": "coverage"}).fit(x, y)
