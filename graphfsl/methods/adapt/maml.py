"""Model-Agnostic Meta-Learning (MAML), and its first-order form.

Finn, Abbeel, Levine 2017, https://arxiv.org/abs/1703.03400
"""

from __future__ import annotations

from torch import Tensor

from graphfsl.core.adapt import Adapt
from graphfsl.core.episode import Episode
from graphfsl.core.learner import Learner
from graphfsl.core.objectives import Score, support_cross_entropy
from graphfsl.core.rules import GradientDescent
from graphfsl.functional.prototypes import present
from graphfsl.io.errors import require

__all__ = ["MAML"]


class MAML(Adapt):
    """Learn an initialisation from which a few gradient steps on a support fit its task.

        theta'_i = theta - alpha * grad_theta L_i(theta), `steps` times
        min_theta sum_i L_i(theta'_i)      (equation 1)

    Args:
        net: any learner that scores a support set; MAML's own is an encoder with the linear head.
        lr: alpha, for the paper's loss sum_i CE_i / K over the N*K support images, that is N times
            the mean.
        steps: how often it steps.
        first_order: FOMAML, which drops the second derivatives.
        params: what adapts, by name pattern ("head.*" is ANIL) or several of them; ["*",
            "!encoder.norms.*"] leaves the BatchNorm of our encoders to the outer loop, as the
            authors do.
        task_chunk: see `Adapt`.

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

    def __init__(
        self,
        net: Learner,
        steps: int = 1,
        lr: float = 0.4,
        first_order: bool = False,
        params: str | list[str] = "*",
        task_chunk: int | None = None,
    ) -> None:
        require(lr > 0, f"maml.lr must be above 0, not {lr}")
        super().__init__(
            net, GradientDescent(lr), steps, sum_over_shot, params, first_order, task_chunk
        )
        if self.batch_norm == "running":
            self.set_batch_norm("apart")


def sum_over_shot(score: Score, episode: Episode, step: int) -> Tensor:
    """The support's loss as in the authors' code: sum_i CE_i / K over N*K nodes."""
    ways = present(episode.w[:, episode.support]).sum().to(episode.w.dtype)
    return ways * support_cross_entropy(score, episode, step)
