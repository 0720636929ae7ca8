"""BD-CSPN against a loop and easyfsl."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from easyfsl import methods as easyfsl
from torch import Tensor
from torch.nn import functional as F

from graphfsl.core.episode import Episode
from graphfsl.io.errors import InputError
from graphfsl.methods.refine.bd_cspn import BDCSPN, Shifted
from tests.support.transductive import COUNTS, batch, means, parts, refined, task, unit


@COUNTS
@pytest.mark.parametrize("most", [0, 2, 8, None])
@pytest.mark.parametrize("over", ["nodes", "classes"])
def test_bd_cspn_equals_a_loop(counts: tuple[int, ...], most: int | None, over: str) -> None:
    episode, _ = task(counts)
    s, q, y = parts(episode)
    s, q = unit(s), unit(q)
    q = q + (s.mean(0) - q.mean(0))
    p, eps = means(s, y), 3.0

    def cosines(x: Tensor) -> list[float]:
        return [float(F.cosine_similarity(x, c, 0)) for c in p]

    near = [max(range(3), key=cosines(x).__getitem__) for x in q]
    sure = [math.exp(max(cosines(x))) / sum(map(math.exp, cosines(x))) for x in q]
    rectified = []
    for c in range(3):
        joined = sorted((j for j in range(len(q)) if near[j] == c), key=lambda j: -sure[j])[:most]
        members = [s[i] for i in range(len(y)) if y[i] == c] + [q[j] for j in joined]
        weights = [math.exp(eps * cosines(x)[c]) for x in members]
        if over == "classes":
            weights = [
                w / sum(math.exp(eps * cos) for cos in cosines(x))
                for w, x in zip(weights, members, strict=True)
            ]
        rectified.append(sum(w * x for w, x in zip(weights, members, strict=True)) / sum(weights))
    expected = 10 * torch.stack(
        [torch.stack([F.cosine_similarity(x, r, 0) for r in rectified]) for x in q]
    )
    found = refined(BDCSPN(eps=eps, most=most, over=over), episode)
    torch.testing.assert_close(found[0, len(s) :], expected)
    assert torch.isfinite(found).all(), "a class without a query that is near keeps its support"


def test_what_is_asked_of_shifted_nodes_equals_a_loop_that_makes_them() -> None:
    """Also of a task with one query, which stays, of a node at zero, and beside padding."""
    episode = batch(task((4, 4, 4)), task((1, 0, 0), seed=1), task((2, 1, 0), seed=2))
    x = episode.x.clone()
    x[0, -1] = 0
    episode = episode.replace(x=x)
    g = torch.Generator().manual_seed(0)
    w = torch.rand(3, episode.query.stop, 2, generator=g, dtype=torch.float64)
    w = w * episode.mask.unsqueeze(-1)
    p = F.normalize(torch.randn(3, 2, 12, generator=g, dtype=torch.float64), dim=-1)
    shifted = Shifted.without_cross_class_bias(episode)
    found_means, found_cosines = shifted.means(w), shifted.cosines(p)
    for b in range(3):
        queries = [i for i in range(episode.n_support, x.shape[1]) if episode.mask[b, i]]
        nodes = {i: F.normalize(x[b, i], dim=0) for i in [*range(episode.n_support), *queries]}
        support_mean = sum(nodes[i] for i in range(episode.n_support)) / episode.n_support
        xi = support_mean - sum(nodes[i] for i in queries) / len(queries)
        for i in queries if len(queries) > 1 else []:
            nodes[i] = nodes[i] + xi
        for c in range(2):
            mean = sum(w[b, i, c] * node for i, node in nodes.items()) / w[b, :, c].sum()
            torch.testing.assert_close(found_means[b, c], mean, rtol=0, atol=1e-12)
            for i, node in nodes.items():
                cosine = node @ p[b, c] / node.norm()
                torch.testing.assert_close(found_cosines[b, i, c], cosine, rtol=0, atol=1e-12)


def test_a_query_that_is_moved_onto_zero_is_of_no_class() -> None:
    """Its length is rounding; divided by it, what is left of it would score without bound."""
    g = torch.Generator().manual_seed(0)
    v, u = torch.randn(2, 640, generator=g)
    x = torch.stack([v, -v, u, u])[None]
    episode = Episode(x, F.pad(torch.eye(2), (0, 0, 0, 2))[None], 2, 2, relabeled=False)
    shifted = Shifted.without_cross_class_bias(episode)
    assert shifted.cosines(F.normalize(x[:, :1], dim=-1))[0, 2:].abs().max() < 0.01


def test_one_shot_does_not_outweigh_the_queries_by_default() -> None:
    """A support node is its own prototype, at a cosine of 1; with eps 10 it weighs as much as
    dozens of queries.
    """
    g, y = torch.Generator().manual_seed(0), torch.arange(5).repeat(16)
    x = torch.randn(40, 5, 32, generator=g)[:, y] + 1.5 * torch.randn(40, 80, 32, generator=g)
    episode = Episode(
        x, F.pad(torch.eye(5), (0, 0, 0, 75)).expand(40, -1, -1), 5, 75, relabeled=False
    )

    def right(refiner: BDCSPN) -> float:
        return float((refined(refiner, episode)[:, 5:].argmax(-1) == y[5:]).double().mean())

    assert right(BDCSPN()) > right(BDCSPN(eps=10.0, most=None)) + 0.1


@pytest.mark.parametrize(
    "options", [{"eps": -1.0}, {"scale": 0.0}, {"most": -1}, {"over": "class"}], ids=str
)
def test_bd_cspn_refuses_what_is_no_option(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="bd_cspn"):
        BDCSPN(**options)


def test_a_query_far_from_all_classes_is_not_given_to_an_absent_one() -> None:
    """Its cosine with an absent class, at zero, would be the largest."""
    x = torch.tensor(
        [[1.0, 0.1], [0.1, 1], [1, 0.8], [0.9, 1], [1, 1.2], [-1, -0.8]], dtype=torch.float64
    )
    episode = Episode(
        x[None], F.pad(torch.eye(2), (0, 1, 0, 4)).double()[None], 2, 4, relabeled=False
    )
    two = episode.replace(w=episode.w[..., :2])
    torch.testing.assert_close(
        refined(BDCSPN(eps=1.0), episode)[..., :2], refined(BDCSPN(eps=1.0), two)
    )


def test_bd_cspn_rectifies_as_easyfsl_does_where_nothing_is_shifted() -> None:
    """With the support as queries xi is zero; easyfsl has eps 1 and a plain cosine."""
    episode, _ = task((3, 3, 3), shot=3)
    s, _, y = parts(episode)
    order = torch.randperm(len(s), generator=torch.Generator().manual_seed(0))
    s = unit(s)
    episode = episode.replace(x=torch.cat([s, s[order]])[None])
    theirs = easyfsl.BDCSPN(torch.nn.Identity())
    theirs.process_support_set(s, torch.tensor(y))
    ours = BDCSPN(eps=1.0, scale=1.0, most=None)
    torch.testing.assert_close(refined(ours, episode)[0, len(s) :], theirs(s[order]))
