"""Accelerated proximal gradient descent (FISTA).

x' = prox(z - gradient(z));  t' = (1 + sqrt(1 + 4 t^2)) / 2;  z' = x' + (t - 1) / t' (x' - x)
"""

from __future__ import annotations

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor


def fista(
    proximal_step: Callable[[Float[Tensor, "*shape"]], Float[Tensor, "*shape"]],
    start: Float[Tensor, "*shape"],
    steps: int,
) -> Float[Tensor, "*shape"]:
    """Minimise a smooth convex function plus one whose proximal map is known.

    Args:
        proximal_step: z -> the proximal map of a gradient step from z, whose length is at most the
            inverse of the gradient's Lipschitz constant.
        start: (…) where it begins.
        steps: how many.

    Returns:
        (…) the last x.

    Source:
        Beck, Teboulle 2009, https://doi.org/10.1137/080716542, section 4.
    """
    x = z = start
    t = 1.0
    for _ in range(steps):
        new = proximal_step(z)
        longer = (1 + (1 + 4 * t * t) ** 0.5) / 2
        z = new + (t - 1) / longer * (new - x)
        x, t = new, longer
    return x
