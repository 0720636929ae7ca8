"""The loss of an inner loop with its whole meta-gradient, taken a few tasks at a time.

The gradient of a task's loss L(theta_0, …, theta_T, phi) for what is learned, phi (initial weights,
rates, layers that do not adapt), is

    dL/dphi = ∂L/∂phi + sum_t (d theta_t / d phi)^T ∂L/∂theta_t

Only d theta_t / d phi needs a graph through the inner steps. So the steps are taken, and L is taken
at copies of theta_0 … theta_T that are cut off from their graph; its gradients at the copies are
first-order ones, and are pushed back through the graph of the steps. Then that graph is dropped:
memory grows with the tasks of one chunk, not with the meta-batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from graphfsl.core.encoder import full_precision, keep_precision
from graphfsl.core.rules import Params
from graphfsl.io.errors import InputError

NO_SECOND = (
    "this loss stands for its gradient alone, and has no second derivative that means anything; "
    "differentiate it once, or adapt by another method, such as maml"
)
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
        # the loss is taken under autocast, where there is one, but a gradient never is
        with full_precision(outputs[0].device):
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

    def push_back(
        self,
        outputs: Sequence[Tensor],
        grads: Sequence[Tensor | None],
        cut: Sequence[Tensor] = (),
    ) -> list[Tensor | None]:
        """Add what the gradients at some outputs come to behind them; return that for `cut`."""
        reached = [(o, g) for o, g in zip(outputs, grads, strict=True) if g is not None]
        return self.add([o for o, _ in reached], cut, [g for _, g in reached])


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


class _Last(torch.autograd.Function):
    """A gradient that cannot be differentiated again; `of` is what it is the gradient for."""

    generate_vmap_rule = True

    @staticmethod
    def forward(gradient: Tensor, of: Tensor) -> Tensor:
        return gradient.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> Any:
        raise InputError(NO_SECOND)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> Any:
        raise InputError(NO_SECOND)


class _Once(torch.autograd.Function):
    """The same values, for which a derivative is taken once."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, outer: Tensor) -> Any:
        return _Last.apply(outer, *ctx.saved_tensors)

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Any:
        return _Last.apply(tangent, *ctx.saved_tensors)


def once(tensor: Tensor) -> Tensor:
    """The same values, by which a loss is differentiated once; a second time is an InputError.

    For a loss whose first derivative alone is that of its method.
    """
    same: Tensor = _Once.apply(tensor)
    return same


class RandomState:
    """The random numbers that would come next on the host and a device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.host = torch.get_rng_state()
        self.own = torch.cuda.get_rng_state(device) if device.type == "cuda" else None

    @contextmanager
    def again(self) -> Iterator[None]:
        """Within this block they come again; what would come outside of it does not change."""
        devices = [] if self.own is None else [self.device]
        with torch.random.fork_rng(devices=devices):
            torch.set_rng_state(self.host)
            if self.own is not None:
                torch.cuda.set_rng_state(self.own, self.device)
            yield


def repeatable(function: Plain, device: torch.device) -> Plain:
    """The function with the random numbers and the autocast that it would have now."""
    keeps, state = keep_precision(function, device), RandomState(device)

    def again() -> Tensor:
        with state.again():
            return keeps()

    return again


class StepsAgain:
    """An inner loop that keeps the weights after each step only, and takes each step once more.

    Args:
        start: the weights and the rule's state before the first step.
        step: (weights, state, number) -> weights and state after it.
        steps: how many.
        device: whose random numbers come again.
    """

    def __init__(
        self,
        start: Callable[[], tuple[Params, Any]],
        step: Callable[[Params, Any, int], tuple[Params, Any]],
        steps: int,
        device: torch.device,
    ) -> None:
        self.start, self.step, self.steps, self.device = start, step, steps, device
        self.path: list[Params] = []
        self.states: list[Any] = []
        self.random: list[RandomState] = []

    @torch.no_grad()
    def walk(self) -> list[Params]:
        """The weights before and after every step, without a graph."""
        self.random.append(RandomState(self.device))
        params, state = self.start()
        self.path.append(params)
        for number in range(self.steps):
            self.states.append(state)
            self.random.append(RandomState(self.device))
            params, state = self.step(params, state, number)
            self.path.append(params)
        return self.path

    def push_back(self, grads: Sequence[Tensor | None], gradient: Gradient) -> None:
        """Add what the gradients at the weights of the path come to behind them.

        Args:
            grads: for every tensor of every entry of the path, in order.
            gradient: where it is added.
        """
        size = len(self.path[0])
        at_weights = [list(grads[i : i + size]) for i in range(0, len(grads), size)]
        at_state: list[Tensor | None] | None = None
        now = at_weights[-1]
        for number in reversed(range(self.steps)):
            params = {name: cut_off(p) for name, p in self.path[number].items()}
            state = tree_map_only(Tensor, cut_off, self.states[number])
            with self.random[number + 1].again():
                moved, next_state = self.step(params, state, number)
            behind = _floats(next_state)
            cut = [*params.values(), *_floats(state)]
            at = [*now, *(at_state or [None] * len(behind))]
            found = gradient.push_back([*moved.values(), *behind], at, cut)
            now = [_sum(a, b) for a, b in zip(found[:size], at_weights[number], strict=True)]
            at_state = found[size:]
        with self.random[0].again():
            first, state = self.start()
        behind = _floats(state)
        at = [*now, *(at_state or [None] * len(behind))]
        gradient.push_back([*first.values(), *behind], at)


def _floats(state: Any) -> list[Tensor]:
    """The tensors of a rule's state that a gradient can reach."""
    leaves = tree_leaves(state)
    return [t for t in leaves if isinstance(t, Tensor) and t.is_floating_point()]


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else a if b is None else a + b


def chunks(tasks: int, size: int) -> Iterator[slice]:
    """Slices of `size` tasks each, the last one of what is left."""
    for first in range(0, tasks, size):
        yield slice(first, min(first + size, tasks))
