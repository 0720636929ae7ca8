"""Explanations: closed forms, naive loops, finite differences; and faithful, where shuffled ones
are not.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor
from torch_geometric.nn import MessagePassing

from graphfsl.apply.explain.attributions import (
    Question,
    add_contributions,
    ask,
    deletion_curve,
    edge_gradient,
    explain,
    faithfulness,
    gradient,
    insertion_curve,
    leave_one_out,
    random_orders,
    shapley,
)
from graphfsl.apply.explain.explain_run import seen_images
from graphfsl.cli import main as cli
from graphfsl.core.episode import Episode
from graphfsl.core.graph import similarity, to_networkx
from graphfsl.core.learner import Head, Learner
from graphfsl.core.pipeline import Pipeline
from graphfsl.data import Episodes, Setting, Split, Transform
from graphfsl.experiment import runner as progress
from graphfsl.experiment.experiment import Experiment
from graphfsl.io.errors import InputError
from graphfsl.methods.graph.message_passing import MessagePassing as Convolutions
from graphfsl.methods.heads.gnn import GNN
from graphfsl.methods.heads.matchingnet import MatchingNet
from graphfsl.methods.heads.nearest_neighbor import NearestNeighbor
from graphfsl.methods.heads.protonet import ProtoNet
from graphfsl.methods.refine.soft_kmeans import SoftKmeans
from graphfsl.report.drawing import draw
from graphfsl.testing import around, episodes
from tests.support.command import write_split
from tests.support.methods import METHODS, answers_values

FEATURES = 64


class Kernel(Head):
    """s_ic = sum_j x_i . x_j w_jc: linear in the label weights."""

    def score(self, episode: Episode) -> Tensor:
        return episode.x @ episode.x.mT @ episode.w


def features(seed: int = 0, batch: int = 1, **options: Any) -> Episode:
    """Episodes of clusters of FEATURES numbers, in float64."""
    episode = episodes(batch, seed=seed, **options)[0]
    x = torch.nn.functional.normalize(episode.x.flatten(2).double(), dim=-1)
    return episode.replace(x=x, w=episode.w.double(), relabeled=False)


def without(episode: Episode, gone: set[int], learner: Learner, query: int, answer: int) -> float:
    """p of the answer in an episode from which nodes were cut out, not masked; a guess where no
    label is left.
    """
    keep = [i for i in range(episode.x.shape[1]) if i not in gone]
    k = sum(i < episode.n_support for i in keep)
    q = sum(episode.n_support <= i < episode.query.stop for i in keep)
    if not k:
        return 1 / episode.way
    rest = Episode(episode.x[:, keep], episode.w[:, keep], k, q)
    return learner.score(rest)[0, keep.index(query)].softmax(-1)[answer].item()


@cache
def trained(name: str) -> Learner:
    """Learners of 3-way episodes of features that answer above chance."""
    torch.manual_seed(0)
    pipeline = {
        "protonet": lambda: Pipeline(head=ProtoNet()),
        "matchingnet": lambda: Pipeline(head=MatchingNet(FEATURES)),
        "soft_kmeans": lambda: Pipeline(head=ProtoNet(), refine=SoftKmeans()),
        "message_passing": lambda: Pipeline(
            graph=Convolutions(FEATURES, layers=2), head=ProtoNet()
        ),
        "gnn": lambda: Pipeline(head=GNN(FEATURES, way=3, hidden=8)),
    }[name]()
    pipeline.double()
    if name == "gnn":
        adam = torch.optim.Adam(pipeline.parameters(), 0.01)
        for step in range(40):
            e, target = episodes(4, shot=5, query=1, unlabeled=1, seed=1000 + step)
            x = torch.nn.functional.normalize(e.x.flatten(2).double(), dim=-1)
            loss = pipeline.loss(e.replace(x=x, w=e.w.double(), relabeled=False), target)
            adam.zero_grad()
            loss.backward()
            adam.step()
    return pipeline.eval()


GRAPHS = ("message_passing", "gnn")
ALL = ("protonet", "matchingnet", "soft_kmeans", *GRAPHS)


def test_gradient_of_a_linear_head_in_closed_form() -> None:
    """d log-odds / d w_ic is K_qi for the answer c, less K_qi softmax over the others."""
    episode = features(way=3)
    question = ask(Pipeline(head=Kernel()), episode, 2)
    graph, a = question.graph, question.answer
    kernel = (graph.x @ graph.x.mT)[0, question.query]
    others = (kernel @ graph.w[0]).index_fill(0, torch.tensor(a), float("-inf")).softmax(0)
    slope = torch.nn.functional.one_hot(torch.tensor(a), 3) - others
    expected = (graph.w[0] * slope * kernel[:, None]).sum(-1)
    support = slice(0, graph.n_support)
    assert torch.allclose(gradient(question)[support], expected[support])


def test_gradient_of_two_linear_scores_is_complete() -> None:
    episode = features(way=2)
    question = ask(Pipeline(head=Kernel()), episode, 1)
    assert torch.allclose(gradient(question).sum(), question.log_odds(question.graph)[0])


def test_gradient_of_attention_is_each_nodes_share() -> None:
    """log-odds = log sum_answer a - log sum_others a: a node has its share of its side's
    attention.
    """
    question = ask(trained("matchingnet"), features(shot=3), 4)
    graph = question.graph
    x = torch.nn.functional.normalize(graph.x[0], dim=-1)
    a = (10 * x[: graph.n_support] @ x[question.query]).exp()
    side = graph.w[0, : graph.n_support, question.answer] > 0
    expected = torch.where(side, a / a[side].sum(), -a / a[~side].sum())
    assert torch.allclose(gradient(question)[: graph.n_support], expected)


def test_gradient_of_class_means_sums_to_zero_in_each_class() -> None:
    question = ask(trained("protonet"), features(shot=4), 0)
    by_class = question.graph.w[0].mT @ gradient(question)
    assert gradient(question).abs().max() > 1e-3 and by_class.abs().max() < 1e-12


@pytest.mark.parametrize(
    ("slot", "name"), [("head", "gnn"), ("adapt", "maml"), ("head", "rfs"), ("head", "feat")]
)
def test_gradient_agrees_with_finite_differences(slot: str, name: str) -> None:
    """Through an inner loop and through a fitted classifier too."""
    episode, _ = episodes(1, shot=2, query=1, unlabeled=1)
    episode = episode.to(dtype=torch.float64)
    question = ask(around(slot, name).double(), episode, 1)
    graph, found, h = question.graph, gradient(question), 1e-4
    for i in (0, 3):
        change = torch.zeros_like(graph.w)
        change[0, i] = h * graph.w[0, i]
        up, down = (
            question.log_odds(graph.replace(w=graph.w + s * change, relabeled=False))
            for s in (1, -1)
        )
        assert float(found[i]) == pytest.approx((up - down).item() / (2 * h), rel=2e-3, abs=1e-6)


def test_gradient_of_the_pool_agrees_with_finite_differences() -> None:
    """Along x_i - mean of x."""
    question = ask(trained("message_passing"), features(), 0)
    graph, found, h = question.graph, gradient(question), 1e-5
    i = graph.unlabeled.start
    step = torch.zeros_like(graph.x)
    step[0, i] = h * (graph.x[0, i] - graph.x[0].mean(0))
    up, down = (question.log_odds(graph.replace(x=graph.x + s * step)) for s in (1, -1))
    assert (
        float(found[i]) == pytest.approx((up - down).item() / (2 * h), rel=1e-5)
        and abs(float(found[i])) > 1e-4
    )


def test_no_gradient_where_none_reaches_the_labels() -> None:
    found = explain(Pipeline(head=NearestNeighbor()), features())
    assert found.gradient is None and found.edges is None and found.leave_one_out.abs().max() > 0


@pytest.mark.parametrize("name", ["protonet", "soft_kmeans", "message_passing"])
def test_leave_one_out_equals_a_loop(name: str) -> None:
    learner, episode = trained(name), features(query=1, shot=2)
    alone = episode.n_support + 1  # the query that is asked about
    question = ask(learner, episode, 1)
    others = set() if learner.transductive else set(range(*episode.query.indices(99))) - {alone}
    everything = without(episode, others, learner, alone, question.answer)
    found = leave_one_out(question)
    for v in question.nodes.tolist():
        p = without(episode, {int(question.origin[v]), *others}, learner, alone, question.answer)
        assert float(found[v]) == pytest.approx(everything - p, abs=1e-9)
    assert found.abs().max() > 1e-3 and found[question.query] == 0


def test_curves_equal_a_loop() -> None:
    learner, episode = trained("soft_kmeans"), features(query=1, unlabeled=1)
    question = ask(learner, episode, 0)
    at, others = episode.n_support, {episode.n_support + 1, episode.n_support + 2}
    order = random_orders(question, 1)[0]
    nodes = [int(question.origin[v]) for v in order]
    deleted, inserted = (
        deletion_curve(question, order).tolist(),
        insertion_curve(question, order).tolist(),
    )
    assert len(deleted) == len(nodes) + 1 == len(inserted)
    for i in range(len(nodes) + 1):
        gone = without(episode, others | set(nodes[:i]), learner, at, question.answer)
        kept = without(episode, others | set(nodes[i:]), learner, at, question.answer)
        assert deleted[i] == pytest.approx(gone, abs=1e-9) and inserted[i] == pytest.approx(
            kept, abs=1e-9
        )


def test_shapley_values_are_those_of_all_orders(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over all 5! orders they are the exact values, from the formula over all subsets."""
    episode = features(way=2, shot=2, query=1, unlabeled=0).parts()
    question = ask(trained("protonet"), episode, 0)
    nodes = question.nodes.tolist()
    monkeypatch.setattr(
        "graphfsl.apply.explain.attributions.random_orders",
        lambda *_: torch.tensor(list(itertools.permutations(nodes))),
    )
    found, m = shapley(question), len(nodes)

    def p(there: set[int]) -> float:
        gone = {*nodes, question.query} - there - {question.query}
        return without(question.graph, gone, question.learner, question.query, question.answer)

    for v in nodes:
        rest = [u for u in nodes if u != v]
        value = 0.0
        for size in range(m):
            sets = [set(s) for s in itertools.combinations(rest, size)]
            value += sum(p(s | {v}) - p(s) for s in sets) / len(sets) / m
        assert float(found[v]) == pytest.approx(value, abs=1e-9)


@pytest.mark.parametrize("name", ALL)
def test_contributions_lead_from_a_guess_to_the_answer(name: str) -> None:
    found = explain(trained(name), features(query=1), 1, orders=2)
    assert float(found.nodes.sum()) == pytest.approx(found.probability - 1 / 3, abs=1e-9)


@cache
def judged(name: str) -> tuple[Tensor, Tensor, float]:
    """Areas (episodes, 2) of explanations and of shuffled ones, and the accuracy of the explained
    answers.
    """
    own: list[Any] = []
    shuffled: list[Any] = []
    right: list[Any] = []
    for seed in range(5):
        target = episodes(1, shot=5, query=1, unlabeled=1, seed=seed)[1]
        found = explain(
            trained(name), features(seed, shot=5, query=1, unlabeled=1), seed % 3, orders=6
        )
        draw = torch.Generator().manual_seed(seed)
        for order, out in (
            (found.order, own),
            (found.order[torch.randperm(len(found.order), generator=draw)], shuffled),
        ):
            out.append(faithfulness(found.question, order, orders=6).areas)
        right.append(float(found.question.answer == target.query[0, seed % 3]))
    return torch.tensor(own), torch.tensor(shuffled), sum(right) / len(right)


@pytest.mark.parametrize("name", ALL)
def test_explanations_are_faithful(name: str) -> None:
    """By deletion and by insertion, in every episode; the answers themselves are above chance."""
    own, _, accuracy = judged(name)
    assert accuracy > 0.5
    assert own.min() > 0 and own.mean(0).min() > 0.05


@pytest.mark.parametrize("name", ALL)
def test_shuffled_explanations_are_not_faithful(name: str) -> None:
    own, shuffled, _ = judged(name)
    assert (shuffled.mean(0) < 0.5 * own.mean(0)).all() and shuffled.min() < 0


@pytest.mark.parametrize("name", [*GRAPHS, "augmented"])
def test_edge_contributions_agree_with_finite_differences(name: str) -> None:
    """The messages of one edge, in all layers, scaled by a hook of our own."""
    # synthetic nodes stand behind the support: those behind them are seen further on
    if name == "augmented":
        learner: Learner = around("augment", "prototype_vae", graph="message_passing").double()
        episode = episodes(1, query=1)[0].to(dtype=torch.float64)
    else:
        learner, episode = trained(name), features(query=1)
    question = ask(learner, episode, 1)
    found, h = edge_gradient(question), 1e-5
    assert found is not None and found.shape == (len(question.origin),) * 2
    g, first = question.graph, question.graph.n_support
    added = 0
    if name == "augmented":
        torch.manual_seed(0)
        added = learner.augment[0](g).n_support - first  # type: ignore[union-attr, index, operator]
        assert added > 0
    pairs = [(0, question.query), (first + 2, question.query), (g.unlabeled.start, 1)]
    for j, i in pairs:
        seen = torch.tensor([j + added * (j >= first), i + added * (i >= first)])
        up, down = (scaled(question, seen, 1 + s * h) for s in (1, -1))
        expected = (up - down) / (2 * h)
        assert float(found[i, j]) == pytest.approx(expected, rel=1e-3, abs=1e-7)
    assert found.abs().max() > 1e-4


def scaled(question: Question, edge: Tensor, factor: float) -> float:
    """The log-odds with the messages of an edge (source, target) multiplied."""
    hooks, where = [], {}
    for layer in (m for m in question.learner.modules() if isinstance(m, MessagePassing)):

        def remember(layer: Any, inputs: Any) -> None:
            where[layer] = (inputs[0] == edge[:, None]).all(0)

        def scale(layer: Any, inputs: Any, out: Tensor) -> Tensor:
            hit = (
                where[layer].view(-1, *(1,) * (out.ndim - 1))
                if out.shape[0] == len(where[layer])
                else where[layer]
            )
            return torch.where(hit, factor * out, out)

        hooks += [
            layer.register_propagate_forward_pre_hook(remember),
            layer.register_message_forward_hook(scale),
        ]
    with torch.no_grad():
        odds = float(question.log_odds(question.graph))
    for hook in hooks:
        hook.remove()
    assert all(int(w.sum()) == 1 for w in where.values())
    return odds


@pytest.mark.parametrize("name", GRAPHS)
def test_masks_are_gone_afterwards(name: str) -> None:
    learner, episode = trained(name), features(query=1)
    before = learner(episode)
    explain(learner, episode, orders=1)
    assert torch.equal(learner(episode), before)
    for layer in (m for m in learner.modules() if isinstance(m, MessagePassing)):
        assert (
            not layer.explain
            and layer._edge_mask is None
            and not layer._propagate_forward_pre_hooks
        )


def test_training_mode_comes_back_and_nothing_random_is_used() -> None:
    learner = around("augment", "prototype_vae").train()
    episode, _ = episodes(1, query=1)
    state = torch.get_rng_state()
    first = explain(learner, episode, orders=2)
    torch.rand(1)
    assert learner.training and torch.equal(explain(learner, episode, orders=2).nodes, first.nodes)
    torch.set_rng_state(state)
    explain(learner, episode, orders=1)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(("slot", "name"), METHODS)
def test_explains_every_method(slot: str, name: str) -> None:
    if answers_values(slot, name):
        pytest.skip("an explanation is of a class")
    episode, _ = episodes(1, query=1, unlabeled=1)
    learner = around(slot, name)
    found = explain(learner, episode, 1, orders=2)
    question, g = found.question, len(found.question.origin)
    assert found.nodes.shape == found.leave_one_out.shape == (g,)
    for values in (found.nodes, found.leave_one_out, found.gradient, found.edges):
        assert values is None or bool(values.isfinite().all())
    with torch.no_grad():
        answer = learner.eval()(episode)[0, 1].double().softmax(-1)
    assert found.probability == pytest.approx(float(answer.max()), abs=1e-4)
    assert float(found.nodes.sum()) == pytest.approx(found.probability - 1 / 3, abs=1e-4)
    assert sorted(found.order.tolist()) == question.nodes.tolist()
    assert question.query not in question.nodes.tolist()


def test_other_queries_speak_only_where_queries_are_answered_together() -> None:
    episode = features()
    alone, together = (
        explain(trained("protonet"), episode, 2),
        explain(trained("message_passing"), episode, 2),
    )
    assert alone.question.origin.tolist() == [*range(6), 8, *range(12, 18)]
    assert together.question.origin.tolist() == list(range(18)) and together.question.query == 8
    assert together.nodes[[6, 7, 9]].abs().min() > 0


def _second(episode: Episode) -> Episode:
    return dataclasses.replace(episode, x=episode.x[1:], w=episode.w[1:], mask=episode.mask[1:])


@pytest.mark.parametrize("name", ALL)
def test_padding_and_company_change_nothing(name: str) -> None:
    """Task 1 of a batch with padded nodes is explained as it is alone without them."""
    learner, episode = trained(name), features(batch=2)
    alone = explain(learner, _second(episode), orders=2)

    def pad(t: Tensor, fill: float) -> Tensor:
        return torch.cat([t, torch.full_like(t[:, :2], fill)], 1)

    mask = torch.cat([episode.mask, torch.zeros(2, 2, dtype=torch.bool)], 1)
    padded = Episode(pad(episode.x, 3.0), pad(episode.w, 0.0), 6, 6, mask, relabeled=False)
    found = explain(learner, padded, task=1, orders=2)
    assert found.question.nodes.tolist() == alone.question.nodes.tolist()
    n = len(alone.nodes)
    for kind in ("nodes", "leave_one_out", "gradient"):
        assert torch.allclose(getattr(found, kind)[:n], getattr(alone, kind), atol=1e-9)
        assert not getattr(found, kind)[n:].any()
    if alone.edges is not None and found.edges is not None:
        assert torch.allclose(found.edges[:n, :n], alone.edges, atol=1e-9)


def test_hidden_labels_do_not_enter() -> None:
    """The labels of unlabeled and query nodes are altered in the draw itself; every number
    stays.
    """
    x = torch.randn(4, 1, 16).add(0.7 * torch.randn(4, 20, 16)).flatten(0, 1)
    split = Split(x, torch.arange(4).repeat_interleave(20), tuple("abcd"), "clusters/test")
    loader = Episodes(split, Setting(way=4, shot=2, query=2, unlabeled=2))
    drawn = loader.sampler.draw([0])
    label = drawn.label.copy()
    label[:, drawn.n_support :] = (label[:, drawn.n_support :] + 1) % 4
    learner = Pipeline(graph=Convolutions(16), head=ProtoNet(), refine=SoftKmeans())
    true, altered = (loader.assemble(d) for d in (drawn, dataclasses.replace(drawn, label=label)))
    assert not torch.equal(true[1].query, altered[1].query) and not torch.equal(
        true[1].unlabeled, altered[1].unlabeled
    )
    one, two = (explain(learner, e, 3, orders=2) for e in (true[0], altered[0]))
    for kind in ("nodes", "leave_one_out", "gradient", "edges"):
        assert torch.equal(getattr(one, kind), getattr(two, kind))


def test_a_query_that_is_not_there_is_named() -> None:
    for query, task in ((6, 0), (-1, 0), (0, 1)):
        with pytest.raises(InputError, match="choose a query from 0 to 5 and a task from 0 to 0"):
            ask(trained("protonet"), features(), query, task)


def test_networkx_and_the_picture_show_contributions() -> None:
    episode = features()
    graph = to_networkx(episode, similarity(episode.x), 0, trained("gnn").score(episode))
    plain = draw(graph, "t")
    found = explain(trained("gnn"), episode, 2, orders=2)
    add_contributions(graph, found)
    assert graph.graph["explained"] == 8
    assert [v for v in graph if "contribution" not in graph.nodes[v]] == [6, 7, 8, 9, 10, 11]
    place = found.question.origin.tolist()
    for v in (0, 6 + 1, 12):
        assert graph.nodes[place[v]]["contribution"] == float(found.nodes[v])
    assert graph.edges[3, 8]["contribution"] == float(found.edges[6, 3])
    assert graph.edges[8, 14]["contribution"] == float(found.edges[9, 6])
    assert "contribution" not in graph.edges[3, 9]
    svg = draw(graph, "t")
    assert svg == draw(graph, "t") != plain
    for words in ("the explained query", "for its answer", "against"):
        assert f"<!-- {words} -->" in svg and f"<!-- {words} -->" not in plain


def test_the_picture_numbers_its_nodes_and_names_what_is_there() -> None:
    episode = features()
    names = ["wren", "jay", "owl", "auk", "tit"][: episode.way]
    graph = to_networkx(episode, similarity(episode.x), 0, trained("gnn").score(episode))
    told = re.findall(r"<!-- (.*?) -->", draw(graph, classes=names))
    assert set(map(str, graph.nodes)) <= set(told) and set(names) <= set(told)
    assert "wrong prediction" not in told, "no truth is known, so nothing can be wrong"
    support = graph.subgraph(range(episode.n_support)).copy()
    told = re.findall(r"<!-- (.*?) -->", draw(support, classes=names))
    assert "support" in told and not {"query", "unlabeled"} & set(told)


EXPERIMENT = {
    "data": {"name": "arrays", "root": ""},
    "learner": {
        "encoder": "pixels",
        "graph": {"name": "message_passing", "conv": "SimpleConv"},
        "head": "protonet",
    },
    "episode": {"way": 3, "shot": 2, "query": 2},
    "trainer": {"device": "cpu", "steps": 1, "val_every": 1, "val_episodes": 2},
    "evaluation": {"episodes": 4},
}


def test_images_are_those_that_the_learner_sees_and_not_those_of_the_split() -> None:
    stored = torch.randint(0, 256, (4, 3, 5, 5), dtype=torch.uint8)
    transform = Transform([0.4, 0.5, 0.6], [0.2, 0.3, 0.25])
    w = torch.eye(2).repeat(2, 1)[None]
    plain = Episode(transform(stored)[None], w, 2, 2)
    assert torch.equal(seen_images(plain, transform), stored)
    mirrored = plain.replace(x=plain.x.flip(-1))
    assert torch.equal(seen_images(mirrored, transform), stored.flip(-1))
    assert seen_images(Episode(torch.rand(1, 4, 6), w, 2, 2), transform) is None


def test_the_command_writes_numbers_a_picture_and_a_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed, split in enumerate(("train", "val", "test")):
        write_split(tmp_path / f"{split}.npz", seed, classes=4, each=6)
    settings = Experiment.of({**EXPERIMENT, "data": {"name": "arrays", "root": str(tmp_path)}})
    progress.run(settings, tmp_path / "run", Console(quiet=True))

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(
            sys, "argv", ["graphfsl", "explain", str(tmp_path / "run"), *map(str, words)]
        )
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return int(stop.value.code or 0), *capsys.readouterr()

    code, out, _ = call("episode.unlabeled=1", "--episode", 2, "--query", 3)
    files = [Path(line) for line in out.split()]
    assert code == 0 and [f.name for f in files] == [
        "explanation.json",
        "explanation.svg",
        "explanation.html",
    ]
    assert files[0].parent.parent == tmp_path / "run" / "explanations"
    assert files[0].parent.name.startswith("episode-2-query-3-"), "named by its overrides too"
    facts, page = json.loads(files[0].read_text()), files[2].read_text()
    found = [n["contribution"] for n in facts["nodes"]]
    assert found == sorted(found, reverse=True) and sum(found) == pytest.approx(
        facts["probability"] - 1 / 3, abs=1e-6
    )
    assert [n["role"] for n in sorted(facts["nodes"], key=lambda n: n["node"])] == [
        *["support"] * 6, *["query"] * 5, *["unlabeled"] * 3
    ]  # fmt: skip
    assert (
        len({n["sample"] for n in facts["nodes"]} | {facts["sample"]}) == 15 and facts["node"] == 9
    )
    assert (
        len(facts["deletion"]) == len(facts["insertion"]) == 15 == len(facts["random_deletion"][0])
    )
    assert (
        facts["deletion"][0]
        == facts["insertion"][-1]
        == pytest.approx(facts["probability"], abs=1e-6)
    )
    assert facts["edges"] and {e["to"] for e in facts["edges"]} <= set(range(15))
    assert files[1].read_text().startswith("<?xml") and page.count("image/svg+xml") == 3
    other = facts["counterfactual"]
    assert other["nodes"] and other["answer"] != facts["answer"] and "would be" in page
    shown = 1 + sum(c != 0 for c in found) + len(other["nodes"])
    assert page.count("image/png") == shown > 2
    assert "http-equiv" in page and page.count("src=") == page.count('src="data:image/')
    assert "episode.unlabeled=1 --episode 2 --query 3" in page
    assert (
        "maps are of a learner" in facts["where"]["left_out"] or facts["where"]["left_out"] in page
    )

    code, out, error = call("--query", 6, "--out", tmp_path / "x")
    assert code == 2 and "choose a query from 0 to 5" in error and error.count("\n") == 1
    assert not (tmp_path / "x").exists()
