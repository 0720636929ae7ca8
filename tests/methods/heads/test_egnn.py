"""EGNN against loops written from its equations."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from graphfsl.core.episode import Episode
from graphfsl.methods.heads.egnn import EGNN
from graphfsl.testing import WAY
from tests.support.edge_heads import close, head, perceptron, reorder
from tests.support.episodes import features_and_target


def egnn_loop(net: EGNN, episode: Episode, b: int) -> list[Tensor]:
    """The edges of each layer of task b, node by node."""
    v, w = list(episode.x[b]), episode.w[b]
    n = len(v)
    e = torch.full((n, n, 2), 0.5).double()
    for i in range(n):
        for j in range(n):
            if w[i].any() and w[j].any():
                e[i, j] = torch.tensor([1.0, 0.0] if w[i].argmax() == w[j].argmax() else [0.0, 1.0])
    out = []
    for f_v, f_e in zip(net.f_v, net.f_e, strict=True):
        others = [[j for j in range(n) if j != i] for i in range(n)]
        mass = [sum(e[i, j] for j in others[i]) for i in range(n)]
        sums = [
            [sum(e[i, j, d] / mass[i][d] * v[j] for j in others[i]) for d in range(2)]
            for i in range(n)
        ]
        v = [perceptron(f_v, torch.cat([v[i], *sums[i]])) for i in range(n)]  # type: ignore[list-item]
        new = torch.zeros(n, n, 2).double()
        for i in range(n):
            s = {j: torch.sigmoid(perceptron(f_e, (v[i] - v[j]).abs())) for j in others[i]}
            raw = {j: torch.cat([s[j], 1 - s[j]]) * e[i, j] for j in others[i]}
            total = sum(raw.values())
            for j in others[i]:
                new[i, j] = raw[j] / total * mass[i]
            new[i, i, 0] = 1
        new = new + 1e-6
        e = new / new.sum(-1, keepdim=True)
        out.append(e.permute(2, 0, 1))
    return out


@torch.no_grad()
def test_egnn_equals_a_loop() -> None:
    (episode, _), net = features_and_target(query=1, unlabeled=1), head(EGNN, layers=2)
    found = net.edges(episode)
    for b in range(2):
        expected = egnn_loop(net, episode, b)
        close(torch.stack([layer[b] for layer in found]), torch.stack(expected))
        last, labeled = expected[-1][0], range(episode.n_support)
        vote = [
            [sum(row[j] for j in labeled if episode.w[b, j, c] > 0) for c in range(WAY)]
            for row in last
        ]
        close(net.score(episode)[-1, b].exp(), torch.tensor(vote).double())


@torch.no_grad()
def test_egnn_edges_are_distributions_and_not_symmetric() -> None:
    (episode, _), net = features_and_target(), head(EGNN)
    for e in net.edges(episode):
        close(e.sum(1), torch.ones_like(e[:, 0]))
        close(
            e[:, 0].diagonal(dim1=-2, dim2=-1),
            torch.ones(e.shape[0], e.shape[-1]).double() * (1 + 1e-6) / (1 + 2e-6),
        )
        assert (e[:, 0] - e[:, 0].mT).abs().max() > 1e-3


@pytest.mark.parametrize("shot", [1, 3])
def test_egnn_loss_is_that_of_single_edges(shot: int) -> None:
    """From votes per class comes the binary cross-entropy of every edge between a query and a
    labeled node.
    """
    (episode, target), net = features_and_target(shot=shot), head(EGNN)
    total: float | Tensor = 0.0
    for weight, e in zip((0.5, 0.5, 1.0), net.edges(episode), strict=True):
        # (B, Q, NK)
        truth = target.query.unsqueeze(-1) == episode.w[:, episode.support].argmax(-1).unsqueeze(-2)
        there, back = (
            e[:, 0, episode.query, episode.support],
            e[:, 0, episode.support, episode.query].mT,
        )
        both, same = torch.stack([there, back]), torch.stack([truth, truth])
        losses = F.binary_cross_entropy(both, same.double(), reduction="none")
        total += weight * (losses[same].mean() + losses[~same].mean())
    # 1 - e_1 is e_2 but for rounding.
    torch.testing.assert_close(net.loss(episode, target), total, atol=1e-7, rtol=1e-7)


@torch.no_grad()
def test_egnn_is_equivariant_to_nodes_and_classes() -> None:
    (episode, _), net = features_and_target(), head(EGNN)
    expected = net.score(episode)
    order = torch.randperm(episode.x.shape[1])
    close(net.score(reorder(episode, order)), expected[:, :, order])
    classes = torch.tensor([2, 0, 1])
    close(net.score(episode.replace(w=episode.w[..., classes])), expected[..., classes])
