"""ANIL, almost no inner loop: only the head adapts.

Raghu, Raghu, Bengio, Vinyals 2020, https://arxiv.org/abs/1909.09157
"""

from __future__ import annotations

from torch import nn

from graphfsl.methods.adapt.maml import MAML

__all__ = ["ANIL"]


class ANIL(MAML):
    """Adapt the head alone; the body is trained by the outer loop through it.

        theta'_head = theta_head - alpha * grad_theta_head L(theta)
        min_theta sum_i L_i(theta_body, theta'_head,i)      (section 4)

    Every image is encoded once, whatever the number of steps.

    Args:
        net: any learner that scores a support set; the paper's is an encoder with the linear head.
        steps, lr, first_order, task_chunk, steps_test: see `MAML`.
        params: what adapts, by name pattern.

    Shapes:
        score: images or features (B, n, *S) -> (B, n, C).

    Source:
        section 4.1.

    Deviations:
        see `MAML`.
    """

    def __init__(
        self,
        net: nn.Module,
        steps: int = 1,
        lr: float = 0.4,
        first_order: bool = False,
        params: str | list[str] = "head.*",
        task_chunk: int | None = None,
        steps_test: int | None = None,
    ) -> None:
        super().__init__(net, steps, lr, first_order, params, task_chunk, steps_test)
