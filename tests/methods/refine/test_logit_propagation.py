"""Scores spread over a graph, and Poisson learning."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from graphfsl.functional.centring import centred
from graphfsl.io.errors import InputError
from graphfsl.methods.heads.protonet import ProtoNet
from graphfsl.methods.refine.logit_propagation import LogitPropagation, connected
from graphfsl.testing import WAY
from tests.support.episodes import features
from tests.support.pool_refiners import accuracy, clusters, refined


def test_propagation_with_all_neighbours_equals_the_equation() -> None:
    """k = n and trust 0: F = (I - alpha S)^-1 Y on support and pool; a query is one more step from
    them.
    """
    episode = features(unlabeled=3, query=1)
    found = refined(LogitPropagation(k=99, trust=0.0, alpha=0.7), episode)
    s, q, u = episode.support, episode.query, episode.unlabeled
    keep = [*range(s.stop), *range(u.start, episode.x.shape[1])]
    mask = torch.ones(2, episode.x.shape[1], dtype=torch.bool)
    mask[:, q] = False
    v = centred(episode.x, mask)
    for b in range(2):
        z = v[b, keep]
        a = (z @ z.T).clamp_min(0) ** 3
        a = a - a.diag().diag()
        d = a.sum(-1)
        d = d.where(d > 0, 1)
        f = (
            torch.linalg.inv(torch.eye(len(z)).double() - 0.7 * a / (d[:, None] * d).sqrt())
            @ episode.w[b, keep]
        )
        torch.testing.assert_close(found[b, keep], f.clamp_min(1e-12).log())
        for i in range(q.start, q.stop):
            near = (z @ v[b, i]).clamp_min(0) ** 3
            reach = near.sum().where(near.sum() > 0, 1)
            own = 0.7 * sum(near[j] / (reach * d[j]).sqrt() * f[j] for j in range(len(z)))
            torch.testing.assert_close(found[b, i], own.clamp_min(1e-12).log())


def test_propagation_without_a_step_is_the_head() -> None:
    episode = features(unlabeled=3)
    scores = ProtoNet("cosine").double().score(episode)
    found = LogitPropagation(alpha=0.0, trust=1.0)(episode, scores, ProtoNet())
    rest = slice(episode.n_support, None)
    torch.testing.assert_close(found[:, rest].softmax(-1), scores[:, rest].softmax(-1))
    with pytest.raises(InputError, match="did you mean 'closed'"):
        LogitPropagation("close")


@pytest.mark.parametrize("trust", [1.0, 0.4])
def test_propagation_gives_the_pool_as_much_weight_as_the_labels(trust: float) -> None:
    """The sources of the pool have `trust` times the sum of the labels, whatever the pool's
    size.
    """
    seen: list[Tensor] = []

    class Watched(LogitPropagation):
        def closed(self, a: Tensor, near: Tensor, y: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
            seen.append(y)
            return super().closed(a, near, y, own)

    for unlabeled in (1, 4):
        episode = features(unlabeled=unlabeled)
        refined(Watched(trust=trust), episode)
        k = episode.n_support
        torch.testing.assert_close(trust * seen[-1][:, :k].sum((1, 2)), seen[-1][:, k:].sum((1, 2)))
        p = ProtoNet().score(episode)[:, episode.unlabeled].softmax(-1)
        torch.testing.assert_close(seen[-1][:, k:] * unlabeled * WAY / k, trust * p)


def test_poisson_solves_its_equation() -> None:
    """L F = Y - r y-, up to the share 0.001 of the diagonal that makes it regular."""
    g = torch.Generator().manual_seed(0)
    a = torch.rand(2, 8, 8, generator=g, dtype=torch.float64)
    a = (a + a.mT) * (1 - torch.eye(8))
    y = torch.zeros(2, 8, WAY).double()
    y[:, range(WAY), range(WAY)] = 1
    f, _ = LogitPropagation("poisson").poisson(a, a[:, :1], y, y[:, :1])
    degree = a.sum(-1).diag_embed()
    b = y - y.sum(-1, keepdim=True) / WAY
    torch.testing.assert_close((degree - 0.999 * a) @ f, b)
    assert torch.allclose(f.sum(-1), torch.zeros(2, 8).double(), atol=1e-8)


def test_weak_edges_weigh_together_a_third_of_one_edge() -> None:
    """Every real node is joined to every other one; all these edges of a node have 0.3 times the
    mean weight.
    """
    g = torch.Generator().manual_seed(0)
    a = torch.rand(1, 5, 5, generator=g, dtype=torch.float64)
    a = (a + a.mT) * (1 - torch.eye(5)) * (torch.rand(1, 5, 5, generator=g) < 0.7)
    a = torch.minimum(a, a.mT)
    mask = torch.tensor([[True, True, True, True, False]])
    a = a * (mask.unsqueeze(-1) & mask.unsqueeze(-2))
    near = a[:, :2]
    found, reached = connected(a, near, mask)
    weights = [float(v) for v in a.flatten() if v > 0]
    assert 0 < len(weights) < 12
    weak = 0.3 * sum(weights) / len(weights) / 4
    for i in range(5):
        for j in range(5):
            expected = float(a[0, i, j]) + weak * (i != j and max(i, j) < 4)
            assert float(found[0, i, j]) == pytest.approx(expected)
    torch.testing.assert_close(reached, near + weak * mask)


@pytest.mark.parametrize("unlabeled", [1, 2, 4])
@pytest.mark.parametrize("method", ["closed", "poisson"])
def test_propagation_does_not_lose_on_a_small_pool(method: str, unlabeled: int) -> None:
    """Where a graph of few nodes falls apart, Poisson's potentials are those of its smallest
    component.
    """
    episode, target = clusters(unlabeled)
    plain, found = (
        accuracy(None, episode, target),
        accuracy(LogitPropagation(method), episode, target),
    )
    assert found > plain - 0.03, (plain, found)
