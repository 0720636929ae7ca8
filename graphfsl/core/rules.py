"""Rules of the inner loop: how a step moves parameters."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from graphfsl.functional.adam import adam_step
from graphfsl.io.errors import require

Params = dict[str, Tensor]  # parameters, or gradients, by name


class Rule(nn.Module):
    """How an inner step moves parameters; a subclass writes `update`.

    A rule that learns makes parameters of its own in `bind`. Nothing is mutated: `update` returns
    new tensors.

        class SignDescent(Rule):
            def __init__(self, lr: float) -> None:
                super().__init__()
                self.lr = lr

            def update(self, params, grads, loss, state, step):
                return {n: p - self.lr * grads[n].sign() for n, p in params.items()}, state
    """

    # the most steps that it can take, None = any number; one that learned something of its steps
    # knows no more than it was trained with
    most_steps: int | None = None

    @property
    def pace(self) -> str:
        """How far its steps go, as a message says it, such as "at lr 0.4"; empty if not known."""
        lr = getattr(self, "lr", None)
        return f"at lr {lr:g}" if isinstance(lr, (int, float)) else ""

    def bind(self, params: Params) -> None:
        """Be told the parameters that adapt, once, to make parameters of the rule's own.

        Args:
            params: name -> a tensor of its shape and device; what an episode imprints has no shape
                yet, and a scalar stands for it.
        """

    def init(self, params: Params) -> Any:
        """The state before the first step."""
        return None

    def update(
        self, params: Params, grads: Params, loss: Tensor, state: Any, step: int
    ) -> tuple[Params, Any]:
        """The parameters and the state after a step.

        Args:
            params: before the step.
            grads: of the inner loss, for each of them.
            loss: the inner loss, a scalar.
            state: what the step before returned, or `init`.
            step: counts from 0.
        """
        raise NotImplementedError


def by_name(params: Iterable[tuple[str, Tensor]]) -> nn.ParameterDict:
    """Parameters of a rule, one for each name; read them with `own`."""
    return nn.ParameterDict({_key(name): nn.Parameter(value) for name, value in params})


def own(parameters: nn.ParameterDict, name: str) -> Tensor:
    """The parameter of a rule for the net's parameter of this name."""
    value: Tensor = parameters[_key(name)]
    return value


def _key(name: str) -> str:
    return name.replace(".", "/")  # PyTorch allows no dot in a parameter's name


def flat(params: Params) -> Tensor:
    """All their elements one after the other: (P,)."""
    return torch.cat([p.flatten() for p in params.values()])


def unflat(vector: Tensor, like: Params) -> Params:
    """A vector (P,) as tensors of these names and shapes: the inverse of `flat`."""
    parts = vector.split([p.numel() for p in like.values()])
    return {name: part.view_as(p) for part, (name, p) in zip(parts, like.items(), strict=True)}


class LearnedRates(Rule):
    """A rule that learned something of its steps: rates, matrices, gates.

    Past the steps that it was trained with the weights tend to diverge, so that more are refused
    unless `beyond` is "last".

    Args:
        steps: that it is trained with.
        beyond: "last" goes on past them with the rates of the last step; None refuses to.
    """

    def __init__(self, steps: int, beyond: str | None = None) -> None:
        super().__init__()
        require(beyond in (None, "last"), f"beyond must be last, or left out, not {beyond!r}")
        self.steps = steps
        self.most_steps = None if beyond else steps

    @property
    def pace(self) -> str:
        """How far its steps go, as a message says it."""
        return "at the rates that it learned"

    def row(self, step: int) -> int:
        """Which of the learned steps this one is."""
        return min(step, max(self.steps - 1, 0))


class GradientDescent(Rule):
    """theta <- theta - lr * gradient, the rule of MAML."""

    def __init__(self, lr: float) -> None:
        super().__init__()
        require(lr > 0, f"the rate of the inner loop must be above 0, not {lr}")
        self.lr = lr

    def update(
        self, params: Params, grads: Params, loss: Tensor, state: None, step: int
    ) -> tuple[Params, None]:
        """The parameters after a step, and None."""
        return {n: p - self.lr * grads[n] for n, p in params.items()}, None


class Adam(Rule):
    """The steps of torch.optim.Adam with its defaults.

    For inner loops whose gradients are constants: its root has no derivative where a gradient is
    zero.

    Args:
        lr: of a step.
        beta1: how much of the mean gradient a step keeps.

    Source:
        Kingma, Ba 2015, https://arxiv.org/abs/1412.6980
    """

    def __init__(self, lr: float, beta1: float = 0.9) -> None:
        super().__init__()
        require(lr > 0, f"the rate of the inner loop must be above 0, not {lr}")
        require(0 <= beta1 < 1, f"beta1 must be in [0, 1), not {beta1}")
        self.lr, self.beta1 = lr, beta1

    def init(self, params: Params) -> tuple[Params, Params]:
        """The first and second moments, zero."""
        zero = {n: torch.zeros_like(p) for n, p in params.items()}
        return zero, zero

    def update(
        self,
        params: Params,
        grads: Params,
        loss: Tensor,
        state: tuple[Params, Params],
        step: int,
    ) -> tuple[Params, tuple[Params, Params]]:
        """The parameters after a step, and the moments."""
        moved, first, second = {}, {}, {}
        for n, p in params.items():
            moved[n], first[n], second[n] = adam_step(
                p, grads[n], state[0][n], state[1][n], step + 1, self.lr, self.beta1
            )
        return moved, (first, second)


class Adadelta(Rule):
    """The steps of torch.optim.Adadelta.

    For inner loops whose gradients are constants.

    Args:
        lr: of a step.
        decay: rho, how much of the mean squares a step keeps.

    Source:
        Zeiler 2012, https://arxiv.org/abs/1212.5701, algorithm 1.
    """

    least = 1e-6  # epsilon of torch.optim.Adadelta

    def __init__(self, lr: float, decay: float = 0.9) -> None:
        super().__init__()
        require(lr > 0, f"the rate of the inner loop must be above 0, not {lr}")
        require(0 <= decay < 1, f"the decay of Adadelta must be in [0, 1), not {decay}")
        self.lr, self.decay = lr, decay

    def init(self, params: Params) -> tuple[Params, Params]:
        """The mean squares of gradients and of steps, zero."""
        zero = {n: torch.zeros_like(p) for n, p in params.items()}
        return zero, zero

    def update(
        self, params: Params, grads: Params, loss: Tensor, state: tuple[Params, Params], step: int
    ) -> tuple[Params, tuple[Params, Params]]:
        """The parameters after a step, and the mean squares."""
        moved, of_gradients, of_steps = {}, {}, {}
        for n, p in params.items():
            g = grads[n]
            of_gradients[n] = state[0][n].lerp(g.square(), 1 - self.decay)
            root = (state[1][n] + self.least).sqrt() / (of_gradients[n] + self.least).sqrt()
            of_steps[n] = state[1][n].lerp((root * g).square(), 1 - self.decay)
            moved[n] = p - self.lr * root * g
        return moved, (of_gradients, of_steps)
