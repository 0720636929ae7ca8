"""Adam as a function of a gradient that is known in closed form. Kingma, Ba 2015,
https://arxiv.org/abs/1412.6980
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor


@torch.no_grad()
def adam(
    gradient: Callable[[Float[Tensor, "*shape"]], Float[Tensor, "*shape"]],
    x: Float[Tensor, "*shape"],
    lr: float,
    steps: int,
) -> Float[Tensor, "*shape"]:
    """x after `steps` steps of torch.optim.Adam with its defaults, without autograd. Every element
    is moved by itself, so that tasks which share a tensor do not meet. (…) -> (…)."""
    x, first, second = x.clone(), torch.zeros_like(x), torch.zeros_like(x)
    for step in range(1, steps + 1):
        g = gradient(x)
        first.lerp_(g, 1 - 0.9)
        second.mul_(0.999).addcmul_(g, g, value=1 - 0.999)
        root = second.sqrt().div_((1 - 0.999**step) ** 0.5).add_(1e-8)
        x.addcdiv_(first, root, value=-lr / (1 - 0.9**step))
    return x
