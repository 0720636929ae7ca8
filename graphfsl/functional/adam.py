"""Adam as functions: one step, and descent by a gradient that is known in closed form."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

DECAY, SQUARE_DECAY, LEAST = 0.9, 0.999, 1e-8  # beta_1, beta_2 and epsilon of torch.optim.Adam


def adam_step(
    x: Float[Tensor, "*shape"],
    gradient: Float[Tensor, "*shape"],
    first: Float[Tensor, "*shape"],
    second: Float[Tensor, "*shape"],
    step: int,
    lr: float,
    decay: float = DECAY,
) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
    """One step of torch.optim.Adam with its defaults; nothing is changed in place.

    Every element is moved by itself, so that tasks which share a tensor do not meet.

    Args:
        x: (…) what is moved.
        gradient: (…) at x.
        first: (…) the running mean of gradients, zero at first.
        second: (…) the running mean of their squares, zero at first.
        step: the number of the step, from 1 on.
        lr: the rate.
        decay: beta_1, how much of the mean gradient is kept.

    Returns:
        x, first and second after the step. The root has no derivative where a gradient is zero.

    Source:
        Kingma, Ba 2015, https://arxiv.org/abs/1412.6980, algorithm 1.
    """
    first = first.lerp(gradient, 1 - decay)
    second = torch.addcmul(SQUARE_DECAY * second, gradient, gradient, value=1 - SQUARE_DECAY)
    root = second.sqrt() / (1 - SQUARE_DECAY**step) ** 0.5 + LEAST
    moved = torch.addcdiv(x, first, root, value=-lr / (1 - decay**step))
    return moved, first, second


@torch.no_grad()
def adam(
    gradient: Callable[[Float[Tensor, "*shape"]], Float[Tensor, "*shape"]],
    x: Float[Tensor, "*shape"],
    lr: float,
    steps: int,
) -> Float[Tensor, "*shape"]:
    """Descend from x by a gradient in closed form, without autograd.

    Args:
        gradient: x -> the gradient there, of the same shape.
        x: (…) where it begins.
        lr: the rate of each step.
        steps: how many, see `adam_step`.

    Returns:
        (…) x after the last step.
    """
    first = second = torch.zeros_like(x)
    for step in range(1, steps + 1):
        x, first, second = adam_step(x, gradient(x), first, second, step, lr)
    return x
