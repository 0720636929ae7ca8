"""CAVIA: a task is told by a context vector, which alone adapts.

Zintgraf, Shiarlis, Kurin, Hofmann, Whiteson 2019, "Fast Context Adaptation via Meta-Learning",
https://arxiv.org/abs/1810.03642
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from graphfsl.core.adapt import Adapt
from graphfsl.core.arguments import described, whole_number
from graphfsl.core.objectives import support_loss
from graphfsl.core.pipeline import Pipeline
from graphfsl.core.rules import GradientDescent
from graphfsl.io.errors import InputError, require

__all__ = ["CAVIA"]


class CAVIA(Adapt):
    """Keep all weights theta, and learn of each task a context vector phi that the network reads.

        phi_0 = 0,  phi <- phi - alpha * grad_phi L(phi, theta), `steps` times      (equation 5)
        min_theta sum_i L_i(phi_i, theta)      (equation 6)

    Behind a linear layer the context is further input to it: W [x; phi] = W_x x + W_phi phi. Behind
    a layer of feature maps it scales and shifts them (FiLM): gamma o h + beta, with gamma and beta
    linear in phi.

    Args:
        net: a learner with an encoder, or any module whose outputs are scores. The layer at `at`
            gets a context, in place; the names of all weights stay as they are, and weights of a
            network without a context load too.
        at: name of that layer in the encoder, or in the module: a linear layer, a convolution, or a
            BatchNorm layer; None takes the third BatchNorm layer, or the last where there are
            fewer, and without any the first linear layer.
        context: m, the length of phi.
        steps: how often it steps.
        lr: alpha.
        first_order: treat inner gradients as constants.
        task_chunk: see `Adapt`.
        steps_test: steps outside of training, where they differ.

    Shapes:
        score: images or features (B, n, *S) -> (B, n, C).

    Source:
        sections 3 and 4, and the authors' code: 2 steps of 1.0 and 100 numbers behind the third
        block for images; 5 numbers beside the input for sine waves (`at` the first linear layer).
        BatchNorm: `apart`, as they take the statistics of the batch that is passed.

    Deviations:
        gamma starts at 1, not near 0, so that an encoder starts as it came; in our
        encoders FiLM stands before the pooling of the block, theirs behind it.
    """

    family = "optimisation"
    policy = "apart"
    adapts_frozen = True  # the context is no weight that a training moves

    def __init__(
        self,
        net: nn.Module,
        at: str | None = None,
        context: int = 100,
        steps: int = 2,
        lr: float = 1.0,
        first_order: bool = False,
        task_chunk: int | None = None,
        steps_test: int | None = None,
    ) -> None:
        whole_number(context, "cavia.context", 1)
        encoder = net.encoder if isinstance(net, Pipeline) else net
        if isinstance(encoder, nn.Module):
            layers = {name: layer for name, layer in encoder.named_modules() if name}
            place = usual_place(layers) if at is None else at
            if place is None or place not in layers:
                raise InputError(
                    f"the encoder has no layer {place!r} that could read a context; it has "
                    f"{', '.join(layers) or 'none'}"
                )
            give_context(layers[place], context)
        rule = GradientDescent(lr)
        super().__init__(
            net, rule, steps, support_loss, "*.context.phi", first_order, task_chunk, steps_test
        )


class Context(nn.Module):
    """A context phi (m,), a vector of zeros that only an inner loop moves, and what reads it.

    It changes the output of a layer, whose child `context` it is.
    """

    def __init__(self, like: Tensor, length: int) -> None:
        super().__init__()
        self.phi = nn.Parameter(like.new_zeros(length), requires_grad=False)
        self.register_load_state_dict_pre_hook(stay_without_weights)  # type: ignore[no-untyped-call]


class ContextInput(Context):
    """Further input of a linear layer: W x + b, and W_phi phi on top."""

    def __init__(self, layer: nn.Linear, length: int) -> None:
        like = layer.weight
        super().__init__(like, length)
        # as torch starts a layer of that many inputs
        self.weight = nn.Parameter(like.new_empty(layer.out_features, length))
        bound = (layer.in_features + length) ** -0.5
        nn.init.uniform_(self.weight, -bound, bound)

    def forward(self, out: Tensor) -> Tensor:
        """The layer's output (…, d'), and the same more for every row."""
        return out + self.weight @ self.phi


class FiLM(Context):
    """Scale and shift of the channels of maps (M, C, …)."""

    def __init__(self, like: Tensor, length: int, channels: int) -> None:
        super().__init__(like, length)
        self.linear = nn.Linear(length, 2 * channels).to(self.phi)
        with torch.no_grad():
            self.linear.bias[:channels] = 1
            self.linear.bias[channels:] = 0

    def forward(self, h: Tensor) -> Tensor:
        """The layer's maps h (M, C, …) times gamma plus beta."""
        told: Tensor = self.linear(self.phi)
        gamma, beta = told.unflatten(0, (2, -1, *(1,) * (h.ndim - 2)))
        modulated: Tensor = gamma * h + beta
        return modulated


def read_context(layer: nn.Module, inputs: Any, out: Tensor) -> Tensor:
    """What a layer's output becomes by its context, as a forward hook."""
    changed: Tensor = layer.context(out)  # type: ignore[operator]
    return changed


def stay_without_weights(
    context: nn.Module, tensors: dict[str, Tensor], prefix: str, *_: Any
) -> None:
    """Let a context stay as it is where tensors that are loaded hold none of it."""
    own = {prefix + name: tensor for name, tensor in context.state_dict().items()}
    if not own.keys() & tensors.keys():
        tensors.update(own)


def usual_place(layers: Mapping[str, nn.Module]) -> str | None:
    """The name of the layer behind which a context is read where none is chosen."""
    norms = [name for name, layer in layers.items() if isinstance(layer, _BatchNorm)]
    linear = [name for name, layer in layers.items() if isinstance(layer, nn.Linear)]
    return next(iter([*norms[2:3], *norms[-1:], *linear]), None)


def give_context(layer: nn.Module, length: int) -> None:
    """Make a layer read a context of that length; InputError where it cannot."""
    require(not hasattr(layer, "context"), "the layer reads a context already; give another net")
    layer.add_module("context", _context_of(layer, length))
    layer.register_forward_hook(read_context)


def _context_of(layer: nn.Module, length: int) -> Context:
    if isinstance(layer, nn.Linear):
        return ContextInput(layer, length)
    channels = getattr(layer, "num_features", getattr(layer, "out_channels", None))
    like = next(layer.parameters(), None)
    if not isinstance(channels, int) or like is None:
        raise InputError(
            "a context is read behind a linear layer, a convolution or a BatchNorm with weights, "
            f"not behind {described(layer)}"
        )
    return FiLM(like, length, channels)
