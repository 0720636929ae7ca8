"""Support nodes weigh less the less they resemble the others of their class.

Liang, Rangrej, Petrovic, Hassner 2022 compares these estimators under wrong labels,
https://arxiv.org/abs/2204.05494; the spatial median: Weiszfeld 1937
"""

from __future__ import annotations

import torch
from torch import Tensor

from graphfsl.core.episode import Episode
from graphfsl.core.learner import Augment
from graphfsl.functional.robust_weights import (
    median_weights,
    similarity_weights,
    trimmed_weights,
)
from graphfsl.io.errors import require, unknown

__all__ = ["RobustSupport"]

ESTIMATORS = ("median", "trimmed", "similarity", "mean")


class RobustSupport(Augment):
    """Give the support nodes of each class other label weights, so that wrong labels count less.

        mean        w'_i = w_i: nothing changes
        median      w'_i ~ w_i / ||x_i - m||,  m = sum_i w'_i x_i: the spatial median
        trimmed     w'_i ~ w_i, and 0 for those that are farthest from it
        similarity  w'_i ~ w_i exp(s_i / T),  s_i the mean cosine of x_i and the others

    A class keeps its weight. Whatever reads label weights behind it is robust then: with a head of
    class means these are the estimator's. Classes of one or two nodes stay as they are.

    Args:
        estimator: "median", "trimmed", "similarity" or "mean".
        steps: of the median's iteration.
        trim: share of a class's nodes that is left out, for "trimmed".
        temperature: T, for "similarity".

    Shapes:
        forward: features (B, n, d), weights (B, n, C) -> the same episode with other weights.

    Source:
        the estimators that the paper compares its own with; equations above.

    Deviations:
        the trimmed mean leaves out whole nodes, by their distance from the median.
    """

    def __init__(
        self,
        estimator: str = "median",
        steps: int = 10,
        trim: float = 0.4,
        temperature: float = 0.1,
    ) -> None:
        super().__init__()
        if estimator not in ESTIMATORS:
            raise unknown("estimator", estimator, ESTIMATORS)
        require(
            steps >= 1 and 0 <= trim < 1 and temperature > 0,
            "robust_support: steps must be 1 or more, trim in [0, 1) and temperature above 0",
        )
        self.estimator, self.steps = estimator, steps
        self.trim, self.temperature = trim, temperature

    def weights(self, x: Tensor, w: Tensor) -> Tensor:
        """w' (B, k, C) of support features (B, k, d) with label weights (B, k, C)."""
        if self.estimator == "median":
            return median_weights(x, w, self.steps)
        if self.estimator == "trimmed":
            return trimmed_weights(x, w, self.trim)
        if self.estimator == "similarity":
            return similarity_weights(x, w, self.temperature)
        return w

    def forward(self, episode: Episode) -> Episode:
        """The episode with other label weights of the support."""
        if self.estimator == "mean":
            return episode
        support = episode.support
        w = self.weights(episode.x[:, support], episode.w[:, support])
        rest = episode.w[:, support.stop :]
        return episode.with_tensors({"w": torch.cat([w, rest], 1)})
