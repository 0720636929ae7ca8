"""Instance credibility inference."""

from __future__ import annotations

import math

import torch
from torch.nn import functional as F

from graphfsl.core.episode import Episode
from graphfsl.functional.group_lasso import leaving
from graphfsl.functional.statistics import answered
from graphfsl.methods.heads.protonet import ProtoNet
from graphfsl.methods.refine.ici import ICI
from graphfsl.testing import WAY
from tests.support.episodes import features
from tests.support.pool_refiners import pool_of, refined


def test_ici_projection_takes_its_features_away() -> None:
    """(I - H) X = 0 and H is a projection onto the principal components."""
    episode, _ = pool_of(features(unlabeled=4))
    u = ICI(components=3).basis(episode)
    v = F.normalize(episode.x, dim=-1)
    v = v - v.mean(1, keepdim=True)
    for b in range(2):
        _, _, right = torch.linalg.svd(v[b], full_matrices=False)
        x = v[b] @ right[:3].T
        torch.testing.assert_close(u[b] @ (u[b].T @ x), x)
        torch.testing.assert_close(u[b].T @ u[b], torch.eye(3).double())


def test_ici_basis_ends_with_the_rank() -> None:
    """Four nodes span three dimensions around their mean, of which two may explain labels."""
    episode, _ = pool_of(features(batch=1, shot=1, unlabeled=1))
    mask = torch.tensor([[True] * 4 + [False] * 2])
    u = ICI(components=5).basis(episode.replace(mask=mask))
    assert torch.equal((u.abs().sum(1) > 0).sum(-1), torch.tensor([2]))
    assert not u[:, 4:].abs().gt(1e-7).any()


def test_ici_equals_a_loop() -> None:
    episode, head, stages = features(unlabeled=4), ProtoNet(), 2
    found = refined(ICI(components=3, stages=stages), episode)
    pool, u = episode.unlabeled.start, episode.n_unlabeled
    for b in range(2):
        one = episode.replace(
            x=episode.x[b : b + 1], w=episode.w[b : b + 1], mask=episode.mask[b : b + 1]
        )
        x, scores, added = (
            ICI(components=3).basis(one.parts(query=False)),
            head.score(one),
            set[int](),
        )
        for t in range(1, stages + 1):
            label = scores[0, pool:].argmax(-1)
            doubt = leaving(
                x, torch.cat([one.w[:, : one.n_support], F.one_hot(label, WAY)[None]], 1).double()
            )
            for c in range(WAY):
                room = math.ceil(t / stages * u / WAY) - sum(int(label[j]) == c for j in added)
                own = [j for j in range(u) if label[j] == c and j not in added]
                added |= set(
                    sorted(own, key=lambda j, s=doubt[0]: float(s[one.n_support + j]))[  # type: ignore[misc]
                        : max(room, 0)
                    ]
                )
            w = one.w.clone()
            for j in added:
                w[0, pool + j, label[j]] = 1
            scores = head.score(one.replace(w=w))
        torch.testing.assert_close(found[b], scores[0])


def test_ici_tells_the_nodes_of_a_small_pool_apart() -> None:
    """Three labeled nodes and three others: five components and the mean would explain any labels,
    and rounding would choose.
    """
    g = torch.Generator().manual_seed(0)
    x = torch.randn(8, 7, 16, generator=g, dtype=torch.float64)
    w = torch.zeros(8, 7, WAY).double()
    w[:, :WAY] = torch.eye(WAY)
    episode = Episode(x, w, WAY, 1, relabeled=False)
    order = torch.tensor([0, 1, 2, 3, 6, 4, 5])
    turned = episode.replace(x=x[:, order], relabeled=False)
    found = [refined(ICI(share=0.5), e, ProtoNet("cosine").double()) for e in (episode, turned)]
    torch.testing.assert_close(found[0][:, order], found[1])

    part = episode.parts(query=False)
    u = ICI().basis(part)
    label = F.one_hot(torch.tensor([0, 1, 2, 0, 1, 2]), WAY).double().expand(8, -1, -1)
    doubt = leaving(u, label)
    assert (doubt.amax(1) > doubt.amin(1) + 1e-3).all()


def test_ici_on_features_that_are_no_numbers_gives_no_answer() -> None:
    """An evaluation names the part that made such scores; LAPACK would end it with a traceback."""
    episode = features(unlabeled=2)
    broken = episode.x.clone()
    broken[:, -1] = float("nan")
    found = refined(ICI(), episode.replace(x=broken, relabeled=False))
    assert not answered(found[:, episode.query]).any()
