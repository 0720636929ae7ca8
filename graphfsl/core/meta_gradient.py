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
Plain = Callable[[], Tensor]  # computes the same loss, with a graph through everything


class Gradient:
    """A sum of gradients for the same tensors, None where there is none."""

    def __init__(self, wanted: Sequence[Tensor]) -> None:
        self.wanted = list(wanted)
        self.total: list[Tensor | None] = [None] * len(self.wanted)

    def add(self, loss: Tensor, cut: Sequence[Tensor] = ()) -> list[Tensor | None]:
        """Add the gradient of a scalar; return its gradient for `cut`, which is not added."""
        return self.push_back([loss], [torch.ones_like(loss)], cut)

    def push_back(
        self,
        outputs: Sequence[Tensor],
        grads: Sequence[Tensor | None],
        cut: Sequence[Tensor] = (),
    ) -> list[Tensor | None]:
        """Push gradients at some tensors back through their graph, and add what arrives.

        Args:
            outputs: the tensors.
            grads: the gradient of a loss at each of them, None where it is zero.
            cut: leaves of the graph beside those of the sum.

        Returns:
            what arrives at each of `cut`, which is not added.
        """
        inputs = [*cut, *self.wanted]
        pairs = zip(outputs, grads, strict=True)
        reached = [(out, grad) for out, grad in pairs if grad is not None and out.requires_grad]
        if not inputs or not reached:
            return [None] * len(cut)
        # the loss is taken under autocast, where there is one, but a gradient never is
        with full_precision(outputs[0].device):
            found = torch.autograd.grad(
                [out for out, _ in reached],
                inputs,
                [grad for _, grad in reached],
                allow_unused=True,
            )
        self.merge(found[len(cut) :])
        return list(found[: len(cut)])

    def merge(self, grads: Sequence[Tensor | None]) -> None:
        """Add gradients, one for each tensor."""
        self.total = [_sum(before, g) for before, g in zip(self.total, grads, strict=True)]


def cut_off(tensor: Tensor) -> Tensor:
    """The same values as a leaf, whose gradient can be asked for."""
    return tensor.detach().requires_grad_() if tensor.is_floating_point() else tensor


class _WithGradient(torch.autograd.Function):
    """A scalar whose gradient is known.

    Where that gradient is to be differentiated once more, the scalar is computed again, its graph
    kept, and has the gradient that autograd finds.
    """

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
    """A gradient for `x` that refuses to be differentiated.

    It is handed on as it is. That `x` is an input too makes autograd come by here for whoever
    differentiates the gradient for `x` once more.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(gradient: Tensor, x: Tensor) -> Tensor:
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
        self.own: Tensor | None = None
        # while a step is recorded the state cannot be read; such a step is differentiated once
        if device.type == "cuda" and not torch.cuda.is_current_stream_capturing():
            self.own = torch.cuda.get_rng_state(device)

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


class StepsOnce:
    """An inner loop that keeps the graph of its steps.

    Args:
        walk: takes the steps, and returns the weights before and after every one.
    """

    def __init__(self, walk: Callable[[], list[Params]]) -> None:
        self._walk = walk
        self.path: list[Params] = []

    def walk(self) -> list[Params]:
        """The weights before and after every step."""
        self.path = self._walk()
        return self.path

    def push_back(self, grads: Sequence[Tensor | None], gradient: Gradient) -> None:
        """Push the gradients of a loss at the weights of the path back through the steps.

        Args:
            grads: for every tensor of every entry of the path, in order.
            gradient: where what arrives is added.
        """
        gradient.push_back([p for params in self.path for p in params.values()], grads)


class StepsAgain:
    """An inner loop that keeps the weights between its steps only, and takes each step once more.

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
        # before the first step, and after every one
        self.path: list[Params] = []
        self.states: list[Any] = []
        # before the start, and before every step
        self.random: list[RandomState] = []

    @torch.no_grad()
    def walk(self) -> list[Params]:
        """The weights before and after every step, without a graph."""
        self.random.append(RandomState(self.device))
        params, state = self.start()
        self.path.append(params)
        self.states.append(state)
        for number in range(self.steps):
            self.random.append(RandomState(self.device))
            params, state = self.step(params, state, number)
            self.path.append(params)
            self.states.append(state)
        return self.path

    def push_back(self, grads: Sequence[Tensor | None], gradient: Gradient) -> None:
        """Push the gradients of a loss at the weights of the path back through the steps.

        Backwards from the last step: the gradient at what a step ended with becomes the one at what
        it started from, where the step before ended.

        Args:
            grads: for every tensor of every entry of the path, in order.
            gradient: where what arrives is added.
        """
        size = len(self.path[0])
        at_weights = [list(grads[i : i + size]) for i in range(0, len(grads), size)]
        at_last_state = [None] * len(_floats(self.states[-1]))  # no loss depends on it
        # the gradients at weights and state after a step, and before it
        at_end: list[Tensor | None] = [*at_weights[-1], *at_last_state]
        for number in reversed(range(self.steps)):
            params = {name: cut_off(p) for name, p in self.path[number].items()}
            state = tree_map_only(Tensor, cut_off, self.states[number])
            with self.random[number + 1].again():
                end = self.step(params, state, number)
            at_start = gradient.push_back(_handed_on(*end), at_end, cut=_handed_on(params, state))
            # the loss may depend on these weights themselves too, not only on what became of them
            direct = [*at_weights[number], *[None] * (len(at_start) - size)]
            at_end = [_sum(a, b) for a, b in zip(at_start, direct, strict=True)]
        with self.random[0].again():
            start = self.start()
        gradient.push_back(_handed_on(*start), at_end)


def _handed_on(params: Params, state: Any) -> list[Tensor]:
    """What the next step takes over, of that which a gradient can reach: weights, then state."""
    return [*params.values(), *_floats(state)]


def _floats(state: Any) -> list[Tensor]:
    """The tensors of a rule's state that a gradient can reach."""
    leaves = tree_leaves(state)
    return [t for t in leaves if isinstance(t, Tensor) and t.is_floating_point()]


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    """a + b, None standing for zero."""
    if a is None or b is None:
        return b if a is None else a
    return a + b


def chunks(tasks: int, size: int) -> Iterator[slice]:
    """Slices of `size` tasks each, the last one of what is left."""
    for first in range(0, tasks, size):
        yield slice(first, min(first + size, tasks))
