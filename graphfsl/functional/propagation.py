"""Normalised affinities and the closed form of propagation on them."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from graphfsl.functional.statistics import or_one, total_or_one


def symmetric(a: Float[Tensor, "*B n n"], eps: float = 0.0) -> Float[Tensor, "*B n n"]:
    """S = D^-1/2 A D^-1/2 with D = diag(sum_j a_ij + eps); zero for a node without edges. (…, n, n)
    -> (…, n, n).
    """
    degree = a.sum(-1) + eps
    scale = or_one(degree).rsqrt().where(degree > 0, 0)
    return scale.unsqueeze(-1) * a * scale.unsqueeze(-2)


def stochastic(a: Float[Tensor, "*B n m"]) -> Float[Tensor, "*B n m"]:
    """D^-1 A: rows sum to one, or to zero for a node without edges. (…, n, m) -> (…, n, m)."""
    return a / total_or_one(a)


def propagate(
    s: Float[Tensor, "*B n n"], y: Float[Tensor, "*B n C"], alpha: Float[Tensor, ""] | float
) -> Float[Tensor, "*B n C"]:
    """F = (I - alpha S)^-1 Y, the limit of F <- alpha S F + Y, differentiable.

    S of spectral norm <= 1, alpha in [0, 1). (…, n, n), (…, n, C) -> (…, n, C).
    """
    eye = torch.eye(s.shape[-1], dtype=s.dtype, device=s.device)
    return torch.linalg.solve_ex(eye - alpha * s, y)[0]
