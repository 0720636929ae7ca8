"""Reptile: move the initialisation towards the weights that tasks end at.

Nichol, Achiam, Schulman 2018, https://arxiv.org/abs/1803.02999
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from graphfsl.core.adapt import Adapt, Call, Path
from graphfsl.core.episode import BaseTarget, Episode
from graphfsl.core.objectives import Score, mini_batch_loss
from graphfsl.core.rules import GradientDescent, Params, Rule, by_name, own
from graphfsl.functional.adam import LEAST, SQUARE_DECAY
from graphfsl.functional.statistics import or_one
from graphfsl.io.errors import require

__all__ = ["Reptile"]


class LastingAdam(Rule):
    """Adam with beta1 = 0 whose second moments go on from task to task.

        v <- beta2 v + (1 - beta2) g^2,    m <- beta2 m + (1 - beta2)
        theta <- theta - lr g / ((v / m)^1/2 + epsilon)

    With m = 1 - beta2^t this is Adam's correction after t steps. The root of v, and m, that a task
    starts from are parameters: like theta itself they follow where tasks end. A tensor that the
    support imprints has no shape before an episode; its moments start from one number.

    Args:
        lr: of a step.

    Source:
        Kingma, Ba 2015, https://arxiv.org/abs/1412.6980
    """

    def __init__(self, lr: float) -> None:
        super().__init__()
        require(lr > 0, f"the rate of the inner loop must be above 0, not {lr}")
        self.lr = lr

    def bind(self, params: Params) -> None:
        """The roots and m, zero as in an optimiser that has seen nothing."""
        self.root = by_name((name, torch.zeros_like(p)) for name, p in params.items())
        self.mass = nn.Parameter(next(iter(params.values())).new_zeros(()))

    def init(self, params: Params) -> tuple[Params, Tensor]:
        """The roots of v, and m, where a task starts."""
        return {n: own(self.root, n).expand_as(p) for n, p in params.items()}, self.mass

    def update(
        self, params: Params, grads: Params, loss: Tensor, state: tuple[Params, Tensor], step: int
    ) -> tuple[Params, tuple[Params, Tensor]]:
        """The parameters after a step, the roots of v, and m."""
        before, m = state
        m = SQUARE_DECAY * m + (1 - SQUARE_DECAY)
        moved, roots = {}, {}
        for n, p in params.items():
            v = SQUARE_DECAY * before[n].square() + (1 - SQUARE_DECAY) * grads[n].square()
            roots[n] = v.sqrt()
            moved[n] = p - self.lr * grads[n] / (roots[n] / or_one(m).sqrt() + LEAST)
        return moved, (roots, m)

    def lasting(self, state: tuple[Params, Tensor]) -> Params:
        """What the next task starts from, by name."""
        roots, m = state
        kept = {n: root if own(self.root, n).ndim else root.mean() for n, root in roots.items()}
        return {"m": m} | {f"root of v, {n}": root for n, root in kept.items()}


RULES = {"adam": LastingAdam, "sgd": GradientDescent}


class Reptile(Adapt):
    """Take many inner steps on mini-batches of a task's support, and follow where they lead.

        phi <- phi + epsilon * mean_i (phi~_i - phi),  phi~_i = U^k_i(phi)      (algorithm 2)

    As a loss: half the squared distance to phi~_i, held constant, whose gradient is phi - phi~_i;
    plain descent on it with the rate epsilon (`trainer: {optimizer: sgd, momentum: 0, lr:
    epsilon}`) is the update above. Adam's second moments follow in the same way. Queries play no
    part in training.

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
        Adam's second moments go on from task to task and into evaluation, as the authors' do; but
        the tasks of a batch start from the same ones, the next batch from the mean of the roots
        that they end with, and a rate epsilon below 1 slows them, too.
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

    def on_path(self, params: Params, state: Any) -> Params:
        """The weights, and what of Adam's state outlives a task."""
        if isinstance(self.rule, LastingAdam):
            return params | self.rule.lasting(state)
        return params

    def task_loss(self, path: Path, episode: Episode, target: BaseTarget, call: Call) -> Tensor:
        """Half the squared distance from where the task starts to where it ends."""
        end = path[-1]
        far = [(start - end[name].detach()).square().sum() for name, start in path[0].items()]
        return 0.5 * torch.stack(far).sum()
