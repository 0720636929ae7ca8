"""MAML++: how to train your MAML.

Antoniou, Edwards, Storkey 2019, https://arxiv.org/abs/1810.09502
"""

from __future__ import annotations

from collections.abc import Hashable

import torch
from torch import Tensor, nn

from graphfsl.core.adapt import Adapt, Call, Path
from graphfsl.core.episode import BaseTarget, Episode
from graphfsl.core.objectives import support_loss
from graphfsl.core.outputs import batch_norm_layers
from graphfsl.core.rules import LearnedRates, Params, by_name, own
from graphfsl.io.errors import require

__all__ = ["MAMLPlusPlus"]

FLOOR = 0.03  # the loss after an early step weighs at least FLOOR / steps while it counts


class PerStepRates(LearnedRates):
    """theta <- theta - alpha[layer, step] * gradient with learned rates (LSLR)."""

    def __init__(self, lr: float, steps: int, beyond: str | None = None) -> None:
        super().__init__(steps, beyond)
        require(lr > 0, f"the inner rate lr must be above 0, not {lr}")
        self.lr = lr

    def bind(self, params: Params) -> None:
        """A rate for every parameter and step, `lr` at first."""
        rows = max(self.steps, 1)
        self.alpha = by_name((n, p.new_full((rows,), self.lr)) for n, p in params.items())

    def update(
        self, params: Params, grads: Params, loss: Tensor, state: None, step: int
    ) -> tuple[Params, None]:
        """The parameters after a step, and None."""
        row = self.row(step)
        return {n: p - own(self.alpha, n)[row] * grads[n] for n, p in params.items()}, None


class MAMLPlusPlus(Adapt):
    """MAML with a loss after every step, rates per layer and step, and BatchNorm per step.

        theta_(t+1) = theta_t - alpha[layer, t] * grad L_S(theta_t)      (section 4, LSLR)
        min sum_t v_t L_Q(theta_t)      (equation 4, MSL)

    The weights v_t start at 1/T. Those of early steps fall to 0.03/T while `multi_step` of the
    training lasts; after it the last loss alone counts.

    Args:
        net: any learner that scores a support set; the paper's is an encoder with the linear head.
        steps: T, of the inner loop.
        lr: what the rates alpha start at, for the mean loss of the support.
        multi_step: the share of the training in which losses after early steps count; 0 leaves
            only the last.
        first_order_share: the share of the training, from its start, that drops second derivatives
            (derivative-order annealing).
        norms_per_step: whether each step has a scale and shift of BatchNorm of its own. They are
            trained by the outer loop and do not adapt; queries have those of the last step.
        params: what adapts, by name pattern; never a BatchNorm layer.
        task_chunk: see `Adapt`.
        steps_test: steps outside of training; not above `steps` unless `beyond` is set.
        beyond: "last" goes on with the rates and BatchNorm layers of the last step.

    Shapes:
        score: images or features (B, n, *S) -> (B, n, C).

    Source:
        section 4 and the authors' code: 5 steps of 0.1 on Omniglot, v_t as there, where the
        multi-step loss lasts 10 of 100 epochs. The cosine schedule of the outer rate is the
        trainer's.

    Deviations:
        statistics are those of the batch that is passed, as they are in the authors' code too
        (per-step running averages are kept there but not used). Derivative-order annealing is off
        in the authors' configurations, as here by default. One set of weights answers; the authors'
        numbers are of an ensemble of the five best checkpoints, which trainer.keep_best=5 measures
        beside it.
    """

    family = "optimisation"
    policy = "apart"

    def __init__(
        self,
        net: nn.Module,
        steps: int = 5,
        lr: float = 0.1,
        multi_step: float = 0.1,
        first_order_share: float = 0.0,
        norms_per_step: bool = True,
        params: str | list[str] = "*",
        task_chunk: int | None = None,
        steps_test: int | None = None,
        beyond: str | None = None,
    ) -> None:
        for name, share in (("multi_step", multi_step), ("first_order_share", first_order_share)):
            require(0 <= share <= 1, f"{name} is a share of the training in [0, 1], not {share}")
        layers = batch_norm_layers(net)
        patterns = [params] if isinstance(params, str) else list(params)
        patterns += [f"!{name}.*" for name in layers]
        rule = PerStepRates(lr, steps, beyond)
        super().__init__(net, rule, steps, support_loss, patterns, False, task_chunk, steps_test)
        self.multi_step, self.first_order_share = multi_step, first_order_share
        known = dict(self._call.named_parameters())
        names = [f"{self.prefix}{layer}.{w}" for layer in layers for w in ("weight", "bias")]
        wanted = [name for name in names if name in known] if norms_per_step else []
        self.norms = by_name((n, known[n].detach().repeat(max(steps, 1), 1)) for n in wanted)
        self.norm_names = tuple(wanted)

    @property
    def drops_second_order(self) -> bool:
        """Whether inner losses and gradients are constants now."""
        return self.progress < self.first_order_share

    @property
    def step_kind(self) -> Hashable:
        """Whether second derivatives are dropped, and how far the annealing of v_t is."""
        return self.drops_second_order, min(self.progress, self.multi_step)

    def given(self, step: int) -> Params:
        """Scale and shift of the BatchNorm layers at this step."""
        row = min(step, max(self.steps - 1, 0))
        return {name: own(self.norms, name)[row] for name in self.norm_names}

    def task_loss(self, path: Path, episode: Episode, target: BaseTarget, call: Call) -> Tensor:
        """The loss of a task over all inner steps: sum_t v_t L_Q(theta_t)."""
        if len(path) == 1 or not self.training or self.progress >= self.multi_step:
            return super().task_loss(path, episode, target, call)
        weights = step_weights(len(path) - 1, self.progress / self.multi_step)
        losses = [
            v * self.loss_at(path[t], t - 1, episode, target, call)
            for t, v in enumerate(weights, start=1)
        ]
        return torch.stack(losses).sum()


def step_weights(steps: int, progress: float) -> list[float]:
    """The weights v_1 … v_T of the losses after each step.

    Args:
        steps: T, of the inner loop.
        progress: the share of the annealing of these weights that is done, in [0, 1].
    """
    floor = FLOOR / steps
    early = max((1 - progress) / steps, floor)
    return [*[early] * (steps - 1), 1 - (steps - 1) * early]
