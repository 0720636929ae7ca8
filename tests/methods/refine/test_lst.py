"""Learning to self-train."""

from __future__ import annotations

import math

import torch
from torch.nn import functional as F

from graphfsl.core.episode import Episode
from graphfsl.core.pipeline import Pipeline
from graphfsl.methods.heads.protonet import ProtoNet
from graphfsl.methods.refine.lst import LST
from graphfsl.testing import DIM, WAY, episodes
from tests.support.episodes import features
from tests.support.pool_refiners import refined


def test_lst_equals_a_loop() -> None:
    torch.manual_seed(0)
    episode, head = features(unlabeled=4), ProtoNet()
    refine = LST(DIM, hidden=8, stages=2, share=0.5, anchor=3.0).double()
    found = refined(refine, episode)
    pool, u = episode.unlabeled.start, episode.n_unlabeled
    for b in range(2):
        one = episode.replace(
            x=episode.x[b : b + 1], w=episode.w[b : b + 1], mask=episode.mask[b : b + 1]
        )
        z = DIM**0.5 * F.normalize(one.x[0], dim=-1)
        means = torch.stack(
            [z[: one.n_support][one.w[0, : one.n_support, c] > 0].mean(0) for c in range(WAY)]
        )
        scores = head.score(one)
        for support in (1.0, 1.0, 3.0):
            p, w = scores[0, pool:].detach().softmax(-1), one.w.clone()
            for c in range(WAY):
                own = sorted(
                    (j for j in range(u) if p[j].argmax() == c),
                    key=lambda j, c=c: -float(p[j, c]),  # type: ignore[misc]
                )
                for j in own[: math.ceil(0.5 * u / WAY)]:
                    f = torch.stack([refine.weigh((z[pool + j] - m).abs())[0] for m in means])
                    w[0, pool + j, c] = f.softmax(0)[c]
            w[0, :pool] *= support
            scores = head.score(one.replace(w=w))
        torch.testing.assert_close(found[b], scores[0])


def test_lst_that_trusts_the_support_alone_is_the_head() -> None:
    episode = features(unlabeled=4)
    torch.manual_seed(0)
    found = refined(LST(DIM, anchor=1e9), episode)
    torch.testing.assert_close(found, ProtoNet().score(episode), atol=1e-6, rtol=1e-6)


def test_lst_learns_to_weigh() -> None:
    """On clusters with distractors the soft weighting network lowers the loss of the queries."""
    episode, target = episodes(batch=60, shot=1, query=5, unlabeled=8, noise=1.6, seed=5)
    x = episode.x.flatten(2)
    other = 3 * torch.randn(60, 16, 64, generator=torch.Generator().manual_seed(6))
    episode = Episode(
        torch.cat([x, other], 1), torch.cat([episode.w, torch.zeros(60, 16, WAY)], 1), 3, 15
    )
    torch.manual_seed(0)
    model = Pipeline(head=ProtoNet("cosine"), refine=LST(64))
    optimizer = torch.optim.Adam(model.refine.parameters(), 3e-3)
    losses = []
    for _ in range(40):
        loss = F.cross_entropy(model(episode).flatten(0, 1), target.query.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] - 0.02, losses[::10]
