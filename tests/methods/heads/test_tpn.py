"""Transductive Propagation Network."""

from __future__ import annotations

import math

import torch
from torch.nn import functional as F

from graphfsl.core.episode import Target, stack
from graphfsl.core.pipeline import Pipeline
from graphfsl.methods.heads.label_propagation import LabelPropagation
from graphfsl.methods.heads.tpn import TPN
from graphfsl.testing import DIM, TinyEncoder, episodes
from tests.support.episodes import features_and_target
from tests.support.propagation import constant, inverse, padded, tpn, union_of_neighbors


def test_tpn_equals_a_loop() -> None:
    episode, head = padded(), tpn(k=4)
    found, sigma = head.score(episode), head.sigma(episode)
    assert (sigma > 0).all() and sigma[episode.mask].std() > 0.01
    for b in range(2):
        mask = episode.mask[b]
        z, y = episode.x[b, mask] / sigma[b, mask], episode.w[b, mask]
        n = len(z)
        w = [
            [math.exp(-float((z[i] - z[j]).detach().square().mean()) / 2) for j in range(n)]
            for i in range(n)
        ]
        expected = inverse(union_of_neighbors(torch.tensor(w, dtype=z.dtype), 4), 0.99) @ y
        torch.testing.assert_close(found[b, mask], expected)


def test_tpn_begins_with_a_small_scale() -> None:
    """Near 0.1, whatever the start of the other layers: at a large one all nodes look alike and
    nothing is learned.
    """
    episode, _ = features_and_target(batch=20)
    sigma = torch.cat([TPN(DIM).double().train().sigma(episode).flatten() for _ in range(10)])
    assert 0.05 < float(sigma.median()) < 0.2


def test_padding_enters_no_statistics_of_tpn() -> None:
    episode, head = padded(), TPN(DIM).double().train()
    head.norm.momentum = 1.0
    head.score(episode)
    real = head.first(episode.x[episode.mask])
    torch.testing.assert_close(head.norm.running_mean, real.mean(0))
    torch.testing.assert_close(head.norm.running_var, real.var(0))


def test_tpn_of_one_scale_is_label_propagation() -> None:
    """A constant sigma is the plain graph of scale sigma, the mean over d in place of the sum."""
    episode, _ = features_and_target(batch=1)
    head = tpn(k=5)
    constant(head, 0.4)
    d = torch.cdist(episode.x, episode.x)[0]
    median = d[~torch.eye(len(d), dtype=torch.bool)].median()
    plain = LabelPropagation(scale=float(0.4 * DIM**0.5 / median), k=5)
    torch.testing.assert_close(head.score(episode), plain.score(episode))


def test_tpn_learns_from_support_and_queries() -> None:
    small, target = features_and_target(batch=1, way=2, shot=1, query=1)
    large, other = features_and_target(batch=1)
    both, head = stack([small, large]), tpn()
    query = torch.cat([F.pad(target.query, (0, 4), value=-100), other.query])
    scores = head.score(both)
    found = head.criterion(scores, Target(query, *(torch.empty(2, 0),) * 3), both)
    total = []
    for b in range(2):
        for i in range(both.n_support + both.n_query):
            y = both.w[b, i].argmax() if i < both.n_support else query[b, i - both.n_support]
            if both.mask[b, i]:
                total.append(-scores[b, i].log_softmax(-1)[y])
    assert len(total) == 4 + 12
    torch.testing.assert_close(found, torch.stack(total).mean())
    found.backward()
    assert all(torch.isfinite(p.grad).all() for p in head.parameters())


def test_semi_supervised_tpn_answers_every_query_alone() -> None:
    episode, _ = episodes(unlabeled=4)
    model = Pipeline(TinyEncoder(), head=TPN(DIM), per_query=True).eval()
    assert not model.transductive and model.uses_unlabeled
    k = episode.n_support
    alone = episode.replace(
        x=torch.cat([episode.x[:, : k + 1], episode.x[:, episode.unlabeled]], 1),
        w=torch.cat([episode.w[:, : k + 1], episode.w[:, episode.unlabeled]], 1),
        mask=torch.cat([episode.mask[:, : k + 1], episode.mask[:, episode.unlabeled]], 1),
        n_query=1,
    )
    torch.testing.assert_close(model(alone)[:, 0], model(episode)[:, 0], atol=1e-3, rtol=1e-3)
    assert not torch.allclose(model(episode.parts(unlabeled=False)), model(episode), atol=1e-2)
