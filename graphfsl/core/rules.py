"""Rules of the inner loop: how a step moves parameters."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn


class Rule(Protocol):
    """How an inner step moves parameters: `init` makes its state, `update` takes one step.

    Nothing is mutated.
    """

    def init(self, params: dict[str, Tensor]) -> Any:
        """The state before the first step."""

    def update(
        self, params: dict[str, Tensor], grads: dict[str, Tensor], state: Any, step: int
    ) -> tuple[dict[str, Tensor], Any]:
        """The parameters and the state after a step; step counts from 0."""


class GradientDescent(nn.Module):
    """theta <- theta - lr * gradient, the rule of MAML."""

    def __init__(self, lr: float) -> None:
        super().__init__()
        self.lr = lr

    def init(self, params: dict[str, Tensor]) -> None:
        """None: there is no state."""
        return

    def update(
        self, params: dict[str, Tensor], grads: dict[str, Tensor], state: None, step: int
    ) -> tuple[dict[str, Tensor], None]:
        """The parameters after a step, and None."""
        return {n: p - self.lr * grads[n] for n, p in params.items()}, None


class Adam(nn.Module):
    """The steps of torch.optim.Adam with its defaults.

    For inner loops whose gradients are constants: its root has no derivative where a gradient is
    zero.

    Source:
        Kingma, Ba 2015, https://arxiv.org/abs/1412.6980
    """

    def __init__(self, lr: float) -> None:
        super().__init__()
        self.lr = lr

    def init(self, params: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The first and second moments, zero."""
        zero = {n: torch.zeros_like(p) for n, p in params.items()}
        return zero, zero

    def update(
        self,
        params: dict[str, Tensor],
        grads: dict[str, Tensor],
        state: tuple[dict[str, Tensor], dict[str, Tensor]],
        step: int,
    ) -> tuple[dict[str, Tensor], tuple[dict[str, Tensor], dict[str, Tensor]]]:
        """The parameters after a step, and the moments."""
        first = {n: m.lerp(grads[n], 1 - 0.9) for n, m in state[0].items()}
        second = {n: 0.999 * v + (1 - 0.999) * grads[n].square() for n, v in state[1].items()}
        rate, root = self.lr / (1 - 0.9 ** (step + 1)), (1 - 0.999 ** (step + 1)) ** 0.5
        moved = {
            n: p - rate * first[n] / (second[n].sqrt() / root + 1e-8) for n, p in params.items()
        }
        return moved, (first, second)
