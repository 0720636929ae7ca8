"""Features of base classes, for what learns from them in `fit_base`."""

from __future__ import annotations

import torch
from torch import Tensor

from graphfsl.testing import DIM

# the standard deviation of each feature within a class
SPREAD = torch.tensor([1.0, 0.8, 0.6, 0.4, 0.2, 0.1])


def base_features(
    classes: int = 12, each: int = 40, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Features (N, DIM) and labels (N,) of Gaussian classes, and their true means."""
    g = torch.Generator().manual_seed(seed)
    means, y = 3 * torch.randn(classes, DIM, generator=g), torch.arange(classes)
    y = y.repeat_interleave(each)
    return means[y] + SPREAD * torch.randn(len(y), DIM, generator=g), y, means
