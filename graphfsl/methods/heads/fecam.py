"""FeCAM: the nearest class mean in the metric of base classes.

Goswami, Liu, Twardowski, van de Weijer 2023, https://arxiv.org/abs/2309.14062
"""

from __future__ import annotations

import torch
from torch import Tensor

from graphfsl.core.base_classes import check_base
from graphfsl.core.episode import Episode
from graphfsl.core.learner import Head
from graphfsl.functional.distances import squared_euclidean
from graphfsl.functional.prototypes import hide_absent, prototypes
from graphfsl.functional.within_class import class_means
from graphfsl.io.errors import require

__all__ = ["FeCAM"]


class FeCAM(Head):
    """Answer with the nearest class mean, by Mahalanobis' distance with one covariance for all.

        s_c(x) = -(x - mu_c)^T (Sigma + gamma V I)^-1 (x - mu_c)

    with Sigma the covariance of base features around their class means, and V the mean of its
    diagonal. A new class, of whose few samples no covariance could be told, is seen in the metric
    of the base classes. Nothing of an old class is kept but its mean.

    Args:
        dim: d, the length of the features.
        gamma: how far the covariance is shrunk; a large one is the Euclidean distance.

    Shapes:
        score: features (B, n, d), label weights (B, n, C) -> (B, n, C).

    Source:
        equations 2 and 6, in the few-shot setting with the common covariance of base classes.

    Deviations:
        features are not raised to a power, and of covariances there is one, which no
        normalisation changes; entries beside the diagonal are not shrunk by themselves.
    """

    family = "transfer"
    wants_base = True
    reads_means = True
    cannot_export = "factorises a covariance, for which ONNX has no operator"

    def __init__(self, dim: int, gamma: float = 1.0) -> None:
        super().__init__()
        require(gamma > 0, f"fecam.gamma must be above 0, not {gamma}")
        self.gamma = gamma
        self.covariance: Tensor
        self.register_buffer("covariance", torch.eye(dim))

    def fit_base(self, features: Tensor, labels: Tensor) -> None:
        """Learn the covariance from base-class features (N, d) and labels (N,)."""
        check_base(features, labels, len(self.covariance), 1, "fecam")
        means, row = class_means(features, labels)
        residuals = features - means[row]
        freedom = max(len(features) - len(means), 1)
        self.covariance.copy_(residuals.mT @ residuals / freedom)

    def whitened(self, x: Tensor) -> Tensor:
        """Features (B, n, d) in coordinates in which the distance is Euclid's."""
        covariance = self.covariance.double()
        mean = covariance.diagonal().mean().clamp_min(1e-12)
        unit = torch.eye(len(covariance), dtype=torch.float64, device=x.device)
        # `cholesky` would wait for a GPU to ask whether the matrix has a root, which this one has
        root, _ = torch.linalg.cholesky_ex(covariance / mean + self.gamma * unit)
        white: Tensor = torch.linalg.solve_triangular(root, unit, upper=False).to(x.dtype)
        return x @ white.mT

    def score(self, episode: Episode) -> Tensor:
        """Minus the squared distances to the class means: (B, n, C)."""
        x = self.whitened(episode.x)
        c = prototypes(x[:, episode.labeled], episode.w[:, episode.labeled])
        return hide_absent(-squared_euclidean(x, c), episode.w)
