"""Gated propagation: its closed forms, and what its gates have learned of pools."""

from __future__ import annotations

import copy
import math
from typing import cast

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from graphfsl.core.episode import Episode
from graphfsl.core.pipeline import Pipeline
from graphfsl.functional.affinity import cosine_power, pairs
from graphfsl.functional.base_pools import base_pools
from graphfsl.functional.centring import centred
from graphfsl.functional.knn import nearest
from graphfsl.functional.propagation import symmetric
from graphfsl.functional.task_pool_graph import STATISTICS, TaskPoolGraph
from graphfsl.io.errors import InputError
from graphfsl.methods.heads.protonet import ProtoNet
from graphfsl.methods.refine.gated_propagation import Gate, GatedPropagation

CLASSES, EACH, DIM = 60, 60, 32
LOG_SIZE = 17  # the statistic that is the logarithm of a pool's size
OF_THE_POOL = [0, 1, 6, 7, 8, 13]  # those that are places in it, or deviations from its mean


def classes(seed: int, count: int = CLASSES, each: int = EACH) -> tuple[Tensor, Tensor]:
    """Nodes around class means in 32 dimensions, and their labels."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.arange(count).repeat_interleave(each)
    means = 0.5 * torch.randn(count, DIM, generator=g)
    return means[labels] + 0.7 * torch.randn(len(labels), DIM, generator=g), labels


@pytest.fixture(scope="module")
def fitted() -> GatedPropagation:
    torch.manual_seed(0)
    refine = GatedPropagation(5)
    refine.fit_base(*classes(seed=1))
    return refine


def pools(
    shares: list[float], size: int, shot: int = 1, count: int = 40, each: int = EACH
) -> tuple[Episode, Tensor]:
    """Episodes of classes that no gate has seen, and the labels of their queries.

    Args:
        shares: of five known classes and of foreign ones in the pool.
        size: of the pool.
        shot: labeled nodes of a class.
        count: how many episodes.
        each: nodes of a class that there are.
    """
    torch.manual_seed(3)
    x, labels = classes(seed=2, each=each)
    drawn = base_pools(labels, 5, shot, 10, size, torch.tensor([shares]).expand(count, -1))
    ids = torch.cat([drawn.support, drawn.query, drawn.pool], 1)
    w = torch.zeros(count, ids.shape[1], 5)
    w[:, : 5 * shot] = F.one_hot(torch.arange(5).repeat_interleave(shot), 5).float()
    mask = torch.ones(ids.shape, dtype=torch.bool)
    mask[:, drawn.support.shape[1] + drawn.query.shape[1] :] = drawn.real
    truth = torch.arange(5).repeat_interleave(10).expand(count, -1)
    return Episode(x[ids], w, 5 * shot, 50, mask, relabeled=False), truth


def accuracy(refine: GatedPropagation | None, episode: Episode, truth: Tensor) -> float:
    """In percent."""
    scores = Pipeline(head=ProtoNet("cosine"), refine=refine).eval()(episode)
    return 100 * float((scores.argmax(-1) == truth).float().mean())


def statistics(refine: GatedPropagation, episode: Episode) -> Tensor:
    """Of the first round, (B, U, STATISTICS)."""
    graph = episode.parts(query=False)
    found = TaskPoolGraph.of(graph.x, graph.w[:, graph.support], graph.mask, refine.k, refine.alpha)
    return found.read(torch.zeros_like(graph.w[:, graph.unlabeled])).statistics


def test_a_gate_that_believes_every_node_gives_sharpened_propagation() -> None:
    """One round, g = 1, no balancing, a = 2: W_jc = P_jc^2 / sum_c P_jc^2 of the closed form."""
    refine = GatedPropagation(5, rounds=1).double()
    gate = cast(Gate, refine.gates[0])
    gate.network[-1].bias.fill_(40.0)
    gate.exponents.copy_(torch.tensor([2.0, 0.0, 0.0, 0.5]))
    episode = pools([1.0] * 5, 30, shot=2, count=3)[0].to(dtype=torch.float64).parts(query=False)

    s = symmetric(nearest(cosine_power(centred(episode.x, episode.mask)) * pairs(episode.mask), 10))
    f = torch.linalg.inv(torch.eye(s.shape[-1]).double() - 0.9 * s) @ episode.w
    p = f[:, episode.n_support :] / f[:, episode.n_support :].sum(-1, keepdim=True)
    right = p.square() / p.square().sum(-1, keepdim=True)
    torch.testing.assert_close(refine.weigh(episode)[1], right)


def test_class_cosines_are_those_of_class_means() -> None:
    episode = pools([1.0] * 5, 20, count=2)[0].to(dtype=torch.float64).parts(query=False)
    graph = TaskPoolGraph.of(episode.x, episode.w[:, :5], episode.mask, 10, 0.9)
    w = torch.rand(2, 25, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    z = F.normalize(episode.x, dim=-1)
    means = F.normalize(w.mT @ z, dim=-1)
    torch.testing.assert_close(graph.class_cosines(graph.cosines, w), z @ means.mT)


@pytest.mark.parametrize("size", [1, 4, 10, 11, 20])
def test_nearness_is_the_mean_affinity_to_the_nearest_others(size: int) -> None:
    """In a pool of ten nodes or fewer, a node of it has one neighbour less than the support has."""
    episode = pools([1.0] * 5, size, count=2)[0].to(dtype=torch.float64).parts(query=False)
    graph = TaskPoolGraph.of(episode.x, episode.w[:, :5], episode.mask, 10, 0.9)
    v = centred(episode.x, episode.mask)
    for b in range(2):
        for i in range(5 + size):
            near = [max(0.0, float(v[b, i] @ v[b, j])) ** 3 for j in range(5, 5 + size) if j != i]
            nearest_ones = sorted(near, reverse=True)[:10]
            right = sum(nearest_ones) / max(len(nearest_ones), 1)
            assert float(graph.nearness[b, i]) == pytest.approx(right)


def test_balancing_holds_back_a_class_that_takes_too_much() -> None:
    """With b = 1 the logarithm of the share that a class takes is halved against the others."""
    gate = Gate(first=True)
    gate.network[-1].bias.fill_(40.0)
    gate.exponents.copy_(torch.tensor([1.0, 0.0, 0.0, 1.0]))
    episode = pools([4.0, 1.0, 1.0, 1.0, 1.0], 40, count=1)[0].parts(query=False)
    graph = TaskPoolGraph.of(episode.x, episode.w[:, :5], episode.mask, 10, 0.9)
    reading = graph.read(torch.zeros_like(episode.w[:, 5:]))
    free = gate(reading, graph.real).sum(1)
    gate.exponents[2] = 1.0
    held = gate(reading, graph.real).sum(1)
    assert held.max() < free.max() and held.min() > free.min()
    torch.testing.assert_close(held.sum(), free.sum())


def test_places_and_deviations_do_not_depend_on_the_size_of_a_pool() -> None:
    """Ten times as many nodes of the same classes move their distribution by sampling alone."""
    refine = GatedPropagation(5)
    small = statistics(refine, pools([1.0] * 5, 60, shot=2, each=300)[0])
    large = statistics(refine, pools([1.0] * 5, 600, shot=2, each=300)[0])
    assert small.shape[-1] == large.shape[-1] == STATISTICS
    growth = large[0, 0, LOG_SIZE] - small[0, 0, LOG_SIZE]
    assert float(growth) == pytest.approx(math.log(10), abs=1e-5)
    few, many = (t[..., OF_THE_POOL].flatten(0, 1) for t in (small, large))
    torch.testing.assert_close(many.mean(0), few.mean(0), atol=1e-5, rtol=0)
    torch.testing.assert_close(many.std(0), few.std(0), atol=0.01, rtol=0)


def test_a_gate_knows_how_often_it_is_right_in_small_and_in_large_pools(
    fitted: GatedPropagation,
) -> None:
    for size in (30, 250):
        episode = pools([1.0] * 5, size)[0].parts(query=False)
        graph = TaskPoolGraph.of(episode.x, episode.w[:, :5], episode.mask, 10, 0.9)
        reading = graph.read(torch.zeros_like(episode.w[:, 5:]))
        sure = cast(Gate, fitted.gates[0]).logits(reading.statistics)[..., 1].sigmoid()
        column = torch.arange(5).repeat_interleave(size // 5).expand_as(reading.best)
        right = (reading.best == column).float()
        assert abs(float(sure.mean() - right.mean())) < 0.1, (size, sure.mean(), right.mean())


def test_the_order_of_pool_and_classes_does_not_matter(fitted: GatedPropagation) -> None:
    refine = copy.deepcopy(fitted).double()
    episode = pools([1.0] * 5 + [2.0], 40, count=3)[0].to(dtype=torch.float64)
    head = ProtoNet("cosine").double()
    scores = refine(episode, head.score(episode), head)
    k, columns = episode.unlabeled.start, torch.tensor([3, 0, 4, 1, 2])
    g = torch.Generator().manual_seed(0)
    order = torch.cat([torch.arange(k), k + torch.randperm(40, generator=g)])
    x, w, mask = (t[:, order] for t in (episode.x, episode.w[..., columns], episode.mask))
    turned = episode.replace(x=x, w=w, mask=mask, relabeled=False)
    found = refine(turned, head.score(turned), head)
    torch.testing.assert_close(found, scores[:, order][..., columns], atol=1e-6, rtol=1e-6)


def test_a_pool_helps_with_foreigners_and_without(fitted: GatedPropagation) -> None:
    for shares, gain in ([1.0] * 5, 3), ([1.0] * 5 + [1.0] * 5, 1), ([4.0, 2.0, 1.0, 1.0, 1.0], 2):
        episode, truth = pools(shares, 30 * len(shares))
        plain, found = accuracy(None, episode, truth), accuracy(fitted, episode, truth)
        assert found > plain + gain, (shares, plain, found)


@pytest.mark.parametrize(("shot", "most"), [(1, 2.0), (5, 1.5)])
def test_a_pool_of_foreigners_alone_costs_little(
    fitted: GatedPropagation, shot: int, most: float
) -> None:
    episode, truth = pools([0.0] * 5 + [1.0] * 5, 100, shot)
    plain, found = accuracy(None, episode, truth), accuracy(fitted, episode, truth)
    believed = accuracy(GatedPropagation(5), episode, truth)
    assert found > plain - most and believed < plain - 2 * most, (plain, found, believed)


def test_clones_of_the_support_hardly_move_class_means(fitted: GatedPropagation) -> None:
    """They say nothing new. What queries read of the graph is nearer to single nodes than a mean
    is, and costs a little more.
    """
    episode, truth = pools([1.0] * 5, 50, shot=2)
    clones = episode.x[:, episode.support].repeat(1, 5, 1)
    x = torch.cat([episode.x[:, : episode.unlabeled.start], clones], 1)
    episode = episode.replace(x=x, relabeled=False)
    plain, by_means = accuracy(None, episode, truth), copy.deepcopy(fitted)
    by_means.trust = 0.0
    assert abs(accuracy(by_means, episode, truth) - plain) < 0.5
    assert abs(accuracy(fitted, episode, truth) - plain) < 3


def test_a_pool_that_no_gate_believes_leaves_the_head() -> None:
    refine = GatedPropagation(5)
    for gate in refine.gates:
        cast(Gate, gate).network[-1].bias.fill_(-100.0)
    episode = pools([1.0] * 5, 20, count=2)[0]
    head = ProtoNet("cosine")
    scores = head.score(episode)
    torch.testing.assert_close(refine(episode, scores, head), scores)


def test_the_scale_of_the_head_scales_the_answer(fitted: GatedPropagation) -> None:
    episode = pools([1.0] * 5 + [1.0], 60, count=2)[0]
    found = []
    for head in (ProtoNet("cosine", scale=1.0), ProtoNet("cosine", scale=20.0)):
        scores = fitted(episode, head.score(episode), head)
        found.append(scores - scores.mean(-1, keepdim=True))
    torch.testing.assert_close(20 * found[0], found[1], atol=1e-3, rtol=1e-3)


def test_what_was_learned_follows_the_seed_and_is_saved() -> None:
    x, labels = classes(seed=1, count=12, each=12)
    made = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        made.append(GatedPropagation(5, rounds=1))
        made[-1].fit_base(x, labels)
    first, again, other = (refine.state_dict() for refine in made)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["gates.0.exponents"], other["gates.0.exponents"])
    assert {"gates.0.mean", "gates.0.deviation", "gates.0.least", "gates.0.most"} <= first.keys()
    assert not any(p.requires_grad for refine in made for p in refine.parameters())


def test_base_classes_must_be_finite_and_large_enough() -> None:
    x, labels = classes(seed=1, count=4, each=4)
    broken = x.clone()
    broken[3, 2] = float("nan")
    with pytest.raises(InputError, match="finite features"):
        GatedPropagation(5).fit_base(broken, labels)
    for features, y in ((x[:6], labels[:6]), (x, torch.arange(16) // 2)):
        with pytest.raises(InputError, match="three base classes or more"):
            GatedPropagation(5).fit_base(features, y)
    GatedPropagation(5, rounds=1).fit_base(x, labels)  # fewer than its way


def test_a_task_of_one_class_is_answered() -> None:
    episode = Episode(torch.randn(2, 9, DIM), F.pad(torch.ones(2, 2, 1), (0, 0, 0, 7)), 2, 2)
    refined = Pipeline(None, head=ProtoNet(), refine=GatedPropagation(1))
    with torch.no_grad():
        assert refined.eval()(episode).isfinite().all()
