"""ALFA: rates and weight decay of the inner loop, made for each task and step.

Baik, Choi, Choi, Kim, Lee 2020, https://arxiv.org/abs/2011.00209
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graphfsl.core.adapt import Adapt
from graphfsl.core.objectives import support_loss
from graphfsl.core.outputs import batch_norm_layers
from graphfsl.core.rules import LearnedRates, Params, by_name, own
from graphfsl.io.errors import require

__all__ = ["ALFA"]

DECAY = 5e-4  # the weight decay that beta starts at, as a share of lr


class GeneratedRates(LearnedRates):
    """theta <- (1 - beta^ beta) theta - alpha^ alpha gradient.

    A network generates alpha^ and beta^, two numbers for each parameter tensor; the factors alpha
    and beta are learned for each tensor and step.
    """

    def __init__(self, lr: float, steps: int, beyond: str | None = None) -> None:
        super().__init__(steps, beyond)
        self.lr = lr

    def bind(self, params: Params) -> None:
        """Make the network, and the factors of every tensor and step."""
        rows = max(self.steps, 1)
        self.alpha = by_name((n, p.new_full((rows,), self.lr)) for n, p in params.items())
        self.beta = by_name((n, p.new_full((rows,), DECAY * self.lr)) for n, p in params.items())
        like = next(iter(params.values()))
        size = 2 * len(params)
        first, second = nn.Linear(size, size), nn.Linear(size, size)
        self.generator = nn.Sequential(first, nn.ReLU(), second).to(like.device, like.dtype)

    def update(
        self, params: Params, grads: Params, loss: Tensor, state: None, step: int
    ) -> tuple[Params, None]:
        """The parameters after a step, and None."""
        row = self.row(step)
        generated = self.generate(params, grads)
        moved = {}
        for name, (rate, decay) in generated.items():
            alpha = rate * own(self.alpha, name)[row]
            shrink = decay * own(self.beta, name)[row]
            moved[name] = (1 - shrink) * params[name] - alpha * grads[name]
        return moved, None

    def generate(self, params: Params, grads: Params) -> dict[str, tuple[Tensor, Tensor]]:
        """name -> alpha^ and beta^, two scalars, by the means of each layer and of its gradient."""
        means = [p.mean() for p in params.values()]
        mean_grads = [grads[name].mean() for name in params]
        learning_state = torch.stack([*means, *mean_grads])  # (2 L,)
        rates, decays = self.generator(learning_state).chunk(2)
        return dict(zip(params, zip(rates, decays, strict=True), strict=True))


class ALFA(Adapt):
    """Learn a small network that makes the rates and the weight decay of every inner step.

        (alpha_j, beta_j) = g_phi(tau_j),  tau_j = [mean theta_(j,l), mean grad L(theta_j)_l]_l
        theta_(j+1) = beta_j o theta_j - alpha_j o grad L(theta_j)      (equations 3 and 4)
        min_(theta, phi) sum_i L_i(theta_T,i)

    As in the authors' code, with one of each for every layer l, that is every parameter tensor: the
    network's outputs alpha^ and beta^ are multiplied with learned factors of layer and step,

        beta_j = 1 - beta^ beta[l, j],  alpha_j = alpha^ alpha[l, j]

    Args:
        net: any learner that scores a support set; the paper's is an encoder with the linear head.
        steps: of the inner loop.
        lr: what the factors alpha start at, for the mean loss of the support; beta starts at 0.0005
            of it.
        first_order: treat inner gradients as constants.
        params: what adapts, by name pattern; never a BatchNorm layer.
        task_chunk: see `Adapt`.
        steps_test: steps outside of training; not above `steps` unless `beyond` is set.
        beyond: "last" goes on with the factors of the last step.
        recompute: see `Adapt`.

    Shapes:
        score: images or features (B, n, *S) -> (B, n, C).

    Source:
        section 3.2 and the authors' code: 5 steps of 0.01; g_phi has one hidden layer of 2 L units
        and, as there, no activation at its end.

    Deviations:
        unless `first_order` is set, the gradients in the network's input are differentiated; in the
        authors' code they are constants. BatchNorm's scale and shift do not adapt, and are the same
        in every step.
    """

    family = "optimisation"
    policy = "apart"

    def __init__(
        self,
        net: nn.Module,
        steps: int = 5,
        lr: float = 0.01,
        first_order: bool = False,
        params: str | list[str] = "*",
        task_chunk: int | None = None,
        steps_test: int | None = None,
        beyond: str | None = None,
        recompute: bool = False,
    ) -> None:
        require(lr > 0, f"alfa.lr must be above 0, not {lr}")
        layers = batch_norm_layers(net)
        patterns = [params] if isinstance(params, str) else list(params)
        patterns += [f"!{name}.*" for name in layers]
        super().__init__(
            net,
            GeneratedRates(lr, steps, beyond),
            steps,
            support_loss,
            patterns,
            first_order,
            task_chunk,
            steps_test,
            recompute,
        )
