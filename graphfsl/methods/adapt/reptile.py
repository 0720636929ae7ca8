"""Reptile: move the initialisation towards the weights that tasks end at.

Nichol, Achiam, Schulman 2018, https://arxiv.org/abs/1803.02999
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graphfsl.core.adapt import Adapt, Call, Path
from graphfsl.core.episode import BaseTarget, Episode
from graphfsl.core.objectives import Score, mini_batch_loss
from graphfsl.core.rules import Adam, GradientDescent
from graphfsl.io.errors import require

__all__ = ["Reptile"]

RULES = {"adam": lambda lr: Adam(lr, beta1=0.0), "sgd": GradientDescent}


class Reptile(Adapt):
    """Take many inner steps on mini-batches of a task's support, and follow where they lead.

        phi <- phi + epsilon * mean_i (phi~_i - phi),  phi~_i = U^k_i(phi)      (algorithm 2)

    As a loss: half the squared distance to phi~_i, held constant, whose gradient is phi - phi~_i;
    plain descent on it with the rate epsilon (`trainer: {optimizer: sgd, momentum: 0, lr:
    epsilon}`) is the update above. Queries play no part in training.

    Args:
        net: any learner that scores a support set; the paper's is an encoder with the linear head.
        steps: k, inner steps in training.
        lr: of the inner loop.
        batch: support nodes of a step; the next ones come with the next step, in an order that
            is shuffled anew each time all were seen. A net tied to a number of shots sees all.
        rule: "adam", with beta1 = 0 as the authors take it, or "sgd".
        params: what adapts, by name pattern.
        task_chunk: see `Adapt`.
        steps_test: inner steps outside of training.
        batch_test: support nodes of such a step; None takes `batch`.

    Shapes:
        score: images or features (B, n, *S) -> (B, n, C).

    Source:
        algorithm 2 and the authors' code: Omniglot 5-way takes 5 steps of 10 images with 1e-3,
        trained on tasks of 10 shots whatever the test has, and 50 steps of 5 images at test.
        BatchNorm: `apart` is their transductive evaluation, `each` the other one, in which a query
        is normalised together with the support.

    Deviations:
        the second moments of Adam start anew with every task; the authors carry them from one task
        to the next in training.
    """

    family = "optimisation"
    policy = "apart"
    stands_for_gradient = True
    learns_from_queries = False

    def __init__(
        self,
        net: nn.Module,
        steps: int = 5,
        lr: float = 1e-3,
        batch: int = 10,
        rule: str = "adam",
        params: str | list[str] = "*",
        task_chunk: int | None = None,
        steps_test: int | None = 50,
        batch_test: int | None = 5,
    ) -> None:
        require(
            steps >= 1, f"reptile.steps must be 1 or more, not {steps}: training would move nothing"
        )
        require(rule in RULES, f"rule must be adam or sgd, not {rule!r}")
        require(
            batch >= 1 and (batch_test is None or batch_test >= 1),
            f"batch and batch_test must be 1 or more, not {batch} and {batch_test}",
        )
        super().__init__(
            net, RULES[rule](lr), steps, self.mini_batch_loss, params, True, task_chunk, steps_test
        )
        self.batch = batch
        self.batch_test = batch if batch_test is None else batch_test

    def mini_batch_loss(self, score: Score, episode: Episode, step: int) -> Tensor:
        """The mean loss of the support nodes whose turn it is."""
        size = self.batch if self.training else self.batch_test
        return mini_batch_loss(score, episode, step, size, self.net)

    def task_loss(self, path: Path, episode: Episode, target: BaseTarget, call: Call) -> Tensor:
        """Half the squared distance from the initialisation to where the task ends."""
        end = path[-1]
        far = [(start - end[name].detach()).square().sum() for name, start in path[0].items()]
        return 0.5 * torch.stack(far).sum()
