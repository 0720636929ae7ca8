"""The loss of an inner loop with its whole meta-gradient, taken a few tasks at a time.

The gradient of a task's loss L(theta_T) for what is learned, phi (initial weights, rates), is

    dL/dphi = (d theta_T / d phi)^T dL/dtheta_T

Only the factor in front needs a graph through the inner steps. So the weights theta_0 … theta_T are
cut off from that graph, dL/dtheta is taken like any first-order gradient, and pushed back through
it. Then the graph is dropped: memory grows with the tasks of one chunk, not with the meta-batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from graphfsl.core.encoder import keep_precision

Plain = Callable[[], Tensor]  # the same loss, with a graph through everything


class Gradient:
    """A sum of gradients for the same tensors, None where there is none."""

    def __init__(self, wanted: Sequence[Tensor]) -> None:
        self.wanted = list(wanted)
        self.total: list[Tensor | None] = [None] * len(self.wanted)

    def add(
        self,
        outputs: Sequence[Tensor],
        cut: Sequence[Tensor] = (),
        weights: Sequence[Tensor] | None = None,
    ) -> list[Tensor | None]:
        """Add the gradient of `outputs`, weighted; return that for `cut`, which is not added."""
        inputs = [*cut, *self.wanted]
        kept = [i for i, output in enumerate(outputs) if output.requires_grad]
        if not inputs or not kept:
            return [None] * len(cut)
        found = torch.autograd.grad(
            [outputs[i] for i in kept],
            inputs,
            None if weights is None else [weights[i] for i in kept],
            allow_unused=True,
        )
        self.merge(found[len(cut) :])
        return list(found[: len(cut)])

    def merge(self, grads: Sequence[Tensor | None]) -> None:
        """Add gradients, one for each tensor."""
        for i, g in enumerate(grads):
            before = self.total[i]
            if g is not None:
                self.total[i] = g if before is None else before + g

    def push_back(self, outputs: Sequence[Tensor], grads: Sequence[Tensor | None]) -> None:
        """Add what the gradients at some outputs come to behind them."""
        reached = [(o, g) for o, g in zip(outputs, grads, strict=True) if g is not None]
        if reached:
            self.add([o for o, _ in reached], weights=[g for _, g in reached])


def cut_off(tensor: Tensor) -> Tensor:
    """The same values as a leaf, whose gradient can be asked for."""
    return tensor.detach().requires_grad_() if tensor.is_floating_point() else tensor


class _WithGradient(torch.autograd.Function):
    """A scalar whose gradient is known; differentiated twice, it is computed again, plainly."""

    @staticmethod
    def forward(
        ctx: Any, plain: Plain, value: Tensor, grads: list[Tensor | None], *learned: Tensor
    ) -> Tensor:
        ctx.plain, ctx.grads, ctx.learned = plain, grads, learned
        return value.clone()

    @staticmethod
    def backward(ctx: Any, outer: Tensor) -> Any:
        grads = ctx.grads
        if torch.is_grad_enabled():  # create_graph=True: somebody differentiates once more
            loss = ctx.plain()
            grads = torch.autograd.grad(loss, ctx.learned, create_graph=True, allow_unused=True)
        return None, None, None, *(None if g is None else outer * g for g in grads)


def with_gradient(
    value: Tensor, grads: list[Tensor | None], learned: Sequence[Tensor], plain: Plain
) -> Tensor:
    """`value` as a loss whose gradient for `learned` is `grads`.

    Args:
        value: a scalar.
        grads: one for each of `learned`, None where it has none.
        learned: leaves that require a gradient.
        plain: computes the same loss with its graph, for second derivatives.
    """
    loss: Tensor = _WithGradient.apply(plain, value, grads, *learned)
    return loss


def repeatable(function: Plain, device: torch.device) -> Plain:
    """The function with the random numbers and the autocast that it would have now."""
    keeps = keep_precision(function, device)
    cpu = torch.get_rng_state()
    own = torch.cuda.get_rng_state(device) if device.type == "cuda" else None

    def again() -> Tensor:
        devices = [device] if own is not None else []
        with torch.random.fork_rng(devices=devices):
            torch.set_rng_state(cpu)
            if own is not None:
                torch.cuda.set_rng_state(own, device)
            return keeps()

    return again


def chunks(tasks: int, size: int) -> Iterator[slice]:
    """Slices of `size` tasks each, the last one of what is left."""
    for first in range(0, tasks, size):
        yield slice(first, min(first + size, tasks))
