"""Distribution Calibration: a class borrows mean and spread from the base classes near it.

Yang, Liu, Xu 2021, https://arxiv.org/abs/2101.06395
"""

from __future__ import annotations

import torch
from torch import Tensor

from graphfsl.core.base_classes import check_base, check_count, check_spread
from graphfsl.core.generator import Generator
from graphfsl.functional.distances import squared_euclidean
from graphfsl.functional.within_class import (
    class_means,
    covariance_roots,
    within_class_directions,
)
from graphfsl.io.errors import require

__all__ = ["DistributionCalibration"]


class DistributionCalibration(Generator):
    """Add draws from a Gaussian that is calibrated by the base classes nearest to a sample.

    With S the k base classes whose means mu_i are nearest to the labeled sample x,

        mu' = (sum_{i in S} mu_i + x) / (k + 1)
        Sigma' = (1 - pooled) / k sum_{i in S} Sigma_i + pooled Sigma + alpha 1 1^T
        x' ~ N(mu', Sigma')

    where Sigma is the pooled covariance within base classes. Features should be transformed first,
    in a list of augment parts: `feature_transform` with power 0.5.

    Args:
        dim: d, the length of the features.
        samples: nodes that every labeled sample gets; 0 adds nothing.
        weight: label weight of a generated node beside 1 of a real one.
        neighbors: k; with 0, mu' is x and Sigma' the pooled covariance.
        pooled: share of Sigma, between 0 and 1; the paper's is 0.
        alpha: added to every entry of Sigma'; the authors' value is 0.21.
        rank: r; covariances are those within the r widest within-class directions of base features.
        averaged: the mean of 64 draws in place of the draws, see `Generator`.

    Shapes:
        forward: features (B, n, d), weights (B, n, C) -> an episode with `samples` more support
            nodes for each that it has.

    Source:
        section 3, and the authors' code.

    Deviations:
        base statistics are those of transformed features, the authors' of raw ones; covariances
        are shrunk towards the pooled one and have rank r; fewer samples, with a weight; the
        classifier is any head, the paper's logistic regression is `rfs`.
    """

    of_samples = True
    needs_fit = True
    wants_base = True
    remembers = ("ready", "means", "roots")

    def __init__(
        self,
        dim: int,
        samples: int = 20,
        weight: float = 0.1,
        neighbors: int = 2,
        pooled: float = 0.5,
        alpha: float = 0.0,
        rank: int = 64,
        averaged: bool = False,
    ) -> None:
        require(
            neighbors >= 0 and 0 <= pooled <= 1 and alpha >= 0 and rank >= 1,
            "distribution_calibration: neighbors and alpha must be 0 or more, pooled in [0, 1] "
            "and rank 1 or more",
        )
        rank = min(rank, dim)
        super().__init__(((neighbors + 1) * rank + 1,), samples, weight, averaged)
        self.neighbors, self.alpha = neighbors, alpha
        self.pooled_share = pooled if neighbors else 1.0
        self.means: Tensor
        self.roots: Tensor
        self.pooled: Tensor
        self.directions: Tensor
        self.register_buffer("means", torch.zeros(0, dim))
        self.register_buffer("roots", torch.zeros(0, rank, rank))
        self.register_buffer("pooled", torch.zeros(rank, rank))
        self.register_buffer("directions", torch.zeros(dim, rank))

    def check_base_labels(self, labels: Tensor) -> None:
        """Refuse labels (N,) of fewer classes than neighbors, and of classes of one sample each."""
        check_count(labels, self.neighbors, "distribution_calibration")
        check_spread(labels, "distribution_calibration")

    def fit_base(self, features: Tensor, labels: Tensor) -> None:
        """Learn means and covariances from base-class features (N, d) and labels (N,)."""
        dim, rank = self.directions.shape
        check_base(features, labels, dim, 1, "distribution_calibration")
        self.check_base_labels(labels)
        self.means, row = class_means(features, labels)
        residuals = features - self.means[row]
        found = within_class_directions(residuals, rank)
        directions = torch.nn.functional.pad(found, (0, rank - found.shape[1]))
        self.roots, pooled = covariance_roots(residuals @ directions, row, len(self.means))
        self.pooled.copy_(pooled)
        self.directions.copy_(directions)
        self.set_ready()

    def calibrated(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The mean mu' (B, g, d), and which base classes (B, g, k) it rests on, of x (B, g, d)."""
        means = self.means.to(x.dtype)
        k = min(self.neighbors, len(means))  # before `fit_base` there are none
        far = squared_euclidean(x, means.expand(len(x), -1, -1))
        nearest = far.topk(k, largest=False).indices
        return (means[nearest].sum(-2) + x) / (k + 1), nearest

    def draw(self, condition: Tensor, noise: Tensor) -> Tensor:
        """x' (B, g, m, d) from x (B, g, d) and noise (B, g, m, (k + 1) r + 1)."""
        mean, nearest = self.calibrated(condition)
        roots, pooled = self.roots.to(noise.dtype), self.pooled.to(noise.dtype)
        k, share = nearest.shape[-1], self.pooled_share
        parts = noise[..., :-1].unflatten(-1, (-1, len(pooled)))
        # a sum of k + 1 independent draws has the sum of their covariances
        own = torch.einsum("bgmkr,bgkrs->bgms", parts[..., :k, :], roots[nearest])
        place = ((1 - share) / max(k, 1)) ** 0.5 * own + share**0.5 * parts[..., -1, :] @ pooled
        of_every_entry = self.alpha**0.5 * noise[..., -1:]
        drawn: Tensor = (
            mean.unsqueeze(2) + place @ self.directions.to(noise.dtype).mT + of_every_entry
        )
        return drawn
