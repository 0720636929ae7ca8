"""TIM and alpha-TIM against loops and autograd."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from graphfsl.methods.refine.tim import TIM, AlphaTIM
from tests.support.transductive import COUNTS, batch, means, parts, refined, task, unit


def tim_loss(
    scores: Tensor, y: list[int], weights: tuple[float, float, float], alpha: float = 1.0
) -> Tensor:
    """lambda CE - marginal H(mean) + conditional mean H, of scores (n, C), the first of which are
    the support's.
    """
    p = scores.softmax(-1)
    p_s, p_q = p[: len(y)], p[len(y) :]

    def entropy(p: Tensor) -> Tensor:
        if alpha == 1:
            return -(p * p.clamp_min(1e-300).log()).sum(-1)
        return (1 - (p.clamp_min(1e-300) ** alpha).sum(-1)) / (alpha - 1)

    ce = -torch.stack([p_s[i, y[i]].log() for i in range(len(y))]).mean()
    return weights[0] * ce - weights[1] * entropy(p_q.mean(0)) + weights[2] * entropy(p_q).mean()


@COUNTS
@pytest.mark.parametrize("rate", [0.5, 1.0])
def test_tim_equals_a_loop(counts: tuple[int, ...], rate: float) -> None:
    """The authors' two updates, feature by feature, in place of coefficients of the nodes."""
    episode, _ = task(counts)
    s, q, y = parts(episode)
    s, q, labels = unit(s), unit(q), F.one_hot(torch.tensor(y), 3).double()
    w = means(s, y)
    a, b = 0.1 / 1.1, len(s) / len(q)
    for _ in range(25):
        p_s, p_q = ((-7.5 * torch.cdist(x, w).square()).softmax(-1) for x in (s, q))
        target = p_q**1.1 / (p_q**1.1).sum(0) ** 0.5
        target = target / target.sum(1, keepdim=True)
        for c in range(3):
            new = a * sum(labels[i, c] * s[i] + p_s[i, c] * (w[c] - s[i]) for i in range(len(s)))
            new = new + b * sum(
                target[j, c] * q[j] + p_q[j, c] * (w[c] - q[j]) for j in range(len(q))
            )
            new = new / (a * labels[:, c].sum() + b * target[:, c].sum())
            w = torch.cat([w[:c], (w[c] + rate * (new - w[c]))[None], w[c + 1 :]])
    found = refined(TIM(steps=25, rate=rate), episode)[0]
    torch.testing.assert_close(found, -7.5 * torch.cdist(unit(episode.x[0]), w).square())


def test_the_steps_of_tim_lower_its_loss() -> None:
    episode, _ = task((5, 5, 5), spread=0.5)
    y = parts(episode)[2]
    losses = [
        float(tim_loss(refined(TIM(steps=t), episode)[0], y, (0.1, 1, 0.1))) for t in range(40)
    ]
    assert all(b <= a + 1e-9 for a, b in itertools.pairwise(losses)), losses
    assert losses[-1] < losses[0] - 0.05
    assert losses[-1] > -math.log(3), "no mutual information is more than log C"


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0, 7.0])
def test_the_gradient_of_alpha_tim_is_that_of_autograd(alpha: float) -> None:
    """In a batch with padding and an absent class."""
    tasks = [task((4, 4, 4)), task((1, 3), shot=1, seed=1)]
    episode, refiner = (
        batch(*tasks),
        AlphaTIM(alpha, cross_entropy=0.7, marginal=1.3, conditional=0.4),
    )
    k, z = episode.n_support, unit(episode.x.where(episode.mask[..., None], 1.0))
    w = z[:, :3].clone() + 0.1
    real = episode.mask[:, k:].unsqueeze(1).double()
    found = refiner.gradient(w, z, episode.w[:, :k].mT, real)
    for i, (alone, _) in enumerate(tasks):
        mine = w[i, : alone.way].clone().requires_grad_()
        scores = -7.5 * torch.cdist(unit(alone.x[0]), mine).square()
        tim_loss(scores, parts(alone)[2], (0.7, 1.3, 0.4), alpha).backward()
        torch.testing.assert_close(found[i, : alone.way], mine.grad)
        assert not found[i, alone.way :].any()


@pytest.mark.parametrize("alpha", [1.0, 2.0])
def test_alpha_tim_is_adam_on_its_loss(alpha: float) -> None:
    episode, _ = task((7, 1, 4))
    s, _, y = parts(episode)
    z, w = unit(episode.x[0]), means(unit(s), y).requires_grad_()
    optimizer = torch.optim.Adam([w], lr=1e-3)
    for _ in range(30):
        optimizer.zero_grad()
        tim_loss(-7.5 * torch.cdist(z, w).square(), y, (1, 1, 1), alpha).backward()
        optimizer.step()
    found = refined(AlphaTIM(alpha, steps=30, lr=1e-3), episode)[0]
    torch.testing.assert_close(found, -7.5 * torch.cdist(z, w.detach()).square())
