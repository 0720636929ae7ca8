"""Classifiers of base classes, for pretraining."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphfsl.io.errors import unknown


class CosineClassifier(nn.Module):
    """Class scores s g_c cos(z, w_c); each length g_c is learned (weight normalisation).

    Args:
        dim: d, the length of the features.
        classes: C.
        scale: s, 2 for hundreds of classes, 10 for Omniglot's thousands.

    Shapes:
        forward: features (n, d) -> (n, C).

    Source:
        Chen et al. 2019, https://arxiv.org/abs/1904.04232, section 3.2.
    """

    def __init__(self, dim: int, classes: int, scale: float = 10.0) -> None:
        super().__init__()
        self.scale = scale
        self.directions = nn.Parameter(torch.randn(classes, dim) / dim**0.5)
        self.lengths = nn.Parameter(torch.ones(classes))

    def forward(self, z: Tensor) -> Tensor:
        """Vectors (m, d) -> class scores (m, C)."""
        return (
            self.scale
            * self.lengths
            * F.linear(F.normalize(z, dim=-1), F.normalize(self.directions, dim=-1))
        )


def classifier(name: str, dim: int, classes: int, scale: float) -> nn.Module:
    """The classifier "linear" or "cosine"; another name raises InputError.

    Args:
        name: "linear" or "cosine".
        dim: d, the length of the features.
        classes: how many there are.
        scale: of the cosine.
    """
    if name not in ("linear", "cosine"):
        raise unknown("classifier", name, ("linear", "cosine"))
    return nn.Linear(dim, classes) if name == "linear" else CosineClassifier(dim, classes, scale)
