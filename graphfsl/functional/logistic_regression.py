"""Multinomial logistic regression of weighted nodes, all tasks at once.

It is differentiable in nodes and weights.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from graphfsl.functional.conjugate_gradients import conjugate_gradients
from graphfsl.functional.newton import damping
from graphfsl.functional.statistics import total_or_one


def logistic_regression(
    z: Float[Tensor, "B n d"],
    w: Float[Tensor, "B n C"],
    c: float = 1.0,
    steps: int = 15,
    inner: int = 20,
) -> tuple[Float[Tensor, "B C d"], Float[Tensor, "B C"]]:
    """Multinomial logistic regression of weighted nodes, differentiable in nodes and weights.

    It is the W, b of least

        1/2 ||W||^2 + c sum_i sum_k w_ik (-log softmax_k(W z_i + b))

    which is scikit-learn's LogisticRegression(C=c) with sample weights. Damped Newton steps are
    each solved by conjugate gradients, without autograd; two more of the former with it make first
    and second derivatives those of the solution.

    With Omega = diag(sum_k w_ik), M = diag(1, …, 1, 0) + c/2 (Z, 1)^T Omega (Z, 1) is Boehning's
    bound of the Hessian, the same for every class. In coordinates x with (W, b) = x E^T (Z, 1) M^-1
    and Q = E^T (Z, 1) M^-1 (Z, 1)^T E the solution is the root of the gradient

        gamma(x) = x + (c Omega (p - f / 2) - c w) E,    f = x Q E^T,    p = softmax(f)

    With n <= d the coordinates are those of the nodes, E = I; then only Z Z^T is needed. Otherwise
    Q = I.

    Args:
        z: (B, n, d) features.
        w: (B, n, C) label weights; nodes without weight are not read.
        c: how little the classifier is regularised.
        steps: of Newton's method.
        inner: steps of conjugate gradients in each.

    Returns:
        W (B, C, d) and b (B, C), zero for a class without weight.
    """
    weight, here = w.sum(-1), (w.sum(-2) > 0).unsqueeze(-1)
    z = z.masked_fill((weight == 0).unsqueeze(-1), 0)
    cost = c * weight.unsqueeze(-2)
    # what all classes share, of length 1
    unit = here / here.sum(-2, keepdim=True).clamp_min(1).to(z.dtype).sqrt()
    e, q, classifier = (_in_nodes if z.shape[1] <= z.shape[2] else _in_features)(z, cost)

    def newton(x: Tensor, inner: int) -> Tensor:
        f = _to_nodes(x @ q, e)
        # finite, so that a task without any label gives no NaN
        p = f.masked_fill(~here, -1e30).softmax(-2)
        gamma = x + _from_nodes(cost * (p - _centred(f, unit) / 2) - c * w.mT, e)
        delta = -_Solve.apply(e, q, cost, p, unit, gamma, inner)
        move = _to_nodes(delta @ q, e).detach().masked_fill(cost == 0, 0)
        spread = (move.amax(-2) - move.amin(-2)).amax(-1)
        moved: Tensor = x + damping(spread)[:, None, None] * delta
        return moved

    x = z.new_zeros(*here.shape[:2], q.shape[-1])
    with torch.no_grad():
        for _ in range(steps):
            x = newton(x, inner)
    if torch.is_grad_enabled():
        x = newton(newton(x, 4 * inner), 4 * inner)
    return classifier(x.masked_fill(~here, 0))


def _to_nodes(
    x: Float[Tensor, "B C m"], e: Float[Tensor, "B n m"] | None
) -> Float[Tensor, "B C n"]:
    return x if e is None else x @ e.mT


def _from_nodes(
    f: Float[Tensor, "B C n"], e: Float[Tensor, "B n m"] | None
) -> Float[Tensor, "B C m"]:
    return f if e is None else f @ e


def _centred(f: Float[Tensor, "B C n"], unit: Float[Tensor, "B C 1"]) -> Float[Tensor, "B C n"]:
    """f less its mean over the classes that are present, those of `unit`."""
    return f - unit * (unit * f).sum(-2, keepdim=True)


Coordinates = tuple[Tensor | None, Tensor, Callable[[Tensor], tuple[Tensor, Tensor]]]


def _in_nodes(z: Float[Tensor, "B n d"], cost: Float[Tensor, "B 1 n"]) -> Coordinates:
    """E = I (None) and Q = (Z, 1) M^-1 (Z, 1)^T, by Woodbury's identity; and x -> W, b."""
    half = cost / 2
    k = z @ z.mT
    eye = torch.eye(k.shape[-1], dtype=k.dtype, device=k.device)
    shrink = torch.linalg.inv_ex(eye + k * half)[0]
    free = shrink @ k
    rest = 1 - half @ free  # what the nodes leave of the constant feature, which has no penalty
    u = rest / total_or_one(half * rest)

    def classifier(x: Tensor) -> tuple[Tensor, Tensor]:
        b = (x * u).sum(-1, keepdim=True)
        return (x - half * b) @ shrink @ z, b.squeeze(-1)

    return None, free + rest.mT @ u, classifier


def _in_features(z: Float[Tensor, "B n d"], cost: Float[Tensor, "B 1 n"]) -> Coordinates:
    """E = (Z, 1) R^-T for M = R R^T and Q = I; and x -> W, b."""
    z1 = F.pad(z, (0, 1), value=1.0)  # (Z, 1)
    penalty = F.pad(z.new_ones(z.shape[-1]), (0, 1))  # diag(1, …, 1, 0)
    bound = penalty.diag() + (z1.mT * cost / 2) @ z1
    # A task without labels has nothing to fit, and no curvature along its intercept.
    unlabeled = (cost == 0).all(-1, keepdim=True)
    m = bound + (unlabeled * (1 - penalty)).diag_embed().squeeze(1)
    r = torch.linalg.cholesky_ex(m)[0]

    def classifier(x: Tensor) -> tuple[Tensor, Tensor]:
        wb = torch.linalg.solve_triangular(r, x, upper=False, left=False)
        return wb[..., :-1], wb[..., -1]

    e = torch.linalg.solve_triangular(r, z1.mT, upper=False).mT
    q = torch.eye(z1.shape[-1], dtype=z.dtype, device=z.device).expand_as(m)
    return e, q, classifier


def _curvature(
    f: Float[Tensor, "B C n"],
    cost: Float[Tensor, "B 1 n"],
    p: Float[Tensor, "B C n"],
    unit: Float[Tensor, "B C 1"],
) -> Float[Tensor, "B C n"]:
    """S f = c Omega (diag(p) - p p^T - (I - 1 1^T / C) / 2) f for every node.

    What all classes share moves no probability: without the 1 1^T, A would be singular there and
    rounding would grow.
    """
    return cost * (p * (f - (p * f).sum(-2, keepdim=True)) - _centred(f, unit) / 2)


class _Solve(torch.autograd.Function):
    """The x with A x = x + S(x Q E^T) E = r, (B, C, m); A is the derivative of gamma.

    Conjugate gradients, as A is symmetric and positive in the inner product <x, y Q>.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        e: Tensor | None, q: Tensor, cost: Tensor, p: Tensor, unit: Tensor, r: Tensor, steps: int
    ) -> Tensor:
        def apply(d: Tensor, dq: Tensor) -> Tensor:
            return d + _from_nodes(_curvature(_to_nodes(dq, e), cost, p, unit), e)

        def dot(a: Tensor, b: Tensor) -> Tensor:
            return (a * b).sum((-2, -1), keepdim=True)

        def lift(x: Tensor) -> Tensor:
            return x @ q

        return conjugate_gradients(apply, r, steps, torch.finfo(r.dtype).eps, dot, lift)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *tensors, _, ctx.steps = inputs
        ctx.save_for_backward(*tensors, output)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """The gradient of the solution x = A^-1 r for all that it was solved with.

        With u = A^-T g of the incoming gradient g, that of r is u, and that of anything else in
        A is that of -<u, S(f) E>, f = x Q E^T, u being a constant.
        """
        e, q, cost, p, unit, x = ctx.saved_tensors
        (g,) = grads

        # A^-T g = g - A^-1(S(g E^T) E) Q, so that the same solver serves.
        r = _from_nodes(_curvature(_to_nodes(g, e), cost, p, unit), e)
        u = g - _Solve.apply(e, q, cost, p, unit, r, ctx.steps) @ q

        xq = x @ q
        f = _to_nodes(xq, e)
        ue = _to_nodes(u, e)
        s_f = _curvature(f, cost, p, unit)
        s_u = _curvature(ue, cost, p, unit)
        mean_f = (p * f).sum(-2, keepdim=True)
        mean_u = (p * ue).sum(-2, keepdim=True)

        by_e = None if e is None else -s_f.mT @ u - s_u.mT @ xq
        by_q = -x.mT @ _from_nodes(s_u, e)
        diagonal = p * ue * f - ue * _centred(f, unit) / 2
        by_cost = mean_u * mean_f - diagonal.sum(-2, keepdim=True)
        by_p = -cost * (ue * f - ue * mean_f - f * mean_u)
        return by_e, by_q, by_cost, by_p, None, u, None
