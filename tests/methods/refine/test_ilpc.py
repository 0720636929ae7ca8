"""iLPC against loops and its authors' graph."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from graphfsl.core.episode import Episode, stack
from graphfsl.functional.centring import centred
from graphfsl.methods.refine.ilpc import ILPC
from graphfsl.testing import WAY
from tests.support.episodes import features
from tests.support.pool_refiners import pool_of


def test_ilpc_balance_meets_the_columns() -> None:
    """Rows sum to one, columns to what each class has left, and nodes that are not free are
    zero.
    """
    z = torch.rand(2, 9, WAY, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    free = torch.tensor([[False] * 3 + [True] * 6, [False] * 4 + [True] * 5])
    left = torch.tensor([[[3.0, 2.0, 1.0]], [[0.0, 2.0, 3.0]]], dtype=torch.float64)
    p = ILPC().balanced(z, free, torch.ones(2, WAY, dtype=torch.bool), left)
    torch.testing.assert_close(p.sum(-1), free.double())
    torch.testing.assert_close(p.sum(1), left.squeeze(1), atol=1e-3, rtol=0.0)


@pytest.mark.parametrize("stages", [1, 2, 4])
def test_ilpc_labels_every_node_once_and_the_support_grows(stages: int) -> None:
    episode, pool = pool_of(features(unlabeled=5))
    grown = []

    class Watched(ILPC):
        def loss(self, gram: Tensor, y: Tensor, guess: Tensor) -> Tensor:
            grown.append((y.clone(), guess.clone()))
            return super().loss(gram, y, guess)

    y = Watched(stages=stages).labels(episode)
    assert torch.equal(y[:, : episode.n_support], episode.w[:, : episode.n_support])
    assert torch.equal(y.sum(-1)[pool], torch.ones_like(y.sum(-1)[pool])) and y[pool].max() == 1
    states = [*(s for s, _ in grown), y]
    assert len(grown) == stages
    for before, after in itertools.pairwise(states):
        # what is picked stays, and is picked once
        assert (after >= before).all() and (after.sum(-1) <= 1).all()
        if after is not y:
            assert ((after - before).sum(1) <= math.ceil(5 * len(grown) / stages)).all()


def test_ilpc_picks_at_most_its_part_of_each_class_a_stage() -> None:
    episode, _ = pool_of(features(unlabeled=6))
    for stages, part in ((6, 1), (3, 2), (2, 3)):
        states: list[Tensor] = []

        class Watched(ILPC):
            def loss(
                self, gram: Tensor, y: Tensor, guess: Tensor, states: list[Tensor] = states
            ) -> Tensor:
                states.append(y.clone())
                return super().loss(gram, y, guess)

        Watched(stages=stages).labels(episode)
        for t, y in enumerate(states):
            assert (y[:, episode.n_support :].sum(1) <= t * part).all()


def test_ilpc_columns_are_what_each_class_has_left() -> None:
    """An equal part of the pool for each class, less what it took in the stages before."""
    episode, pool = pool_of(features(unlabeled=6))
    seen = []

    class Watched(ILPC):
        def balanced(self, z: Tensor, free: Tensor, way: Tensor, left: Tensor) -> Tensor:
            seen.append((free, left))
            return super().balanced(z, free, way, left)

        def loss(self, gram: Tensor, y: Tensor, guess: Tensor) -> Tensor:
            taken = (y * pool.unsqueeze(-1)).sum(1, keepdim=True)
            torch.testing.assert_close(seen[-1][1], 6 - taken)
            assert torch.equal(seen[-1][0], pool & (y.sum(-1) == 0))
            return super().loss(gram, y, guess)

    Watched(stages=3).labels(episode)
    assert seen[-1][1].max() < 6


@pytest.mark.parametrize("least", [1.0, 0.2])
def test_ilpc_loss_is_that_of_torchs_descent(least: float) -> None:
    """Support nodes weigh from `least` to 1, as after `robust_support`."""
    episode, _ = pool_of(features(unlabeled=2))
    of_support = torch.linspace(least, 1, episode.n_support).double()
    w = episode.w.clone()
    w[:, episode.support] *= of_support[:, None]
    v = centred(episode.x, episode.mask)
    guess = F.one_hot(torch.arange(3).repeat(2).expand(2, -1), WAY).double()
    guess = torch.cat([torch.zeros(2, episode.n_support, WAY).double(), guess], 1)
    method = ILPC(epochs=7, lr=0.5)
    found = method.loss(v @ v.mT, w, guess)
    weight = torch.cat([of_support, torch.ones(episode.n_unlabeled).double()])
    for b in range(2):
        target = (episode.w + guess)[b].argmax(-1)
        k = episode.n_support
        means = torch.stack([w[b, :k, c] @ v[b, :k] for c in range(WAY)])
        classifier = F.normalize(means, dim=-1).requires_grad_()
        optimizer = torch.optim.SGD([classifier], 0.5, momentum=0.9, weight_decay=5e-4)
        total = torch.zeros(len(target)).double()
        for _ in range(7):
            loss = F.cross_entropy(v[b] @ classifier.T, target, reduction="none")
            total += loss.detach()
            optimizer.zero_grad()
            (weight @ loss / weight.sum()).backward()
            optimizer.step()
        torch.testing.assert_close(found[b], total / 7)


def test_ilpc_graph_is_that_of_its_authors() -> None:
    """One stage without balance and cleaning: argmax of (I - alpha W)^-1 Y, W from a loop over
    neighbours.
    """
    episode, pool = pool_of(features(unlabeled=5))
    y = ILPC(k=3, stages=1, balance=False).labels(episode)
    v = centred(episode.x, episode.mask)
    for b in range(2):
        n = len(v[b])
        cos = v[b] @ v[b].T
        a = torch.zeros(n, n).double()
        for i in range(n):
            near = sorted((j for j in range(n) if j != i), key=lambda j, i=i: -float(cos[i, j]))[:3]  # type: ignore[misc]
            for j in near:
                a[i, j] = max(float(cos[i, j]), 0.0) ** 3
        a = a + a.T
        d = a.sum(-1).clamp_min(1e-12).rsqrt()
        z = torch.linalg.solve(torch.eye(n).double() - 0.8 * d[:, None] * a * d, episode.w[b])
        sure = pool[b] & (z.amax(-1) > 1e-9)
        assert sure.sum() > 8
        assert torch.equal(y[b, sure].argmax(-1), z[sure].argmax(-1))


def test_ilpc_with_a_share_leaves_the_rest_unlabeled() -> None:
    episode, pool = pool_of(features(unlabeled=6))
    y = ILPC(share=0.5).labels(episode)
    assert (y[:, episode.n_support :].sum(1) <= 3).all()
    assert (y.sum(-1)[pool] <= 1).all() and y[:, episode.n_support :].sum() > 0


def test_ilpc_in_a_batch_of_several_ways() -> None:
    two, three = features(batch=1, way=2, unlabeled=4), features(batch=1, unlabeled=5, seed=1)
    both = stack([two, three])
    found = ILPC().labels(both.parts(query=False))
    alone = ILPC().labels(two.parts(query=False))
    real = both.parts(query=False).mask[0]
    assert torch.equal(found[0, real, :2], alone[0]) and not found[0, :, 2].any()


@pytest.mark.parametrize("nearest", range(WAY))
def test_ilpc_labels_a_node_alone_by_what_it_is_near_to(nearest: int) -> None:
    """Columns of equal sums would give one row equal probabilities, whatever it is."""
    x = torch.eye(WAY).double()
    x = torch.cat([x, x[nearest : nearest + 1] + 0.01])[None]
    w = torch.cat([torch.eye(WAY), torch.zeros(1, WAY)])[None]
    labels = ILPC().labels(Episode(x, w, WAY, 0))
    assert labels[0, -1].tolist() == F.one_hot(torch.tensor(nearest), WAY).tolist()
