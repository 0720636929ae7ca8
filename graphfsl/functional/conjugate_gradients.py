"""Linear systems whose matrix is only known by its products, by conjugate gradients.

r = p = b
repeat:  t = |r|^2 / <p, A p>;  x = x + t p;  r' = r - t A p;  p = r' + |r'|^2 / |r|^2 p
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

Map = Callable[[Tensor], Tensor]
Product = Callable[[Tensor, Tensor], Tensor]


def identity(r: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """What `lift` is where a system is symmetric in the plain inner product: r itself.

    Args:
        r: (…).

    Returns:
        (…) the same tensor.
    """
    return r


def conjugate_gradients(
    apply: Product,
    b: Float[Tensor, "*shape"],
    steps: int,
    tolerance: float,
    dot: Product,
    lift: Map = identity,
    may_stop: bool = False,
) -> Float[Tensor, "*shape"]:
    """Solve A x = b for many systems at once, each of which rests once it is solved.

    Example:
        >>> a = torch.tensor([[4.0, 1.0], [1.0, 3.0]])
        >>> inner = lambda u, v: (u * v).sum()
        >>> conjugate_gradients(lambda p, _: a @ p, torch.tensor([1.0, 2.0]), 2, 1e-6, inner)
        tensor([0.0909, 0.6364])

    Args:
        apply: (p, lift(p)) -> A p.
        b: (…) the right sides.
        steps: at the most; with exact numbers as many as a system has unknowns are enough.
        tolerance: a system rests once the length of its residual is this share of that of b.
        dot: (u, v) -> the sum of u v over the axes of one system, in a shape that broadcasts with
            b. What systems it keeps apart do not meet.
        lift: Q, where A is symmetric and positive not in <u, v> but in <u, Q v>; it is linear.
        may_stop: end when all systems rest. It asks the device in each step, so that a GPU waits.

    Returns:
        (…) x, without a derivative of its own.

    Source:
        Hestenes, Stiefel 1952, https://doi.org/10.6028/jres.049.044.
    """
    x = torch.zeros_like(b)
    r = p = b
    lifted_r = lifted_p = lift(b)
    square = dot(r, lifted_r)
    enough = tolerance**2 * square
    for _ in range(steps):
        # At rest, further steps would be made of rounding.
        active = square > enough
        if may_stop and not bool(active.any()):
            break
        product = apply(p, lifted_p)
        curvature = dot(lifted_p, product)
        step = (square / curvature).where(active & (curvature > 0), 0).to(b.dtype)
        x = torch.addcmul(x, p, step)
        r = torch.addcmul(r, product, step, value=-1)

        before = square
        lifted_r = lift(r)
        square = dot(r, lifted_r)
        turn = (square / before).where(active & (before > 0), 0).to(b.dtype)
        p = torch.addcmul(r, p, turn)
        lifted_p = p if lift is identity else torch.addcmul(lifted_r, lifted_p, turn)
    return x
