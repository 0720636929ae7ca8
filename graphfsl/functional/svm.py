"""The multiclass support vector machine of Crammer and Singer, all tasks at once, differentiable."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from graphfsl.functional.statistics import or_one


def crammer_singer(
    z: Float[Tensor, "B n d"], w: Float[Tensor, "B n C"], c: float = 0.1, steps: int = 100
) -> Float[Tensor, "B C d"]:
    """The W of least 1/2 ||W||^2 + c sum_i omega_i max_k (1 - y_ik + W_k z_i - sum_l y_il W_l z_i), with
    omega_i = sum_k w_ik, omega_i y_i = w_i: scikit-learn's LinearSVC(multi_class="crammer_singer") without intercept.

    W = A^T Z with the A of least 1/2 tr(A^T K A) - sum_i y_i . a_i, K = Z Z^T, where b_i = c w_i - a_i is nonnegative
    and sums to c omega_i (the dual problem): `steps` of accelerated projected gradients without autograd, then one
    Newton step with it on the entries of b above zero, which is exact there.
    """
    weight = w.sum(-1).unsqueeze(-2)
    z = z.masked_fill((weight == 0).mT, 0)
    k, cw, radius, here = z @ z.mT, c * w.mT, c * weight, (w.sum(-2) > 0).unsqueeze(-1)
    y = w.mT / or_one(weight)
    with torch.no_grad():
        b = _minimise(k, cw, y, radius, here, steps)
    if torch.is_grad_enabled():
        free = (b > 0).to(b.dtype)
        b = b + free * (radius - b.sum(-2, keepdim=True)) / free.sum(-2, keepdim=True).clamp_min(1)
        b = b - _Solve.apply(k, free, _tangent(y - (cw - b) @ k, free), 2 * k.shape[-1])
    return (cw - b) @ z


def _minimise(
    k: Float[Tensor, "B n n"],
    cw: Float[Tensor, "B C n"],
    y: Float[Tensor, "B C n"],
    radius: Float[Tensor, "B 1 n"],
    here: Bool[Tensor, "B C 1"],
    steps: int,
) -> Float[Tensor, "B C n"]:
    """b (B, C, n): FISTA that restarts where it would climb, with a step size for every node."""
    size = 1 / k.abs().sum(-1).unsqueeze(-2).clamp_min(torch.finfo(k.dtype).tiny)  # diag(1 / size) - K is positive
    b = look = project_simplex(cw, radius, here)
    t = torch.ones_like(k[:, :1, :1])
    for _ in range(steps):
        new = project_simplex(look - size * (y - (cw - look) @ k), radius, here)
        climbs = ((look - new) * (new - b) / size).sum((-2, -1), keepdim=True) > 0
        t = torch.where(climbs, 1, t)
        following = (1 + (1 + 4 * t * t).sqrt()) / 2
        look = new + torch.where(climbs, 0, (t - 1) / following) * (new - b)
        b, t = new, following
    return b


def project_simplex(
    v: Float[Tensor, "*B C n"], radius: Float[Tensor, "*B 1 n"], here: Bool[Tensor, "*B C 1"]
) -> Float[Tensor, "*B C n"]:
    """The nearest nonnegative columns of sum `radius` that are zero where not `here`: max(v - tau, 0)."""
    v = v.masked_fill(~here, -1e30)
    s = v.sort(-2, descending=True)[0]
    count = torch.arange(1, v.shape[-2] + 1, device=v.device).unsqueeze(-1)
    tau = (s.cumsum(-2) - radius) / count
    last = (s > tau).sum(-2, keepdim=True).clamp_min(1)
    return (v - tau.gather(-2, last - 1)).clamp_min(0) * (radius > 0)


def _tangent(x: Float[Tensor, "B C n"], free: Float[Tensor, "B C n"]) -> Float[Tensor, "B C n"]:
    """x on the free entries of every node, less their mean: the directions that keep sums."""
    x = x * free
    return x - free * x.sum(-2, keepdim=True) / free.sum(-2, keepdim=True).clamp_min(1)


class _Solve(torch.autograd.Function):
    """The tangent x with tangent(x K) = r for a tangent r, (B, C, n), by conjugate gradients."""

    generate_vmap_rule = True

    @staticmethod
    def forward(k: Tensor, free: Tensor, r: Tensor, steps: int) -> Tensor:
        def dot(a: Tensor, b: Tensor) -> Tensor:
            return (a * b).sum((-2, -1), keepdim=True)

        r = _tangent(r, free)  # again, as r may be rounding, whose mean is not zero
        x, d, size = torch.zeros_like(r), r, dot(r, r)
        enough = size * torch.finfo(r.dtype).eps ** 1.5

        def ratio(a: Tensor, b: Tensor) -> Tensor:
            return torch.where((size > enough) & (b > 0), a / b, 0)  # from here on steps would be made of rounding

        for _ in range(steps):
            a = _tangent(d @ k, free)
            t = ratio(size, dot(d, a))
            x, r = x + t * d, r - t * a
            last, size = size, dot(r, r)
            d = r + ratio(size, last) * d
        return x

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        k, free, _, ctx.steps = inputs
        ctx.save_for_backward(k, free, output)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        k, free, x = ctx.saved_tensors
        u = _Solve.apply(k, free, _tangent(grads[0], free), ctx.steps)
        return -x.mT @ u, None, u, None
