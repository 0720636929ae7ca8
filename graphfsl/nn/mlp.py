"""The multilayer perceptron that reads points and rows of a table (MAML's sinusoid: 40, 40)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from graphfsl.core.arguments import whole_number
from graphfsl.io.errors import require


class MLP(nn.Module):
    """Linear layers with bias, each with a ReLU behind it; of vectors, or of flattened images.

    Args:
        in_channels: of the images, or the length of the vectors.
        widths: of each layer.
        pixels: of an image; 1 for vectors.
        std: of the truncated normal that weights start from, with biases of 0 (MAML's code: 0.01);
            None for torch's own start.

    Shapes:
        forward: (M, in_channels) or (M, in_channels, h, w) -> vectors (M, widths[-1]).

    Raises:
        InputError: where there is no layer, or one of no width.
    """

    reads_vectors = True

    def __init__(
        self,
        in_channels: int = 1,
        widths: Sequence[int] = (40, 40),
        pixels: int = 1,
        std: float | None = None,
    ) -> None:
        super().__init__()
        require(len(widths) > 0, "widths must name a layer at least, such as [40, 40]")
        require(std is None or std > 0, f"std must be above 0, or null, not {std}")
        first = whole_number(in_channels, "in_channels", 1) * whole_number(pixels, "pixels", 1)
        sizes = [first, *(whole_number(w, "each of widths", 1) for w in widths)]
        layers = [nn.Linear(a, b) for a, b in itertools.pairwise(sizes)]
        if std is not None:
            for layer in layers:
                start_small(layer, std)
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        """(M, in_channels) or (M, in_channels, h, w) -> (M, widths[-1])."""
        # tables often come as doubles
        y = x.flatten(1).to(next(self.parameters()).dtype)
        for layer in self.layers:
            y = F.relu(layer(y))
        return y

    def readout(self, z: Tensor) -> Tensor:
        """Vectors are what they are: (M, d) -> (M, d)."""
        return z


def relu_layers(*sizes: int) -> nn.Sequential:
    """Linear layers with bias between these sizes, a ReLU between two of them: (…, a) -> (…, z)."""
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(sizes):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def start_small(layer: nn.Linear, std: float) -> None:
    """Weights from a normal of this deviation, cut at two of them, and a bias of 0."""
    nn.init.trunc_normal_(layer.weight, std=std, a=-2 * std, b=2 * std)
    nn.init.zeros_(layer.bias)
