"""Inner and outer loops written out by hand, which the rules of the MAML family must equal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from graphfsl.core.adapt import Adapt
from graphfsl.core.episode import Episode, Target
from graphfsl.core.pipeline import Pipeline
from graphfsl.methods.heads.linear import Linear
from graphfsl.testing import WAY, TinyEncoder, episodes

SHOT = 2
Params = dict[str, Tensor]
# (parameters, gradients, loss, state, step) -> parameters and state after a step
Move = Callable[[Params, Params, Tensor, Any, int], tuple[Params, Any]]


def network(seed: int = 0) -> Pipeline:
    """A small encoder with BatchNorm under `apart` and the linear head, in float64."""
    torch.manual_seed(seed)
    return Pipeline(TinyEncoder(), head=Linear(6, WAY), batch_norm="apart").double()


def tasks(batch: int = 3) -> tuple[Episode, Target]:
    """A few tasks in float64."""
    episode, target = episodes(batch=batch, way=WAY, shot=SHOT, query=3, unlabeled=0)
    return episode.to(dtype=torch.float64), target


def forward(p: Params, x: Tensor) -> Tensor:
    """What `network` answers."""
    z = F.conv2d(x, p["encoder.conv.weight"], p["encoder.conv.bias"], stride=2, padding=1)
    weight, bias = p["encoder.norm.weight"], p["encoder.norm.bias"]
    z = F.batch_norm(z, None, None, weight, bias, training=True)
    z = F.max_pool2d(F.softplus(z), 2).mean((-1, -2))
    return z @ p["head.linear.weight"].T + p["head.linear.bias"]


def support_loss(p: Params, episode: Episode, task: int, shot_sum: bool) -> Tensor:
    """The mean cross-entropy of a support, or the sum over one shot."""
    support = episode.x[task, episode.support]
    labels = episode.w[task, episode.support].argmax(-1)
    loss = F.cross_entropy(forward(p, support), labels)
    return WAY * loss if shot_sum else loss


def query_loss(p: Params, episode: Episode, target: Target, task: int) -> Tensor:
    """The mean cross-entropy of a task's queries."""
    return F.cross_entropy(forward(p, episode.x[task, episode.query]), target.query[task])


def outer_loss(
    p: Params,
    move: Move,
    steps: int,
    episode: Episode,
    target: Target,
    adapted: list[str] | None = None,
    shot_sum: bool = False,
    first_order: bool = False,
) -> Tensor:
    """The mean over tasks of the query loss after inner steps, one task at a time."""
    names = list(p) if adapted is None else adapted
    losses = []
    for task in range(len(episode.x)):
        fast, state = {name: p[name] for name in names}, None
        for step in range(steps):
            loss = support_loss({**p, **fast}, episode, task, shot_sum)
            found = torch.autograd.grad(loss, list(fast.values()), create_graph=not first_order)
            seen = loss.detach() if first_order else loss
            fast, state = move(fast, dict(zip(fast, found, strict=True)), seen, state, step)
        losses.append(query_loss({**p, **fast}, episode, target, task))
    return torch.stack(losses).mean()


def own_parameters(model: Adapt) -> Params:
    """The net's parameters under the names that `forward` takes; the very same tensors."""
    return dict(model.net.named_parameters())


def gradient(loss: Tensor, model: Adapt) -> Params:
    """The gradient of a loss for all that a model learns, zeros where it has none."""
    learned = {name: p for name, p in model.named_parameters() if p.requires_grad}
    found = torch.autograd.grad(
        loss, list(learned.values()), allow_unused=True, materialize_grads=True
    )
    return dict(zip(learned, found, strict=True))


def expect_same(found: Params, right: Params, tolerance: float = 1e-10) -> None:
    """The same names, and gradients as good as equal."""
    assert found.keys() == right.keys()
    for name, value in found.items():
        torch.testing.assert_close(
            value, right[name], atol=tolerance, rtol=tolerance, msg=told(name)
        )


def told(name: str) -> Callable[[str], str]:
    """What is wrong, behind the name of the parameter."""
    return lambda message: f"{name}: {message}"


def expect_hand_written(model: Adapt, move: Move, **options: Any) -> None:
    """Loss and meta-gradient, for net and rule, are those of the loop by hand."""
    episode, target = tasks()
    right = outer_loss(own_parameters(model), move, model.steps, episode, target, **options)
    for chunk in (1, 2, 3):
        model.task_chunk = chunk
        loss = model.loss(episode, target)
        torch.testing.assert_close(loss, right, atol=1e-12, rtol=1e-12)
        expect_same(gradient(loss, model), gradient_of_graph(right, model))


def gradient_of_graph(loss: Tensor, model: Adapt) -> Params:
    """As `gradient`, of a loss whose graph is needed again."""
    names, tensors = zip(*model.named_parameters(), strict=True)
    found = torch.autograd.grad(
        loss, tensors, retain_graph=True, allow_unused=True, materialize_grads=True
    )
    return dict(zip(names, found, strict=True))


def expect_finite_differences(model: Adapt, tolerance: float = 1e-6) -> None:
    """The meta-gradient along a random direction of each parameter is what the loss rises by."""
    episode, target = tasks(2)
    found = gradient(model.loss(episode, target), model)
    g = torch.Generator().manual_seed(0)
    width = 1e-5
    for name, p in model.named_parameters():
        direction = torch.randn(p.shape, generator=g, dtype=p.dtype)
        values = []
        with torch.no_grad():
            for sign in (1, -1):
                p.add_(direction, alpha=sign * width)
                values.append(model.loss(episode, target))
                p.sub_(direction, alpha=sign * width)
        rise = (values[0] - values[1]) / (2 * width)
        torch.testing.assert_close(
            (found[name] * direction).sum(),
            rise,
            atol=tolerance,
            rtol=tolerance,
            msg=told(name),
        )


def shaken(model: Adapt, size: float = 0.3) -> Adapt:
    """The model with other values in the parameters of its rule than those that it starts at."""
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.rule.parameters():
            p.add_(size * torch.randn(p.shape, generator=g, dtype=p.dtype))
    return model
