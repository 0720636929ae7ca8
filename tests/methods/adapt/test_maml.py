"""MAML: the outer gradient of a hand-written loop, and the constants of its paper."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from graphfsl.core.adapt import Adapt
from graphfsl.core.episode import Episode, Target
from graphfsl.core.objectives import sum_over_shot
from graphfsl.core.pipeline import Pipeline
from graphfsl.core.rules import GradientDescent
from graphfsl.methods.adapt.maml import MAML
from graphfsl.methods.heads.linear import Linear
from graphfsl.testing import DIM, TinyEncoder, episodes, learner


def test_maml_begins_with_a_row_of_its_paper() -> None:
    """Omniglot, 5-way: one inner step of 0.4 on the sum over the support, divided by the shots."""
    maml = MAML(Pipeline(head=Linear(DIM, WAY)))
    assert (maml.steps, maml.rule.lr, maml.first_order) == (1, 0.4, False)  # type: ignore[attr-defined]


LR, STEPS, WAY, SHOT = 0.3, 3, 3, 2


def by_hand(
    p: dict[str, Tensor], episode: Episode, target: Target, first_order: bool = False
) -> Tensor:
    """MAML's outer loss with `torch.autograd.grad`, one task at a time, BatchNorm on the batch that
    is passed.
    """

    def forward(p: dict[str, Tensor], x: Tensor) -> Tensor:
        z = F.conv2d(x, p["encoder.conv.weight"], p["encoder.conv.bias"], stride=2, padding=1)
        z = F.batch_norm(
            z, None, None, p["encoder.norm.weight"], p["encoder.norm.bias"], training=True
        )
        z = F.max_pool2d(F.softplus(z), 2).mean((-1, -2))
        return z @ p["head.linear.weight"].T + p["head.linear.bias"]

    total: Tensor = torch.zeros((), dtype=torch.float64)
    for i in range(len(episode.x)):
        support, query = episode.x[i, episode.support], episode.x[i, episode.query]
        labels = episode.w[i, episode.support].argmax(-1)
        fast = dict(p)
        for _ in range(STEPS):
            loss = F.cross_entropy(forward(fast, support), labels, reduction="sum") / SHOT
            grads = torch.autograd.grad(loss, list(fast.values()), create_graph=not first_order)
            fast = {n: v - LR * g for (n, v), g in zip(fast.items(), grads, strict=True)}
        total = total + F.cross_entropy(forward(fast, query), target.query[i])
    return total / len(episode.x)


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("task_chunk", [1, 2, 4])
def test_meta_gradient_equals_a_hand_written_loop(task_chunk: int, first_order: bool) -> None:
    torch.manual_seed(0)
    net = Pipeline(TinyEncoder(), head=Linear(6, WAY)).double()
    episode, target = episodes(batch=4, way=WAY, shot=SHOT, query=3, unlabeled=0)
    episode = episode.to(dtype=torch.float64)
    params = {n: p.detach().clone().requires_grad_() for n, p in net.named_parameters()}
    expected_loss = by_hand(params, episode, target, first_order)
    expected = torch.autograd.grad(expected_loss, list(params.values()))
    before = copy.deepcopy(net.state_dict())
    model = MAML(net, STEPS, LR, first_order, task_chunk=task_chunk)
    loss = model.loss(episode, target)
    loss.backward()
    torch.testing.assert_close(loss, expected_loss, atol=1e-10, rtol=1e-10)
    for (name, p), g in zip(net.named_parameters(), expected, strict=True):
        torch.testing.assert_close(
            p.grad,
            g,
            atol=1e-10,
            rtol=1e-8,
            msg=lambda m, name=name: f"{name}: {m}",  # type: ignore[misc]
        )
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items()), (
        "the net was mutated"
    )


def test_scale_of_the_inner_loss() -> None:
    """alpha on the authors' loss equals N * alpha on the mean."""
    net = learner(head="linear").net
    episode, _ = episodes()
    ours = MAML(net, steps=2, lr=0.1).eval()(episode)
    mean = Adapt(net, GradientDescent(0.1 * WAY), 2).eval()(episode)
    torch.testing.assert_close(ours, mean, atol=1e-5, rtol=1e-5)


def test_the_inner_loss_counts_the_classes_that_are_there() -> None:
    """sum_i CE_i / K over N classes: one whose label no node has is none of the N."""
    net = learner(head="linear").net
    episode, _ = episodes(batch=1)
    w = episode.w.clone()
    w[..., 1] = 0
    fewer = episode.replace(w=w, relabeled=False)
    support = fewer.parts(query=False, unlabeled=False)
    scores = net.score(support)[0]
    expected = -(support.w[0] * scores.log_softmax(-1).where(support.w[0] > 0, 0)).sum() / SHOT
    torch.testing.assert_close(sum_over_shot(net.score, fewer, 0), expected)


def test_maml_normalises_support_and_queries_each_by_itself() -> None:
    """As the published numbers do, unless the net has a policy of its own."""
    net = learner(head="linear").net
    net.set_batch_norm("running")
    assert MAML(net).batch_norm == "apart"
    for policy in ("support", "joint"):
        net.set_batch_norm(policy)
        assert MAML(net).batch_norm == policy
