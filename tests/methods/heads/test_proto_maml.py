"""Proto-MAML: it starts as prototypical networks, and its gradient goes through that start."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from graphfsl.core.adapt import Adapt
from graphfsl.core.episode import Episode, Target
from graphfsl.core.objectives import support_loss
from graphfsl.core.pipeline import Pipeline
from graphfsl.core.rules import GradientDescent
from graphfsl.methods.adapt.maml import MAML
from graphfsl.methods.heads.linear import Linear
from graphfsl.methods.heads.proto_maml import ProtoMAML
from graphfsl.methods.heads.protonet import ProtoNet
from graphfsl.testing import DIM, WAY, TinyEncoder, episodes

LR = 0.1


def exact(batch: int = 2) -> tuple[Episode, Target]:
    episode, target = episodes(batch=batch, unlabeled=0)
    return episode.to(dtype=torch.float64), target


def net(head: torch.nn.Module) -> Pipeline:
    torch.manual_seed(0)
    return Pipeline(TinyEncoder(), head=head, batch_norm="support").double()  # type: ignore[arg-type]


def test_without_a_step_it_has_the_softmax_of_prototypical_networks() -> None:
    episode, _ = exact()
    wanted = net(ProtoNet())(episode).softmax(-1)
    for model in (net(ProtoMAML()), MAML(net(ProtoMAML()), steps=0)):
        torch.testing.assert_close(model(episode).softmax(-1), wanted, atol=1e-13, rtol=0)


def by_hand(p: dict[str, Tensor], x: Tensor, y: Tensor, queries: Tensor, truth: Tensor) -> Tensor:
    """One task's outer loss after two steps, every gradient partial: written out."""

    def features(p: dict[str, Tensor], x: Tensor, support: Tensor) -> Tensor:
        z, s = (
            F.conv2d(t, p["encoder.conv.weight"], p["encoder.conv.bias"], stride=2, padding=1)
            for t in (x, support)
        )
        var, mean = torch.var_mean(s, (0, 2, 3), keepdim=True, correction=0)
        z = (z - mean) / (var + 1e-5).sqrt()
        z = z * p["encoder.norm.weight"].view(-1, 1, 1) + p["encoder.norm.bias"].view(-1, 1, 1)
        return F.max_pool2d(F.softplus(z), 2).mean((-1, -2))

    z = features(p, x, x)
    mean = torch.stack([z[y == c].mean(0) for c in range(WAY)])
    theta = {**p, "weight": 2 * mean, "bias": -mean.square().sum(-1)}
    for _ in range(2):
        held = {n: t.view_as(t) for n, t in theta.items()}  # partial: weight is made of the encoder
        scores = F.linear(features(held, x, x), held["weight"], held["bias"])
        grads = torch.autograd.grad(
            F.cross_entropy(scores, y), list(held.values()), create_graph=True
        )
        theta = {n: t - LR * g for (n, t), g in zip(theta.items(), grads, strict=True)}
    scores = F.linear(features(theta, queries, x), theta["weight"], theta["bias"])
    return F.cross_entropy(scores, truth)


@pytest.mark.parametrize("task_chunk", [1, 2])
def test_meta_gradient_equals_a_hand_written_loop(task_chunk: int) -> None:
    episode, target = exact()
    inner = net(ProtoMAML())
    p = {n: t.detach().clone().requires_grad_() for n, t in inner.named_parameters()}
    losses = [
        by_hand(
            p,
            episode.x[i, episode.support],
            episode.w[i, episode.support].argmax(-1),
            episode.x[i, episode.query],
            target.query[i],
        )
        for i in range(2)
    ]
    wanted = torch.autograd.grad(torch.stack(losses).mean(), list(p.values()))
    model = Adapt(inner, GradientDescent(LR), 2, support_loss, task_chunk=task_chunk)
    loss = model.loss(episode, target)
    loss.backward()
    torch.testing.assert_close(loss, torch.stack(losses).mean(), atol=1e-10, rtol=0)
    for parameter, g in zip(inner.parameters(), wanted, strict=True):
        torch.testing.assert_close(parameter.grad, g, atol=1e-10, rtol=1e-8)


def test_meta_gradient_agrees_with_finite_differences() -> None:
    episode, target = exact()
    inner = net(ProtoMAML())
    model = MAML(inner, steps=2, lr=LR)
    model.set_batch_norm("support")
    model.loss(episode, target).backward()
    g = torch.Generator().manual_seed(0)
    step = {n: torch.randn(p.shape, generator=g).double() for n, p in inner.named_parameters()}
    slopes = [(p.grad * step[n]).sum() for n, p in inner.named_parameters() if p.grad is not None]
    slope = torch.stack(slopes).sum()
    values = []
    for side in (1e-5, -2e-5):
        with torch.no_grad():
            for n, p in inner.named_parameters():
                p.add_(side * step[n])
            values.append(model.loss(episode, target))
    found = (values[0] - values[1]) / 2e-5
    torch.testing.assert_close(slope, found, atol=1e-6, rtol=1e-6)


def test_permuted_classes_have_their_scores_permuted_which_maml_does_not_give() -> None:
    episode, _ = exact()
    order = torch.tensor([2, 0, 1])
    permuted = episode.replace(w=episode.w[..., order])
    proto = MAML(net(ProtoMAML()), steps=3)
    torch.testing.assert_close(proto(permuted), proto(episode)[..., order], atol=1e-13, rtol=0)
    maml = MAML(net(Linear(DIM, WAY)), steps=3)
    assert (maml(permuted) - maml(episode)[..., order]).abs().max() > 0.1
    assert (proto.class_order_sensitive, maml.class_order_sensitive) == (False, True)


def test_any_number_of_classes_is_answered() -> None:
    model = MAML(net(ProtoMAML()), steps=2)
    for way in (2, 5):
        episode, _ = episodes(way=way)
        assert model(episode.to(dtype=torch.float64)).shape == (2, 2 * way, way)
