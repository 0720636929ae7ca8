"""Normalised affinities and the closed form of propagation on them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from graphfsl.functional.statistics import or_one, total_or_one


def symmetric(a: Float[Tensor, "*B n n"], eps: float = 0.0) -> Float[Tensor, "*B n n"]:
    """Normalise affinities by the degrees of both ends: S = D^-1/2 A D^-1/2.

    Args:
        a: (…, n, n) affinities, not negative.
        eps: added to every degree, D = diag(sum_j a_ij + eps).

    Returns:
        (…, n, n), zero for a node without edges.
    """
    degree = a.sum(-1) + eps
    scale = or_one(degree).rsqrt().where(degree > 0, 0)
    return scale.unsqueeze(-1) * a * scale.unsqueeze(-2)


def stochastic(a: Float[Tensor, "*B n m"]) -> Float[Tensor, "*B n m"]:
    """Scale rows to sum one: D^-1 A.

    Args:
        a: (…, n, m), not negative.

    Returns:
        (…, n, m); the row of a node without edges stays zero.
    """
    return a / total_or_one(a)


def propagate(
    s: Float[Tensor, "*B n n"], y: Float[Tensor, "*B n C"], alpha: Float[Tensor, ""] | float
) -> Float[Tensor, "*B n C"]:
    """The limit of F <- alpha S F + Y, which is F = (I - alpha S)^-1 Y, differentiable.

    Args:
        s: (…, n, n) of spectral norm at most 1.
        y: (…, n, C) label weights.
        alpha: how far labels go, in [0, 1).

    Returns:
        (…, n, C).

    Source:
        Zhou et al. 2004,
        https://proceedings.neurips.cc/paper/2003/hash/87682805257e619d49b8e0dfdc14affa-Abstract.html
    """
    eye = torch.eye(s.shape[-1], dtype=s.dtype, device=s.device)
    spread: Tensor = torch.linalg.solve_ex(eye - alpha * s, y)[0]
    return spread


def propagator(
    s: Float[Tensor, "*B n n"], alpha: float
) -> Callable[[Float[Tensor, "*B n C"]], Float[Tensor, "*B n C"]]:
    """`propagate` on one graph for labels that come one after the other; factorised once.

    Args:
        s: (…, n, n) of spectral norm at most 1.
        alpha: how far labels go, in [0, 1).

    Returns:
        Label weights (…, n, C) -> (…, n, C).
    """
    eye = torch.eye(s.shape[-1], dtype=s.dtype, device=s.device)
    lu, pivots, _ = torch.linalg.lu_factor_ex(eye - alpha * s)
    return lambda y: torch.linalg.lu_solve(lu, pivots, y)


def left_out(
    s: Float[Tensor, "*B n n"], y: Float[Tensor, "*B k C"], alpha: float
) -> Float[Tensor, "*B k C"]:
    """What all other labels say of each of the first k nodes, by propagation.

        F_ic = sum_(j != i) G_ij y_jc / sum_(j != i) y_jc,  G = (I - alpha S)^-1

    Args:
        s: (…, n, n) of spectral norm at most 1.
        y: (…, k, C) label weights of the first k nodes, the only ones that have a label.
        alpha: how far labels go, in [0, 1).

    Returns:
        (…, k, C), zero for a class that no other of these nodes has.
    """
    k = y.shape[-2]
    source = torch.eye(s.shape[-1], k, dtype=s.dtype, device=s.device).expand(*s.shape[:-1], k)
    g = propagate(s, source, alpha)[..., :k, :]
    g = g - torch.diag_embed(g.diagonal(dim1=-2, dim2=-1))
    others = y.sum(-2, keepdim=True) - y
    return ((g @ y) / or_one(others)).where(others > 0, 0)
