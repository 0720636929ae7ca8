"""Matching Networks, also with full context embeddings, against loops."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from graphfsl.core.episode import Episode
from graphfsl.methods.heads.matchingnet import MatchingNet
from graphfsl.testing import DIM, WAY
from tests.support.episodes import features


def test_matchingnet_equals_a_loop() -> None:
    episode, head = features(shot=2), MatchingNet(DIM, scale=7.0).double()
    found = head.score(episode)
    for b in range(2):
        for j in range(episode.x.shape[1]):
            p, total = [0.0] * WAY, 0.0
            for i in range(episode.n_support):
                cos = F.cosine_similarity(episode.x[b, j], episode.x[b, i], 0)
                p[int(episode.w[b, i].argmax())] += (a := math.exp(7.0 * cos))
                total += a
            expected = torch.tensor([math.log(v / total) for v in p], dtype=torch.float64)
            torch.testing.assert_close(found[b, j], expected, atol=1e-6, rtol=1e-6)


def test_matchingnet_averages_labels() -> None:
    """A node that is half of two classes gives each of them half of its attention."""
    episode = features(batch=1, shot=1)
    w = episode.w.clone()
    w[0, 0] = torch.tensor([0.5, 0.5, 0.0])
    p = MatchingNet(DIM).double().score(episode.replace(w=w)).exp()
    plain = MatchingNet(DIM).double().score(episode).exp()
    torch.testing.assert_close(p.sum(-1), torch.ones_like(p[..., 0]))
    torch.testing.assert_close(p[..., 0], 0.5 * plain[..., 0])
    torch.testing.assert_close(p[..., 1], plain[..., 1] + 0.5 * plain[..., 0])


def test_matchingnet_of_weight_two_is_two_nodes() -> None:
    episode, head = features(shot=2), MatchingNet(DIM).double()
    w = episode.w.clone()
    w[:, 0] *= 2
    twice = Episode(
        torch.cat([episode.x[:, :1], episode.x], 1),
        torch.cat([episode.w[:, :1], episode.w], 1),
        episode.n_support + 1,
        episode.n_query,
    )
    torch.testing.assert_close(head.score(episode.replace(w=w)), head.score(twice)[:, 1:])


@pytest.mark.parametrize("train", [False, True])
def test_full_context_embeddings_equal_a_loop(train: bool) -> None:
    """g by torch's own bidirectional LSTM over each task's labeled nodes alone; f by a loop over
    the steps.
    """
    episode = features(shot=2)
    head = MatchingNet(DIM, fce=True, fce_steps=3).double().train(train)
    # One node less in the second task, in the middle of the support.
    w, mask = episode.w.clone(), episode.mask.clone()
    w[1, 2], mask[1, 2] = 0, False
    context = head.context
    assert context is not None
    torch.manual_seed(1)
    f, g = context(episode.x, episode.x, w.sum(-1) > 0)
    torch.manual_seed(1)
    place = torch.rand(w.shape[:2]) if train else torch.arange(w.shape[1]).expand(2, -1)
    both = nn.LSTM(DIM, DIM, bidirectional=True, batch_first=True).double()
    own = dict(context.forwards.named_parameters())
    own |= {f"{k}_reverse": v for k, v in context.backwards.named_parameters()}
    both.load_state_dict(own)
    for b in range(2):
        known = (w[b].sum(-1) > 0).nonzero().squeeze(1)
        order = known[place[b, known].argsort()]
        x = episode.x[b, order]
        expected = both(x[None])[0][0].view(-1, 2, DIM).sum(1) + x
        torch.testing.assert_close(g[b, order], expected)
        h, r = episode.x[b, -1], torch.zeros(DIM, dtype=torch.float64)
        c = torch.zeros(DIM, dtype=torch.float64)
        for _ in range(3):
            out, c = context.query(torch.cat([episode.x[b, -1], r]), (h, c))
            h = out + episode.x[b, -1]
            r = (g[b, order] @ h).softmax(0) @ g[b, order]
        torch.testing.assert_close(f[b, -1], h)


def test_full_context_embeddings_read_the_order_of_the_support() -> None:
    episode, head = features(), MatchingNet(DIM, fce=True).double().eval()
    order = torch.cat(
        [
            torch.arange(episode.n_support).flip(0),
            torch.arange(episode.n_support, episode.x.shape[1]),
        ]
    )
    turned = episode.replace(x=episode.x[:, order], w=episode.w[:, order])
    assert head.order_sensitive
    assert not torch.allclose(head(turned), head(episode), atol=1e-6)
    assert torch.allclose(MatchingNet(DIM).double()(turned), MatchingNet(DIM).double()(episode))


def test_a_query_in_full_context_is_answered_the_same_alone() -> None:
    episode, head = features(), MatchingNet(DIM, fce=True).double().eval()
    k = episode.n_support
    alone = Episode(episode.x[:, : k + 1], episode.w[:, : k + 1], k, 1)
    torch.testing.assert_close(head(alone), head(episode)[:, :1])


def test_a_learned_weight_of_zero_has_a_gradient() -> None:
    """Refiners learn label weights, of which many are 0."""
    episode = features(unlabeled=0)
    nodes = torch.ones_like(episode.w[..., :1]) * (episode.w.sum(-1, keepdim=True) > 0)
    nodes[:, 0] = 0
    nodes.requires_grad_()
    scores = MatchingNet(DIM).score(episode.replace(w=episode.w * nodes))
    (found,) = torch.autograd.grad(scores[scores.isfinite()].sum(), nodes)
    assert found.isfinite().all() and found.abs().sum() > 0
