"""Entropy in the inner loop: a loop by hand, and where it is plain MAML."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from graphfsl.core.episode import Episode, Target
from graphfsl.methods.adapt.entropy_maml import EntropyMAML
from graphfsl.methods.adapt.maml import MAML
from graphfsl.testing import WAY, episodes
from tests.support.hand_loops import (
    SHOT,
    expect_same,
    forward,
    gradient,
    gradient_of_graph,
    network,
    own_parameters,
    query_loss,
    support_loss,
)

LR, WEIGHT, STEPS = 0.2, 0.7, 2


def tasks_with_pool(unlabeled: int = 6) -> tuple[Episode, Target]:
    episode, target = episodes(batch=3, way=WAY, shot=SHOT, query=3, unlabeled=unlabeled)
    return episode.to(dtype=torch.float64), target


def by_hand(model: EntropyMAML, episode: Episode, target: Target) -> Tensor:
    start = own_parameters(model)
    losses = []
    for task in range(len(episode.x)):
        pool = episode.x[task, episode.unlabeled][episode.mask[task, episode.unlabeled]]
        fast = start
        for _ in range(STEPS):
            p = F.softmax(forward(fast, pool), -1)
            entropy = -(p * p.log()).sum() / len(pool)
            loss = support_loss(fast, episode, task, shot_sum=True) + WEIGHT * WAY * entropy
            found = torch.autograd.grad(
                loss, list(fast.values()), create_graph=not model.first_order
            )
            fast = {n: v - LR * g for (n, v), g in zip(fast.items(), found, strict=True)}
        losses.append(query_loss(fast, episode, target, task))
    return torch.stack(losses).mean()


@pytest.mark.parametrize("first_order", [False, True])
def test_loss_and_meta_gradient_are_those_of_a_loop_by_hand(first_order: bool) -> None:
    model = EntropyMAML(network(), STEPS, LR, WEIGHT, first_order)
    episode, target = tasks_with_pool()
    right = by_hand(model, episode, target)
    for chunk in (1, 2):
        model.task_chunk = chunk
        loss = model.loss(episode, target)
        torch.testing.assert_close(loss, right, atol=1e-12, rtol=1e-12)
        expect_same(gradient(loss, model), gradient_of_graph(right, model))


@pytest.mark.parametrize(("weight", "unlabeled"), [(0.0, 6), (WEIGHT, 0)])
def test_without_a_pool_or_its_weight_it_is_maml(weight: float, unlabeled: int) -> None:
    episode, target = tasks_with_pool(unlabeled)
    model, maml = EntropyMAML(network(), STEPS, LR, weight), MAML(network(), STEPS, LR)
    loss, right = model.loss(episode, target), maml.loss(episode, target)
    assert torch.equal(loss, right)
    expect_same(gradient(loss, model), gradient(right, maml), 0)


def test_padding_of_the_pool_counts_for_nothing() -> None:
    episode, _ = tasks_with_pool()
    model = EntropyMAML(network(), STEPS, LR, WEIGHT).eval()
    mask = episode.mask.clone()
    mask[:, episode.unlabeled.start + 4 :] = False
    padded = episode.replace(mask=mask, padded=True)
    keep = slice(0, episode.unlabeled.start + 4)
    short = episode.replace(x=episode.x[:, keep], w=episode.w[:, keep], mask=episode.mask[:, keep])
    some = slice(0, episode.query.stop)
    torch.testing.assert_close(model(padded)[:, some], model(short)[:, some])
    assert not torch.allclose(model(short)[:, some], model(episode)[:, some])
