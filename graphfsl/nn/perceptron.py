"""The small network that graph methods apply to every node or every pair of nodes."""

from __future__ import annotations

import itertools

from torch import Tensor, nn
from torch.nn import functional as F

from graphfsl.core.batchnorm import BatchNorm


class Perceptron(nn.Module):
    """Linear layers without bias, each with BatchNorm and a leaky ReLU.

    Args:
        sizes: of the input and of each layer.
        out: of a last linear layer, with bias and nothing behind it; None for none.

    Shapes:
        forward: (B, m, sizes[0]) and a mask (B, m) of the real rows, None = all ->
            (B, m, sizes[-1]), or (B, m, out).
    """

    def __init__(self, *sizes: int, out: int | None = None) -> None:
        super().__init__()
        self.linears = nn.ModuleList(
            nn.Linear(a, b, bias=False) for a, b in itertools.pairwise(sizes)
        )
        self.norms = nn.ModuleList(BatchNorm(size) for size in sizes[1:])
        self.last = nn.Linear(sizes[-1], out) if out is not None else nn.Identity()

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, m, sizes[0]) -> (B, m, sizes[-1]), or (B, m, out)."""
        rows = mask.flatten() if mask is not None else None
        y = x.flatten(0, 1)
        for linear, norm in zip(self.linears, self.norms, strict=True):
            y = F.leaky_relu(norm(linear(y), rows))
        out: Tensor = self.last(y).unflatten(0, x.shape[:2])
        return out
