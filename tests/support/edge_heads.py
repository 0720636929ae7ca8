"""EGNN and DPGN with weights that show, and their networks one row at a time."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graphfsl.core.episode import Episode
from graphfsl.core.learner import Head
from graphfsl.methods.heads.dpgn import DPGN
from graphfsl.nn.perceptron import Perceptron
from graphfsl.testing import DIM, WAY, unlike_fresh


def head(cls: type[Head], **options: object) -> Head:
    """Of weights so large that every part shows in the answer."""
    torch.manual_seed(0)
    net = cls(DIM, hidden=8, **options)
    unlike_fresh(net).double().eval()
    for module in net.modules():
        if isinstance(module, nn.Linear):
            module.weight.data *= 3
    return net


def dpgn(**options: object) -> Head:
    """A DPGN for these episodes."""
    return head(DPGN, way=WAY, **{"shot": 2, **options})


def perceptron(net: Perceptron, x: Tensor) -> Tensor:
    """One row, with the stored statistics."""
    for linear, norm in zip(net.linears, net.norms, strict=True):
        y = linear.weight @ x
        y = (y - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias
        x = torch.where(y > 0, y, 0.01 * y)
    return net.last(x)


def reorder(episode: Episode, order: Tensor) -> Episode:
    """The same nodes in another order."""
    return episode.replace(
        x=episode.x[:, order], w=episode.w[:, order], mask=episode.mask[:, order]
    )


def close(a: Tensor, b: Tensor) -> None:
    """Equal but for rounding in double precision."""
    torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-9)
