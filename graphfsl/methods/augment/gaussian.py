"""Draws around each labeled sample with the spread of base classes: the baseline of generators.

It is Distribution Calibration without its calibration: Yang, Liu, Xu 2021,
https://arxiv.org/abs/2101.06395
"""

from __future__ import annotations

import torch
from torch import Tensor

from graphfsl.core.base_classes import check_base, check_spread
from graphfsl.core.generator import Generator
from graphfsl.functional.within_class import (
    class_means,
    covariance_roots,
    within_class_directions,
)
from graphfsl.io.errors import require

__all__ = ["Gaussian"]


class Gaussian(Generator):
    """Add draws around each labeled sample, as samples of base classes spread around their means.

        x' = x + V Sigma^(1/2) z,   z ~ N(0, I)

    with V the `rank` widest within-class directions of base features and Sigma their pooled
    covariance.

    Args:
        dim: d, the length of the features.
        samples: nodes that every labeled sample gets; 0 adds nothing.
        weight: label weight of a generated node beside 1 of a real one.
        rank: r, how many directions vary.
        averaged: the mean of 64 draws in place of the draws, see `Generator`.

    Shapes:
        forward: features (B, n, d), weights (B, n, C) -> an episode with `samples` more support
            nodes for each that it has.

    Source:
        the covariance of Yang et al. with no base class near, as what generators are compared with.

    Deviations:
        one covariance for all classes, of rank r.
    """

    of_samples = True
    needs_fit = True
    wants_base = True

    def __init__(
        self,
        dim: int,
        samples: int = 5,
        weight: float = 0.2,
        rank: int = 64,
        averaged: bool = False,
    ) -> None:
        require(rank >= 1, f"gaussian.rank must be 1 or more, not {rank}")
        rank = min(rank, dim)
        super().__init__((rank,), samples, weight, averaged)
        self.root: Tensor
        self.register_buffer("root", torch.zeros(rank, dim))

    def check_base_labels(self, labels: Tensor) -> None:
        """Refuse labels (N,) of classes of one sample each."""
        check_spread(labels, "gaussian")

    def fit_base(self, features: Tensor, labels: Tensor) -> None:
        """Learn directions and spread from base-class features (N, d) and labels (N,)."""
        rank, dim = self.root.shape
        check_base(features, labels, dim, 1, "gaussian")
        self.check_base_labels(labels)
        means, row = class_means(features, labels)
        residuals = features - means[row]
        directions = within_class_directions(residuals, rank)
        _, pooled = covariance_roots(residuals @ directions, row, len(means))
        self.root.zero_()
        self.root[: len(pooled)] = pooled @ directions.mT
        self.set_ready()

    def draw(self, condition: Tensor, noise: Tensor) -> Tensor:
        """x' (B, g, m, d) around x (B, g, d) from noise (B, g, m, r)."""
        return condition.unsqueeze(2) + noise @ self.root.to(noise.dtype)
