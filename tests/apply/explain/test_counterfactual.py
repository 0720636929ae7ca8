"""Which labeled samples an answer hangs on: by brute force, and greedily where there are many."""

from __future__ import annotations

import itertools

import pytest
import torch

from graphfsl.apply.explain import counterfactual as module
from graphfsl.apply.explain.attributions import Question, ask, explain
from graphfsl.apply.explain.counterfactual import counterfactual
from graphfsl.core.episode import Episode
from graphfsl.core.pipeline import Pipeline
from graphfsl.methods.heads.protonet import ProtoNet
from graphfsl.testing import episodes
from tests.support.refusal import refused


def features(seed: int) -> Episode:
    episode = episodes(1, seed=seed, shot=3, way=3)[0]
    return episode.replace(x=episode.x.flatten(2), relabeled=False)


def question(seed: int, query: int = 0) -> tuple[Question, torch.Tensor]:
    found = explain(Pipeline(head=ProtoNet()), features(seed), query)
    return found.question, found.order


def changes(asked: Question, gone: tuple[int, ...]) -> bool:
    """Whether the answer is another in an episode from which nodes were cut out."""
    keep = [v for v in range(len(asked.origin)) if v not in gone]
    graph, support = asked.graph, [v for v in keep if v < asked.graph.n_support]
    if not support:
        return True
    rest = Episode(graph.x[:, keep], graph.w[:, keep], len(support), graph.n_query)
    return int(asked.score(rest)[0, keep.index(asked.query)].argmax()) != asked.answer


@pytest.mark.parametrize("seed", range(4))
def test_it_is_the_smallest_set_of_all(seed: int) -> None:
    asked, order = question(seed)
    found = counterfactual(asked, order)
    assert found.smallest and changes(asked, found.nodes)
    support = range(asked.graph.n_support)
    for size in range(1, len(found.nodes)):
        assert not any(changes(asked, gone) for gone in itertools.combinations(support, size))


@pytest.mark.parametrize("seed", range(4))
def test_of_many_sets_one_is_found_that_needs_all_its_nodes(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, order = question(seed)
    smallest = counterfactual(asked, order)
    monkeypatch.setattr(module, "TRIED", 0)
    found = counterfactual(asked, order)
    assert not found.smallest and changes(asked, found.nodes)
    assert len(found.nodes) >= len(smallest.nodes)
    for v in found.nodes:
        assert not changes(asked, tuple(u for u in found.nodes if u != v))


def test_with_one_class_left_its_samples_are_all_there_is() -> None:
    x = torch.tensor([[[0.0], [1.0], [0.1]]])
    w = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [0.0, 0.0]]])
    asked = ask(Pipeline(head=ProtoNet()), Episode(x, w, 2, 1))
    found = counterfactual(asked, torch.tensor([0, 1]))
    assert found.nodes == (0, 1) and found.answer is None


def test_without_a_labeled_sample_it_is_refused() -> None:
    asked, order = question(0)
    unlabeled = order[order >= asked.graph.n_support]
    with refused("no sample is labeled"):
        counterfactual(asked, unlabeled)


class ByName(ProtoNet):
    """Class means beside what names say: class 1 by a margin, whatever the samples are."""

    uses_class_names = True

    def score(self, episode: Episode) -> torch.Tensor:
        said = 9.0 * (torch.arange(episode.w.shape[-1]) == 1)
        nothing = episode.w.sum((1, 2), keepdim=True) == 0
        near = super().score(episode).clamp_min(-1e3)  # also of a class without samples
        return 1e-4 * near.masked_fill(nothing, 0) + said


@pytest.mark.parametrize("tried", [module.TRIED, 0])
def test_an_answer_that_names_give_alone_hangs_on_no_sample(
    tried: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TRIED", tried)
    named = features(0).replace(classes=torch.arange(1, 4)[None])
    found = explain(Pipeline(head=ByName()), named, 0)
    assert found.question.answer == 1
    other = counterfactual(found.question, found.order)
    assert other.nodes == () and other.answer == 1
    alone = float(torch.tensor([0.0, 9.0, 0.0]).softmax(0)[1])
    assert float(found.nodes.sum()) == pytest.approx(found.probability - alone, abs=1e-6)
