"""BOIL, body only in the inner loop.

Oh, Yoo, Kim, Yun 2021, https://arxiv.org/abs/2008.08882
"""

from __future__ import annotations

from torch import nn

from graphfsl.methods.adapt.maml import MAML

__all__ = ["BOIL"]


class BOIL(MAML):
    """Adapt the body alone; the head stays as the outer loop trains it.

        theta'_body = theta_body - alpha * grad_theta_body L(theta)
        min_theta sum_i L_i(theta'_body,i, theta_head)      (section 3)

    So the features must move towards a head that cannot: representations change, not the read-out.

    Args:
        net: any learner that scores a support set; the paper's is an encoder with the linear head.
        steps, lr, first_order, task_chunk, steps_test: see `MAML`.
        params: what adapts, by name pattern.

    Shapes:
        score: images or features (B, n, *S) -> (B, n, C).

    Source:
        section 3; one step of 0.5 in the authors' code, on the mean of the loss.

    Deviations:
        see `MAML`.
    """

    def __init__(
        self,
        net: nn.Module,
        steps: int = 1,
        lr: float = 0.1,
        first_order: bool = False,
        params: str | list[str] = "encoder.*",
        task_chunk: int | None = None,
        steps_test: int | None = None,
    ) -> None:
        super().__init__(net, steps, lr, first_order, params, task_chunk, steps_test)
