"""Meta-SGD: the rate and direction of the inner step are learned.

Li, Zhou, Chen, Li 2017, https://arxiv.org/abs/1707.09835
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graphfsl.core.adapt import Adapt
from graphfsl.core.objectives import sum_over_shot
from graphfsl.core.rules import LearnedRates, Params, by_name, own
from graphfsl.io.errors import require

__all__ = ["MetaSGD"]


class ElementwiseRates(LearnedRates):
    """theta <- theta - alpha * gradient with a learned alpha of theta's shape."""

    def __init__(self, low: float, high: float, steps: int, beyond: str | None = None) -> None:
        super().__init__(steps, beyond)
        self.low, self.high = low, high

    def bind(self, params: Params) -> None:
        """Rates for every element, drawn from U[low, high]."""
        rates = [(n, torch.empty_like(p).uniform_(self.low, self.high)) for n, p in params.items()]
        self.alpha = by_name(rates)

    def update(
        self, params: Params, grads: Params, loss: Tensor, state: None, step: int
    ) -> tuple[Params, None]:
        """The parameters after a step, and None."""
        return {n: p - own(self.alpha, n) * grads[n] for n, p in params.items()}, None


class MetaSGD(Adapt):
    """Learn the initialisation, and for each of its elements the rate of the inner step.

        theta' = theta - alpha o grad_theta L(theta)
        min_(theta, alpha) sum_i L_i(theta'_i)      (equations 2 and 3)

    Args:
        net: any learner that scores a support set; the paper's is an encoder with the linear head.
        steps: how often it steps; the paper steps once.
        low, high: alpha starts as U[low, high]; its sign is free.
        first_order: treat inner gradients as constants.
        params: what adapts, by name pattern.
        task_chunk: see `Adapt`.
        steps_test: steps outside of training; not above `steps` unless `beyond` is set.
        beyond: "last" goes on with the same rates past the steps that they were learned for, where
            they tend to diverge.

    Shapes:
        score: images or features (B, n, *S) -> (B, n, C).

    Source:
        algorithm 1; U[0.005, 0.1] and one step.

    Deviations:
        the inner loss is MAML's sum over the support images of one shot; the paper's mean needs
        rates N times as high. BatchNorm as in `maml`, its scale and shift adapt with rates of
        their own. A weight that starts at the support, as those of the heads `proto_maml` and
        `unicorn`, has one rate for the whole tensor: it has no shape before an episode.
    """

    family = "optimisation"
    policy = "apart"

    def __init__(
        self,
        net: nn.Module,
        steps: int = 1,
        low: float = 0.005,
        high: float = 0.1,
        first_order: bool = False,
        params: str | list[str] = "*",
        task_chunk: int | None = None,
        steps_test: int | None = None,
        beyond: str | None = None,
    ) -> None:
        require(low <= high, f"low must not be above high, but {low} is above {high}")
        rule = ElementwiseRates(low, high, steps, beyond)
        super().__init__(
            net, rule, steps, sum_over_shot, params, first_order, task_chunk, steps_test
        )
