"""Neighbourhood components instead of episodes.

Laenen, Bertinetto 2021, "On Episodes, Prototypical Networks, and Few-Shot Learning",
https://arxiv.org/abs/2012.09831
"""

from __future__ import annotations

import torch
from torch import Tensor

from graphfsl.core.learner import Encode, Objective
from graphfsl.functional.distances import squared_euclidean
from graphfsl.io.errors import require

__all__ = ["NCA"]


class NCA(Objective):
    """Pretrain so that images are nearer to others of their class than to all else.

        L = -1/n sum_i log(near_i / all_i)
        near_i = sum_{j != i, y_j = y_i} exp(-||z_i - z_j||^2 / t)
        all_i = sum_{k != i} exp(-||z_i - z_k||^2 / t)

    over all pairs of the batch in place of a split into support and query (equation 4).

    Args:
        temperature: t.
        per_class: images of a class in a batch, at least 2. An image without another one of its
            class is left out of the mean.

    Shapes:
        forward: images (B, n, *S), labels (B, n) -> scalar.

    Source:
        equation 4 (Goldberger et al. 2005).

    Deviations:
        none are known.
    """

    family = "metric"

    def __init__(self, temperature: float = 1.0, per_class: int = 8) -> None:
        super().__init__()
        require(
            temperature > 0 and per_class >= 2,
            f"nca: temperature must be above 0, per_class 2 or more, not "
            f"{temperature}, {per_class}",
        )
        self.temperature, self.per_class = temperature, per_class

    def forward(self, encode: Encode, x: Tensor, y: Tensor) -> Tensor:
        """The mean loss of the images that have another of their class in the batch: a scalar.

        Args:
            encode: images (m, *S) -> vectors (m, d).
            x: (B, n, *S) images.
            y: (B, n) labels, below 0 = none.
        """
        z, y = encode(x.flatten(0, 1)), y.flatten()
        itself = torch.eye(len(y), dtype=torch.bool, device=y.device)
        close = (-squared_euclidean(z, z) / self.temperature).masked_fill(
            itself | (y < 0), float("-inf")
        )
        same = (y[:, None] == y) & ~itself & (y >= 0)
        paired = same.any(-1)
        # A row without a pair would be -inf throughout, whose logarithm has no gradient.
        near = close.masked_fill(~same & paired[:, None], float("-inf")).logsumexp(-1)
        loss = (close.logsumexp(-1) - near).where(paired, 0)
        return loss.sum() / paired.sum().clamp_min(1)
