"""Meta-Curvature: learned matrices multiply the inner gradient.

Park, Oliva 2019, https://arxiv.org/abs/1902.03356
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graphfsl.core.adapt import Adapt
from graphfsl.core.objectives import sum_over_shot
from graphfsl.core.rules import LearnedRates, Params, by_name, own
from graphfsl.io.errors import require

__all__ = ["MetaCurvature"]


class Curvature(LearnedRates):
    """theta <- theta - alpha * MC(gradient), with learned matrices along the gradient's axes."""

    def __init__(self, lr: float, steps: int, beyond: str | None = None) -> None:
        super().__init__(steps, beyond)
        self.lr = lr

    def bind(self, params: Params) -> None:
        """Identity matrices for kernels and matrices, ones for everything else."""
        matrices = {name: p for name, p in params.items() if p.ndim >= 2}
        kernels = {name: p for name, p in matrices.items() if p.ndim >= 3}
        others = {name: p for name, p in params.items() if p.ndim < 2}
        self.m_o = by_name((name, identity(p, p.shape[0])) for name, p in matrices.items())
        self.m_i = by_name((name, identity(p, p.shape[1])) for name, p in matrices.items())
        self.m_f = by_name((name, identity(p, p[0, 0].numel())) for name, p in kernels.items())
        self.m = by_name((name, torch.ones_like(p)) for name, p in others.items())
        self.others = frozenset(others)

    def update(
        self, params: Params, grads: Params, loss: Tensor, state: None, step: int
    ) -> tuple[Params, None]:
        """The parameters after a step, and None."""
        return {n: p - self.lr * self.curved(n, grads[n]) for n, p in params.items()}, None

    def curved(self, name: str, g: Tensor) -> Tensor:
        """MC(g) = g x_1 M_o x_2 M_i x_3 M_f, of the shape of g."""
        if name in self.others:
            return own(self.m, name) * g
        m_o, m_i = own(self.m_o, name), own(self.m_i, name)
        if g.ndim == 2:
            return m_o @ g @ m_i.mT
        kernel = g.flatten(2)  # (out, in, h w)
        curved = torch.einsum("oif,po,qi,rf->pqr", kernel, m_o, m_i, own(self.m_f, name))
        return curved.view_as(g)


def identity(like: Tensor, size: int) -> Tensor:
    """The identity matrix (size, size), of the dtype and device of a tensor."""
    return torch.eye(size, dtype=like.dtype, device=like.device)


class MetaCurvature(Adapt):
    """Learn the initialisation, and matrices that turn the inner gradient into a better direction.

        MC(G) = G x_1 M_o x_2 M_i x_3 M_f      (equation 9)
        theta' = theta - alpha MC(grad_theta L(theta))
        min_(theta, M) sum_i L_i(theta'_i)

    G is the gradient of a kernel as (out, in, height * width), and x_n the product of its n-th axis
    with a matrix. A layer's matrix has M_o and M_i, a vector one factor for each of its elements.

    Args:
        net: any learner that scores a support set; the paper's is an encoder with the linear head.
        steps: how often it steps.
        lr: alpha, which stays as it is, for the sum of the losses over the support images of one
            shot, see `MAML`.
        first_order: treat inner gradients as constants.
        params: what adapts, by name pattern.
        task_chunk: see `Adapt`.
        steps_test: steps outside of training; not above `steps` unless `beyond` is set.
        beyond: "last" goes on with the same matrices past the steps that they were learned for.
        recompute: see `Adapt`.

    Shapes:
        score: images or features (B, n, *S) -> (B, n, C).

    Source:
        section 3.2, the variant MC2; all matrices start as the identity, where it is MAML. Omniglot
        takes one step of 0.4, for 20 ways too.

    Deviations:
        BatchNorm as in `maml`; its scale and shift adapt, each element with a factor of its own. A
        weight that starts at the support, as those of the heads `proto_maml` and `unicorn`, has one
        factor for the whole tensor: it has no shape before an episode.
    """

    family = "optimisation"
    policy = "apart"

    def __init__(
        self,
        net: nn.Module,
        steps: int = 1,
        lr: float = 0.4,
        first_order: bool = False,
        params: str | list[str] = "*",
        task_chunk: int | None = None,
        steps_test: int | None = None,
        beyond: str | None = None,
        recompute: bool = False,
    ) -> None:
        require(lr > 0, f"meta_curvature.lr must be above 0, not {lr}")
        super().__init__(
            net,
            Curvature(lr, steps, beyond),
            steps,
            sum_over_shot,
            params,
            first_order,
            task_chunk,
            steps_test,
            recompute,
        )
