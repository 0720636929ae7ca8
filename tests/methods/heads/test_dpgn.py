"""DPGN against loops written from its equations."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphfsl.core.episode import Episode
from graphfsl.core.pipeline import Pipeline
from graphfsl.core.protocol import check_protocol
from graphfsl.data.tasks.classes import Setting
from graphfsl.io.errors import InputError
from graphfsl.methods.heads.dpgn import DPGN
from graphfsl.testing import WAY
from tests.support.edge_heads import close, dpgn, perceptron, reorder
from tests.support.episodes import features_and_target


def dpgn_loop(net: DPGN, episode: Episode, b: int) -> list[Tensor]:
    """The point edges of each generation of task b, node by node."""
    v, w = list(episode.x[b]), episode.w[b]
    n, k = len(v), episode.n_support
    e = torch.zeros(n, n).double()
    for i in range(n):
        for j in range(n):
            if i < k and j < k:
                e[i, j] = float(w[i].argmax() == w[j].argmax())
            elif i < k or j < k:
                e[i, j] = 1 / k
    size = net.metric

    def update(f: nn.Module, e: Tensor, v: list[Tensor]) -> Tensor:
        new = torch.eye(n).double() + 1e-6
        for i in range(n):
            others = [j for j in range(n) if j != i]
            raw = {j: torch.sigmoid(perceptron(f, size(v[i] - v[j])))[0] * e[i, j] for j in others}
            for j in others:
                new[i, j] += raw[j] / sum(raw.values()) * sum(e[i, m] for m in others)
        return new / new.sum(-1, keepdim=True)

    d, e_d, out = [e[i, :k] for i in range(n)], e, []
    e = update(net.point_edges[0], e, v)
    for g, f in enumerate(net.point_edges[1:]):
        e = update(f, e, v)
        out.append(e)
        if g == len(net.points):
            break
        d = [F.leaky_relu(net.distributions[g](torch.cat([e[i, :k], d[i]]))) for i in range(n)]
        e_d = update(net.distribution_edges[g], e_d, d)
        mass = [sum(e_d[i, j] for j in range(n) if j != i) for i in range(n)]
        seen = [sum(e_d[i, j] / mass[i] * v[j] for j in range(n) if j != i) for i in range(n)]
        v = [perceptron(net.points[g], torch.cat([v[i], seen[i]])) for i in range(n)]
    return out


@pytest.mark.parametrize("metric", ["l1", "l2"])
@torch.no_grad()
def test_dpgn_equals_a_loop(metric: str) -> None:
    (episode, _), net = (
        features_and_target(query=1, unlabeled=1),
        dpgn(generations=3, metric=metric),
    )
    found = net.generations(episode)
    for b in range(2):
        close(torch.stack([e[b] for e, _ in found]), torch.stack(dpgn_loop(net, episode, b)))
    x = episode.x
    apart = (x.unsqueeze(2) - x.unsqueeze(1)).abs() ** int(metric[1])
    close(found[0][1], apart.sum(-1))
    close(net.score(episode)[-1].exp(), found[-1][0] @ episode.w)


@torch.no_grad()
def test_dpgn_rows_sum_to_one_and_a_querys_edges_fade_as_one_over_the_generation() -> None:
    """From mass m of a row's edges comes m / (1 + m): 1, 1/2, 1/3, …; nothing but 1e-6 joins two
    queries.
    """
    (episode, _), net = features_and_target(unlabeled=0), dpgn(generations=4)
    for g, (e, _) in enumerate(net.generations(episode)):
        close(e.sum(-1), torch.ones_like(e[..., 0]))
        assert (e >= 0).all()
        rows = e[:, episode.query]
        torch.testing.assert_close(
            rows[..., episode.support].sum(-1),
            torch.full_like(rows[..., 0], 1 / (g + 3)),
            atol=1e-4,
            rtol=0,
        )
        between = rows[..., episode.query] * (1 - torch.eye(episode.n_query))
        assert between.max() < 1e-5


@torch.no_grad()
def test_the_first_edges_of_a_dpgn_query_sum_to_one_whatever_shots_there_are() -> None:
    """1/NK to each of the NK nodes that are labeled: with padding among the shots as without."""
    (episode, _), net = features_and_target(unlabeled=0), dpgn(generations=3)
    mask, w = episode.mask.clone(), episode.w.clone()
    mask[:, [1, 4]], w[:, [1, 4]] = False, 0
    for g, (e, _) in enumerate(net.generations(episode.replace(mask=mask, w=w))):
        reached = e[:, episode.query, episode.support].sum(-1)
        torch.testing.assert_close(
            reached, torch.full_like(reached, 1 / (g + 3)), atol=1e-4, rtol=0
        )


def test_dpgn_loss_is_that_of_single_edges_and_of_distances() -> None:
    (episode, target), net = features_and_target(shot=2), dpgn(generations=4)
    total: float | Tensor = 0.0
    for g, (e, distance) in enumerate(net.generations(episode)):
        truth = target.query.unsqueeze(-1) == episode.w[:, episode.support].argmax(-1).unsqueeze(-2)
        both = torch.stack(
            [e[:, episode.query, episode.support], e[:, episode.support, episode.query].mT]
        )
        same = torch.stack([truth, truth])
        losses = F.binary_cross_entropy(both, same.double(), reduction="none")
        logits = -(distance[:, episode.query, episode.support] @ episode.w[:, episode.support])
        entropy = F.cross_entropy(logits.flatten(0, 1), target.query.flatten())
        weight = {0: 0.5, 1: 0.5, 3: 1.0}.get(g, 0.0)
        total += weight / 3 * (losses[same].mean() + losses[~same].mean() + 0.1 * entropy)
    torch.testing.assert_close(net.loss(episode, target), total, atol=1e-9, rtol=1e-9)


@torch.no_grad()
def test_dpgn_is_equivariant_to_classes_queries_and_to_the_support_with_its_columns() -> None:
    """W reads one column for each support node: another order of the support is a network of
    permuted columns.
    """
    (episode, _), net = features_and_target(), dpgn()
    expected = net.score(episode)
    classes = torch.tensor([2, 0, 1])
    close(net.score(episode.replace(w=episode.w[..., classes])), expected[..., classes])
    k, n = episode.n_support, episode.x.shape[1]
    support = torch.tensor([3, 5, 0, 2, 1, 4])
    order = torch.cat([support, torch.arange(k, n)])
    other = net.score(reorder(episode, order))
    assert (other - expected[:, :, order]).abs().max() > 1e-4
    for g, linear in enumerate(net.distributions):
        linear.weight[:, :k] = linear.weight[:, support]
        if g == 0:  # later v^d are outputs of W, which have no order of the support
            linear.weight[:, k:] = linear.weight[:, k + support]
    close(net.score(reorder(episode, order)), expected[:, :, order])


@torch.no_grad()
def test_dpgn_refuses_another_number_of_shots_but_takes_padding_within_its_own() -> None:
    model = Pipeline(head=dpgn())
    with pytest.raises(
        InputError, match="tied to 2-shot episodes, but this one has 9 support nodes"
    ):
        model(features_and_target(shot=3)[0])
    check_protocol(model, Setting(way=WAY, shot=1, max_shot=2))
    with pytest.raises(InputError, match=r"tied to 2-shot episodes; set episode.shot=2"):
        check_protocol(model, Setting(way=WAY, shot=1))
    episode, _ = features_and_target()
    mask, w = episode.mask.clone(), episode.w.clone()
    mask[:, [1, 4]], w[:, [1, 4]] = False, 0
    x = episode.x.clone()
    x[:, [1, 4]] = 100.0
    found = model(episode.replace(mask=mask, w=w))
    assert torch.isfinite(found).all()
    close(model(episode.replace(x=x, mask=mask, w=w)), found)
