"""The gradient penalty of Wasserstein critics.

Gulrajani, Ahmed, Arjovsky, Dumoulin, Courville 2017, https://arxiv.org/abs/1704.00028
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor


def gradient_penalty(
    critic: Callable[[Float[Tensor, "n ..."]], Float[Tensor, "n ..."]],
    real: Float[Tensor, "n ..."],
    fake: Float[Tensor, "n ..."],
) -> Float[Tensor, ""]:
    """E (||grad D(x^)||_2 - 1)^2 at random places x^ between real and generated samples.

    Args:
        critic: samples (n, *S) -> values, each of its own sample alone.
        real: (n, *S) samples.
        fake: (n, *S) generated ones.

    Returns:
        A scalar that can be differentiated with respect to the critic's weights.
    """
    share = torch.rand(len(real), *(1,) * (real.ndim - 1), device=real.device, dtype=real.dtype)
    between = (share * real + (1 - share) * fake).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    steepness: Tensor = gradient.flatten(1).norm(dim=1)
    return (steepness - 1).square().mean()
