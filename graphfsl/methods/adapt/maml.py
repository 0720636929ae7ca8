"""Model-Agnostic Meta-Learning (MAML), and its first-order form.

Finn, Abbeel, Levine 2017, https://arxiv.org/abs/1703.03400
"""

from __future__ import annotations

from torch import nn

from graphfsl.core.adapt import Adapt
from graphfsl.core.objectives import sum_over_shot
from graphfsl.core.registry import snake
from graphfsl.core.rules import GradientDescent
from graphfsl.io.errors import require

__all__ = ["FOMAML", "MAML"]


class MAML(Adapt):
    """Learn an initialisation from which a few gradient steps on a support fit its task.

        theta'_i = theta - alpha * grad_theta L_i(theta), `steps` times
        min_theta sum_i L_i(theta'_i)      (equation 1)

    Args:
        net: any learner that scores a support set; MAML's own is an encoder with the linear head.
        lr: alpha, for the paper's loss sum_i CE_i / K over the N*K support images, that is N times
            the mean; of real values the loss is the mean squared error.
        steps: how often it steps.
        first_order: FOMAML, which drops the second derivatives.
        params: what adapts, by name pattern ("head.*" is ANIL) or several of them; ["*",
            "!encoder.norms.*"] leaves the BatchNorm of our encoders to the outer loop, as the
            authors do.
        task_chunk: see `Adapt`.
        steps_test: steps outside of training, where they differ.
        recompute: see `Adapt`.

    Shapes:
        score: images or features (B, n, *S) -> (B, n, C).

    Source:
        algorithm 2, and the authors' code for the scale of the loss (0.4 at 5-way equals 2.0 on the
        mean). The defaults are those of training on Omniglot, 5-way; its test takes 3 steps.
        BatchNorm: a net without a policy of its own is set to `apart`, which is what the published
        numbers use: the support's statistics in the inner loop, those of all queries of the episode
        at the end (transductive); choose `support` for an inductive answer.

    Deviations:
        BatchNorm's gamma and beta adapt with the other weights; the authors' networks have no
        gamma, and their beta is trained by the outer loop only.
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
        recompute: bool = False,
    ) -> None:
        require(lr > 0, f"{snake(type(self).__name__)}.lr must be above 0, not {lr}")
        super().__init__(
            net,
            GradientDescent(lr),
            steps,
            sum_over_shot,
            params,
            first_order,
            task_chunk,
            steps_test,
            recompute,
        )


class FOMAML(MAML):
    """MAML's first-order form: the outer gradient as if the inner gradients were constants.

        min_theta sum_i L_i(theta'_i),  d theta'_i / d theta taken as 1

    Args:
        net: see `MAML`.
        steps: how often it steps.
        lr: alpha, on the scale of `MAML`; at MAML's 0.4 the first-order form hardly learns.
        params, task_chunk, steps_test: see `MAML`.

    Shapes:
        score: images or features (B, n, *S) -> (B, n, C).

    Source:
        section 5.2 of the paper.

    Deviations:
        see `MAML`; the paper names no rate of its own for this form.
    """

    def __init__(
        self,
        net: nn.Module,
        steps: int = 5,
        lr: float = 0.05,
        params: str | list[str] = "*",
        task_chunk: int | None = None,
        steps_test: int | None = None,
    ) -> None:
        super().__init__(net, steps, lr, True, params, task_chunk, steps_test)
