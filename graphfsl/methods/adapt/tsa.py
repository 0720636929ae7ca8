"""TSA: task-specific adapters, small matrices beside the convolutions of a frozen encoder.

Li, Liu, Bilen 2022, https://arxiv.org/abs/2107.00358; with the map of the head `url` alone it is
URL, Li, Liu, Bilen 2021, https://arxiv.org/abs/2103.13841
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from graphfsl.core.adapt import Adapt
from graphfsl.core.learner import Learner
from graphfsl.core.objectives import support_loss
from graphfsl.core.rules import Adadelta, Params
from graphfsl.io.errors import InputError, require

__all__ = ["TSA"]


def is_kernel(p: Tensor) -> bool:
    """Whether it is the weight (out, in, h, w) of a convolution wider than 1x1 with a middle."""
    sides = p.shape[2:]
    return p.ndim == 4 and all(side % 2 for side in sides) and max(sides) > 1


def of_middle(gradient: Tensor) -> Tensor:
    """The gradient (out, in, h, w) of a kernel where its middle alone may move: zero elsewhere."""
    h, w = gradient.shape[2] // 2, gradient.shape[3] // 2
    middle = torch.zeros_like(gradient)
    middle[:, :, h, w] = gradient[:, :, h, w]
    return middle


class Residuals(Adadelta):
    """Adadelta on the middle weights of kernels, and on all else that adapts."""

    def update(
        self, params: Params, grads: Params, loss: Tensor, state: tuple[Params, Params], step: int
    ) -> tuple[Params, tuple[Params, Params]]:
        """The parameters after a step, and the running means."""
        moving = {n: of_middle(g) if is_kernel(params[n]) else g for n, g in grads.items()}
        return super().update(params, moving, loss, state, step)


class TSA(Adapt):
    """Tune a 1x1 residual beside each 3x3 convolution on the support, the encoder being frozen.

        h <- W * h + alpha h      (equation 4),  min over all alpha of the support's own loss

    by Adadelta. alpha h, a 1x1 convolution, is the same as a change of the middle of W, which is
    what moves here; every other weight stays as it is, to the bit. With the head `url` its map A is
    tuned along with them; params=head.map tunes it alone, which is URL.

    Args:
        net: any learner; the paper's is the head `url`.
        steps: of Adadelta.
        lr: its rate.
        params: what adapts, by name pattern; of an encoder only convolutions wider than 1x1.
        task_chunk: see `Adapt`.

    Shapes:
        score: images (B, n, *S) -> (B, n, C).

    Source:
        sections 3.2 and 3.3 and the authors' code: 40 steps, on the support's cross-entropy to its
        own class means. With one sample of each class these are the samples, and hardly anything is
        left to tune.

    Deviations:
        alpha starts at zero, the authors' at 1e-4 times the identity, so that nothing has changed
        before the first step; A and alpha have one rate, and the scale and shift of BatchNorm stay
        as they are.
    """

    family = "transfer"
    adapts_frozen = True

    def __init__(
        self,
        net: Learner,
        steps: int = 40,
        lr: float = 0.1,
        params: str | Sequence[str] = "*",
        task_chunk: int | None = None,
    ) -> None:
        require(lr > 0, f"tsa.lr must be above 0, not {lr}")
        super().__init__(net, Residuals(lr), steps, support_loss, params, True, task_chunk)

    def _chosen(self, patterns: Sequence[str]) -> list[str]:
        """The names of the kernels and of what is imprinted that match the patterns.

        Raises:
            InputError: where none does.
        """
        known = dict(self.caller.named_parameters())
        names = super()._chosen(patterns)
        chosen = [name for name in names if name not in known or is_kernel(known[name])]
        if not chosen:
            raise InputError(
                "tsa adapts convolutions wider than 1x1, and the map of the head url; this learner "
                "has neither: set learner.encoder=conv4, or learner.head=url"
            )
        return chosen
