"""Pseudo-loss confidence: mixtures of beta distributions and their calibration."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn import functional as F

from graphfsl.core.episode import Episode
from graphfsl.io.errors import InputError
from graphfsl.methods.refine.plcm import PLCM
from graphfsl.testing import WAY
from tests.support.episodes import features
from tests.support.pool_refiners import pool_of


def base_classes() -> tuple[Tensor, Tensor]:
    """40 classes of 50 nodes in 32 dimensions, not in order."""
    g = torch.Generator().manual_seed(8)
    labels = torch.arange(40).repeat(50)
    return 0.5 * torch.randn(40, 32, generator=g)[labels] + 0.7 * torch.randn(
        2000, 32, generator=g
    ), labels


def test_plcm_mixture_is_that_of_its_members() -> None:
    """`calibrate` keeps share, mean and variance of each cell, and the odds are those of the normal
    densities.
    """
    g, method = torch.Generator().manual_seed(9), PLCM(5).double()
    loss = torch.rand(4, 50, generator=g, dtype=torch.float64)
    old, clean = torch.rand(4, 50, generator=g) < 0.4, torch.rand(4, 50, generator=g) < 0.7
    method.calibrate(2, loss, old, clean)
    for s in (False, True):
        cells = [loss[(old == s) & (clean == k)] for k in (False, True)]
        for k in (0, 1):
            assert float(method.mean[2, int(s), k]) == pytest.approx(float(cells[k].mean()))
            assert float(method.variance[2, int(s), k]) == pytest.approx(
                float(cells[k].var(correction=0))
            )
        p = [len(c) + 1 for c in cells]
        normals = [torch.distributions.Normal(c.mean(), c.std(correction=0)) for c in cells]
        odds = normals[1].log_prob(loss) - normals[0].log_prob(loss) + math.log(p[1] / p[0])
        where = old == s
        torch.testing.assert_close(method.log_odds(2, loss, old)[where], odds[where])
    assert torch.equal(method.prior[1], torch.full((2, 2), 0.5).double())


def test_plcm_keeps_both_components_where_one_has_too_few_members() -> None:
    """A narrow clean component beside the wide default of a noisy one would rank the smallest
    losses last.
    """
    method, fresh = PLCM(5).double(), PLCM(5).double()
    loss = torch.linspace(0.05, 0.15, 40).double()[None]
    clean = torch.ones(1, 40, dtype=torch.bool)
    clean[0, :5] = False
    method.calibrate(0, loss, torch.zeros(1, 40, dtype=torch.bool), clean)
    for name, value in method.state_dict().items():
        torch.testing.assert_close(value, fresh.state_dict()[name])


def test_plcm_is_calibrated_on_base_classes() -> None:
    """Right pseudo-labels have the smaller loss, and posteriors agree with how often labels are
    right on new tasks.
    """
    torch.manual_seed(0)
    method, (x, y) = PLCM(5, steps=2, unlabeled=15), base_classes()
    method.fit_base(x[y < 30], y[y < 30])
    assert (method.mean[..., 1] < method.mean[..., 0]).all()
    seen: list[tuple[Tensor, Tensor]] = []

    class Watched(PLCM):
        def calibrate(self, t: int, loss: Tensor, old: Tensor, clean: Tensor) -> None:
            if t == 0:
                seen.append((self.log_odds(t, loss, old).sigmoid(), clean))

    other = Watched(5, steps=1, unlabeled=15)
    other.load_state_dict({k: v[:1] for k, v in method.state_dict().items()})
    other.fit_base(x[y >= 30], y[y >= 30] - 30)
    (p, clean), *_ = seen
    assert abs(float(p.mean() - clean.float().mean())) < 0.1
    sure, unsure = p > p.median(), p <= p.median()
    assert clean[sure].float().mean() > clean[unsure].float().mean() + 0.1


def test_plcm_draws_disjoint_support_and_pool() -> None:
    torch.manual_seed(0)
    x, y = base_classes()
    drawn: list[Episode] = []

    class Watched(PLCM):
        def labels(self, episode: Episode, truth: Tensor | None = None) -> Tensor:
            assert truth is not None
            drawn.append(episode)
            # which sample each node shows
            own = (episode.x[:, :, None, 0] == x[:, 0]).float().argmax(-1)
            assert all(len(set(row)) == len(row) for row in own.tolist())
            k = episode.n_support
            classes, columns = y[own], episode.w[:, :k].argmax(-1)
            for b in range(len(own)):
                column_of = dict(zip(classes[b, :k].tolist(), columns[b].tolist(), strict=True))
                assert [column_of[int(c)] for c in classes[b, k:]] == truth.tolist()
            return super().labels(episode, truth)

    Watched(5, steps=1, shot=1, unlabeled=10).fit_base(x, y)
    assert drawn[0].x.shape == (64, 5 + 50, 32) and drawn[0].n_unlabeled == 50


def test_plcm_divides_losses_by_the_logarithm_of_the_ways() -> None:
    """So that a mixture fitted on episodes of one way serves tasks of another: a loss of 1 is a
    guess.
    """
    episode, _ = pool_of(features(unlabeled=4))
    seen: list[Tensor] = []

    class Watched(PLCM):
        def log_odds(self, t: int, loss: Tensor, old: Tensor) -> Tensor:
            seen.append(loss)
            return super().log_odds(t, loss, old)

    Watched(WAY).double().labels(episode)
    for b in range(2):
        z, k = F.normalize(episode.x[b], dim=-1).numpy(), episode.n_support
        theirs = LogisticRegression(C=10.0, tol=1e-10, max_iter=10_000)
        theirs.fit(z[:k], episode.w[b, :k].argmax(-1).numpy())
        best = torch.from_numpy(theirs.predict_log_proba(z[k:])).amax(-1)
        torch.testing.assert_close(seen[0][b], -best / math.log(WAY), atol=1e-3, rtol=0)


def test_plcm_chooses_more_of_each_class_every_step() -> None:
    """In step t of T at most share t / T of the pool, an equal part of each class."""
    episode, _ = pool_of(features(unlabeled=6))
    counts: list[Tensor] = []

    class Watched(PLCM):
        def log_odds(self, t: int, loss: Tensor, old: Tensor) -> Tensor:
            counts.append(old.sum(-1))  # chosen in the step before
            return super().log_odds(t, loss, old)

    method = Watched(WAY, steps=3, share=0.5).double()
    last = method.labels(episode)
    assert (last.sum(1) <= 3).all() and (last.sum(-1) <= 1).all()
    counts.append(last.sum((1, 2)))
    assert [int(c.max()) <= t * WAY for t, c in enumerate(counts)] == [True] * 4
    assert (counts[1] > 0).all() and (counts[2] > counts[1]).all() and (counts[3] > counts[2]).all()


def test_plcm_takes_small_losses_first_where_all_pseudo_labels_are_right() -> None:
    g = torch.Generator().manual_seed(1)
    labels, method = torch.arange(20).repeat_interleave(40), PLCM(5, steps=2)
    method.fit_base(3 * torch.eye(20)[labels] + 0.1 * torch.randn(800, 20, generator=g), labels)
    loss = torch.linspace(0, 0.5, 6).expand(1, -1)
    for t in range(2):
        for old in (False, True):
            odds = method.log_odds(t, loss, torch.full_like(loss, old, dtype=torch.bool))
            assert (odds.diff() < 0).all(), "a larger loss is less surely right"


def test_plcm_calibrates_on_what_small_classes_have() -> None:
    torch.manual_seed(0)
    x, y = base_classes()
    keep = torch.arange(len(y)) < 4 * 40  # four of each class
    drawn: list[int] = []

    class Watched(PLCM):
        def labels(self, episode: Episode, truth: Tensor | None = None) -> Tensor:
            own = (episode.x[:, :, None, 0] == x[:, 0]).float().argmax(-1)
            assert all(len(set(row)) == len(row) for row in own.tolist())
            drawn.append(episode.n_unlabeled)
            return super().labels(episode, truth)

    Watched(5, steps=1, shot=1, unlabeled=30).fit_base(x[keep], y[keep])
    assert drawn == [5 * 3]
    with pytest.raises(InputError, match="without another labeled image"):
        PLCM(5, shot=4).fit_base(x[keep], y[keep])
