"""Rules of the inner loop: how a step moves parameters."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from graphfsl.functional.adam import adam_step


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
        moved, first, second = {}, {}, {}
        for n, p in params.items():
            moved[n], first[n], second[n] = adam_step(
                p, grads[n], state[0][n], state[1][n], step + 1, self.lr
            )
        return moved, (first, second)
