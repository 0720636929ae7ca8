"""The multiclass support vector machine of Crammer and Singer, all tasks at once, differentiable.

It is solved by the primal-dual interior-point method for quadratic programs (Mehrotra 1992; Nocedal
and Wright, Numerical Optimization, algorithm 16.4). The Gram matrix is the same for every class, so
that a step needs a Cholesky factor of n x n for each class, and one for the nodes' sums, where a
general solver would factor (C n) x (C n).
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from graphfsl.functional.statistics import or_one

TOLERANCE = 1e-16  # of the duality gap, beside the objective
MOST_STEPS = 50  # 10 to 20 are usual, 40 where c ||z||^2 is 1e11
SHORTENED = 0.995  # of the way to the boundary
CURVED = 1e-12  # of the largest entry of K: what is added to its diagonal at least while solving
# the same where it is differentiated: nodes that are there twice share their weight
SMOOTHED = 1e-8


def crammer_singer(
    z: Float[Tensor, "B n d"], w: Float[Tensor, "B n C"], c: float = 0.1
) -> Float[Tensor, "B C d"]:
    """The multiclass support vector machine of Crammer and Singer, differentiable.

    It is the W of least

        1/2 ||W||^2 + c sum_i omega_i max_k (1 - y_ik + W_k z_i - sum_l y_il W_l z_i)

    with omega_i = sum_k w_ik and omega_i y_i = w_i: scikit-learn's
    LinearSVC(multi_class="crammer_singer") without intercept. W = c A^T Z with the A of least 1/2
    tr(A^T K A) - sum_i y_i . a_i, K = c Z Z^T, where b_i = w_i - a_i is nonnegative and sums to
    omega_i (the dual problem, divided by c). Its gradient is y - A K = nu + s, where nu_i is a
    node's multiplier and s >= 0 is zero where b > 0. It is solved in float64 until the duality gap
    is 1e-16 of the objective. The derivative is that of the equations y - A K = nu where b > 0;
    entries of b that are zero do not move.

    Args:
        z: (B, n, d) features.
        w: (B, n, C) label weights.
        c: the price of a violated margin.

    Returns:
        W (B, C, d).

    Source:
        Crammer, Singer 2001, https://jmlr.org/papers/v2/crammer01a.html; the solver is Mehrotra's
        (Nocedal, Wright, Numerical Optimization, algorithm 16.4).
    """
    dtype = z.dtype
    z, w = z.double(), w.double().mT
    weight = w.sum(-2, keepdim=True)
    z = z.masked_fill((weight == 0).mT, 0)
    k, y = c * z @ z.mT, w / or_one(weight)
    free = (w.sum(-1, keepdim=True) > 0) & (weight > 0)
    a, e = _Minimum.apply(*(t.detach() for t in (k, w, y)), free)
    if torch.is_grad_enabled():
        gradient = y - (w - (w.detach() - a)) @ k
        change, _ = _Newton.apply(k, e, gradient.detach() - gradient, weight - weight.detach())
        a = a + (w - w.detach()) - change
    weights: Tensor = (c * a @ z).to(dtype)
    return weights


class _Minimum(torch.autograd.Function):
    """The minimum as a function that vmap knows; it has no derivative of its own.

    Of K (B, n, n), w and y (B, C, n), and which entries are free (B, C, n), it is A (B, C, n), and
    e for `_Newton`.
    """

    @staticmethod
    def forward(k: Tensor, w: Tensor, y: Tensor, free: Tensor) -> tuple[Tensor, Tensor]:
        return _minimise(k, w, y, free)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.mark_non_differentiable(*output)

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], *tensors: Tensor
    ) -> tuple[Any, tuple[int, int]]:
        stacked = [
            t.expand(info.batch_size, *t.shape) if at is None else t.movedim(at, 0)
            for t, at in zip(tensors, in_dims, strict=True)
        ]
        out = _Minimum.apply(*(t.flatten(0, 1) for t in stacked))
        return tuple(t.unflatten(0, (info.batch_size, -1)) for t in out), (0, 0)


def _minimise(
    k: Float[Tensor, "B n n"],
    w: Float[Tensor, "B C n"],
    y: Float[Tensor, "B C n"],
    free: Bool[Tensor, "B C n"],
) -> tuple[Float[Tensor, "B C n"], Float[Tensor, "B C n"]]:
    """Predictor and corrector steps, from equal shares of every class on.

    A task that is solved stands still.

    Returns:
        A, and e, which is zero where b is, elsewhere so large that e^-2 beside K is next to
        nothing.
    """

    def total(x: Tensor) -> Tensor:
        return x.where(free, 0).sum((-2, -1), keepdim=True)

    radius = w.sum(-2, keepdim=True)
    count = free.sum((-2, -1), keepdim=True).clamp_min(1)
    diagonal = k.diagonal(dim1=-2, dim2=-1).amax(-1)
    largest = diagonal.clamp_min(torch.finfo(k.dtype).tiny).view(-1, 1, 1)
    b = (radius / free.sum(-2, keepdim=True).clamp_min(1)) * free
    a = w - b
    gradient = y - a @ k
    low = gradient.masked_fill(~free, torch.inf).amin(-2, keepdim=True).nan_to_num(posinf=0)
    high = gradient.masked_fill(~free, -torch.inf).amax(-2, keepdim=True).nan_to_num(neginf=0)
    nu = low - (high - low).clamp_min(1)
    s = (gradient - nu).where(free, 1)
    for _ in range(MOST_STEPS):
        gap = total(b * s)
        objective = total(b * (1 - y)) - total(a * (a @ k)) / 2
        open_ = gap > TOLERANCE * objective
        if k.device.type == "cpu" and not bool(open_.any()):
            break  # a GPU would wait for the answer
        e = (b / s).clamp_max(1 / (CURVED * largest)).sqrt() * free
        step = _Step(k, a, b, s, y - nu, radius, free, e)
        mean = gap / count
        db, _, ds = step.towards(-b * s)
        t = torch.minimum(_longest(b, db, free), _longest(s, ds, free)).clamp_max(1)
        ahead = total((b + t * db) * (s + t * ds)) / count
        db, dnu, ds = step.towards(mean * (ahead / mean) ** 3 - b * s - db * ds)
        t = (SHORTENED * torch.minimum(_longest(b, db, free), _longest(s, ds, free))).clamp_max(1)
        moves = open_ & db.isfinite().all(-1, keepdim=True).all(-2, keepdim=True)
        t = t.where(moves, 0)
        a = a - t * db.where(moves, 0)
        b = b + t * db.where(moves, 0)
        nu = nu + t * dnu.where(moves, 0)
        s = s + t * ds.where(moves, 0)
    return a, (b * largest > s) * free / (SMOOTHED * largest).sqrt()


class _Step:
    """The linear system of one step.

    What the Cholesky factors do for both its right sides is done once.
    """

    def __init__(
        self,
        k: Tensor,
        a: Tensor,
        b: Tensor,
        s: Tensor,
        aim: Tensor,
        radius: Tensor,
        free: Tensor,
        e: Tensor,
    ) -> None:
        self.b, self.s, self.free = b.where(free, 1), s, free
        self.factors = _factors(k, e)
        self.missing = radius - b.sum(-2, keepdim=True)
        self.error = (s - (aim - a @ k)).where(free, 0)

    def towards(self, product: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """db, dnu, ds that change b s by `product`, to first order.

        They leave no error in the gradient and the sums.
        """
        wanted = self.error + (product / self.b).where(self.free, 0)
        db, dnu = _solve(*self.factors, wanted, self.missing)
        ds = ((product - self.s * db) / self.b).where(self.free, 0)
        return db, dnu, ds


def _longest(
    x: Float[Tensor, "B C n"], dx: Float[Tensor, "B C n"], free: Bool[Tensor, "B C n"]
) -> Float[Tensor, "B 1 1"]:
    """(B, 1, 1) the largest t for which x + t dx is not below zero."""
    return (-x / dx).masked_fill((dx >= 0) | ~free, torch.inf).amin((-2, -1), keepdim=True)


def _factors(
    k: Float[Tensor, "B n n"], e: Float[Tensor, "B C n"]
) -> tuple[Float[Tensor, "B C n n"], Float[Tensor, "B n n"]]:
    """X (B, C, n, n) with X^T X = (K + e^-2)^-1 for each class, and the factor of their sum.

    Rows and columns of e = 0 are left out; the Cholesky factor is (B, n, n).
    """
    eye = torch.eye(k.shape[-1], dtype=k.dtype, device=k.device)
    inner = e.unsqueeze(-1) * k.unsqueeze(-3) * e.unsqueeze(-2) + eye
    root = torch.linalg.cholesky_ex(inner)[0]
    x = torch.linalg.solve_triangular(root, e.diag_embed(), upper=False)
    stacked = x.flatten(-3, -2)
    unused = (e == 0).all(-2).to(k.dtype).diag_embed()
    return x, torch.linalg.cholesky_ex(stacked.mT @ stacked + unused)[0]


def _solve(
    x: Float[Tensor, "B C n n"],
    root: Float[Tensor, "B n n"],
    r: Float[Tensor, "B C n"],
    t: Float[Tensor, "B 1 n"],
) -> tuple[Float[Tensor, "B C n"], Float[Tensor, "B 1 n"]]:
    """d (B, C, n) and nu (B, 1, n) that solve the system of a step.

    d_k (K + e_k^-2) = r_k + nu where e > 0, d = 0 elsewhere, and sum_k d_k = t.
    """

    def inverse(r: Tensor) -> Tensor:
        return (x.mT @ (x @ r.unsqueeze(-1))).squeeze(-1)

    d = inverse(r)
    nu = torch.cholesky_solve((t - d.sum(-2, keepdim=True)).mT, root).mT
    return d + inverse(nu.expand_as(d)), nu


class _Newton(torch.autograd.Function):
    """`_solve` for K, e, r and t, refined once, differentiable in K, r and t."""

    generate_vmap_rule = True

    @staticmethod
    def forward(k: Tensor, e: Tensor, r: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        factors, free = _factors(k, e), e > 0
        d, nu = _solve(*factors, r, t)
        error = (r + nu - d @ k).where(free, 0) - d / e.where(free, 1).square()
        more, moved = _solve(*factors, error, t - d.sum(-2, keepdim=True))
        return d + more, nu + moved

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(*inputs[:2], output[0])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        k, e, d = ctx.saved_tensors
        by_r, nu = _Newton.apply(k, e, grads[0], -grads[1])  # symmetric in d and -nu
        return -d.mT @ by_r, None, by_r, -nu
