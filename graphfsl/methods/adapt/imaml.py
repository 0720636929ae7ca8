"""iMAML: the meta-gradient of a regularised inner loop from its end alone.

Rajeswaran, Finn, Kakade, Levine 2019, https://arxiv.org/abs/1909.04630
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from graphfsl.core.adapt import Adapt, Call, Path
from graphfsl.core.encoder import full_precision
from graphfsl.core.episode import BaseTarget, Episode
from graphfsl.core.inner_gradient import inner_curvature, inner_gradient
from graphfsl.core.objectives import support_loss
from graphfsl.core.rules import Params, Rule, flat, unflat
from graphfsl.functional.conjugate_gradients import conjugate_gradients
from graphfsl.io.errors import require

__all__ = ["IMAML"]

Curvature = Callable[[Params], Params]  # v -> H v
SOLVERS = ("exact", "damped")
DAMPING, MORE_PULL = 1.0, 10.0  # of the authors' solver


class ProximalDescent(Rule):
    """theta <- theta - lr * (gradient + lambda (theta - theta_0))."""

    def __init__(self, lr: float, lam: float) -> None:
        super().__init__()
        self.lr, self.lam = lr, lam

    def init(self, params: Params) -> Params:
        """theta_0."""
        return params

    def update(
        self, params: Params, grads: Params, loss: Tensor, state: Params, step: int
    ) -> tuple[Params, Params]:
        """The parameters after a step, and theta_0."""
        moved = {}
        for name, p in params.items():
            pull = self.lam * (p - state[name])
            moved[name] = p - self.lr * (grads[name] + pull)
        return moved, state


class IMAML(Adapt):
    """Stay near the initialisation, and differentiate the inner optimum instead of the way to it.

        phi = argmin_phi' L_S(phi') + lambda/2 |phi' - theta|^2      (equation 3)
        d L_Q(phi) / d theta = x,  (I + H/lambda) x = grad L_Q(phi),  H = grad^2 L_S(phi)      (6)

    Conjugate gradients find x by products with H, so that memory does not grow with the steps. A
    parameter psi that does not adapt, as of the encoder below an adapted head, has the gradient

        d L_Q / d psi - 1/lambda * x^T d/d psi grad_phi L_S(phi)

    Args:
        net: any learner that scores a support set; the paper's is an encoder with the linear head.
        steps: of gradient descent towards phi.
        lr: of these steps, for the mean loss of the support.
        lam: lambda.
        cg_steps: of conjugate gradients. With as many as parameters adapt, x is exact where I +
            H/lambda is positive definite; along a direction where it is not, they stop.
        solver: "exact", or "damped" for the authors' system (2 I + H/(lambda + 10)) x = grad L_Q.
        params: what adapts, by name pattern.
        task_chunk: see `Adapt`.
        steps_test: steps outside of training.

    Shapes:
        score: images or features (B, n, *S) -> (B, n, C).

    Source:
        algorithms 1 and 2; Omniglot takes 16 steps (25 for 20 ways) and 5 of conjugate gradients,
        with lambda 2.

    Deviations:
        every step is one of the regularised loss; the authors' code takes steps of L_S alone, then
        one towards theta, and none at test. The gradient is that of the optimum phi, whether or not
        the steps have come there, as in the paper.
    """

    family = "optimisation"
    policy = "apart"
    stands_for_gradient = True

    def __init__(
        self,
        net: nn.Module,
        steps: int = 16,
        lr: float = 0.1,
        lam: float = 2.0,
        cg_steps: int = 5,
        solver: str = "exact",
        params: str | list[str] = "*",
        task_chunk: int | None = None,
        steps_test: int | None = None,
    ) -> None:
        require(min(lr, lam) > 0, f"imaml.lr and imaml.lam must be above 0, not {lr} and {lam}")
        require(
            lr * lam < 2,
            f"imaml.lr * imaml.lam is {lr * lam:g}, and from 2 on the pull towards the "
            f"initialisation does not come to rest; lower lr below {2 / lam:g}",
        )
        require(cg_steps >= 1, f"imaml.cg_steps must be 1 or more, not {cg_steps}")
        require(solver in SOLVERS, f"imaml.solver must be exact or damped, not {solver!r}")
        rule = ProximalDescent(lr, lam)
        super().__init__(net, rule, steps, support_loss, params, True, task_chunk, steps_test)
        self.lam, self.cg_steps, self.solver = lam, cg_steps, solver

    def task_loss(self, path: Path, episode: Episode, target: BaseTarget, call: Call) -> Tensor:
        """L_Q(phi), with the implicit gradient."""
        last = max(len(path) - 2, 0)
        phi = {name: p.detach() for name, p in path[-1].items()}

        def outer(params: Params) -> Tensor:
            with full_precision(episode.x.device):
                return self.loss_at(params, last, episode, target, call)

        def inner(params: Params) -> Tensor:
            return self.inner_loss(params, last, episode, call)

        if not torch.is_grad_enabled():
            return outer(phi)
        with full_precision(episode.x.device):
            loss, grads = inner_gradient(outer, phi, second_order=True)
            inner_grads, curvature = inner_curvature(inner, phi)
            x = self.solve(grads, curvature)
            for_theta = flat(path[0]) @ x  # whose gradient for the initialisation is x
            for_psi = flat(inner_grads) @ x / self.lam  # for what does not adapt
            surrogate = for_theta - for_psi
        return loss + (surrogate - surrogate.detach())  # the value is L_Q

    def solve(self, grads: Params, curvature: Curvature) -> Tensor:
        """x (P,) of (I + H/lambda) x = grad L_Q, or of the authors' damped system; a constant."""
        damping, lam = 0.0, self.lam
        if self.solver == "damped":
            damping, lam = DAMPING, self.lam + MORE_PULL
        b = flat(grads).detach()

        def apply(v: Tensor, _: Tensor) -> Tensor:
            return (1 + damping) * v + flat(curvature(unflat(v, grads))) / lam

        tolerance = torch.finfo(b.dtype).eps
        return conjugate_gradients(apply, b, self.cg_steps, tolerance, dot)


def dot(u: Tensor, v: Tensor) -> Tensor:
    """<u, v> of vectors (P,)."""
    return (u * v).sum()
