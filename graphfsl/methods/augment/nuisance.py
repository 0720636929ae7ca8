"""Nuisance attribute projection: what varies inside the classes is taken out of all features.

Solomonoff, Campbell, Boardman 2005, https://doi.org/10.1109/ICASSP.2005.1415191
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from graphfsl.core.base_classes import check_base, check_spread
from graphfsl.core.episode import Episode
from graphfsl.core.learner import Augment
from graphfsl.functional.within_class import class_means, within_class_directions
from graphfsl.io.errors import require, unknown

__all__ = ["Nuisance"]

DIRECTIONS = ("within", "random")


class Nuisance(Augment):
    """Take the directions out of all features in which samples of base classes differ most.

        V = the first `rank` directions of x_i - mu_y(i) over base samples, V'V = I
        x <- x - V V' x
        x <- x / ||x||

    What colours, light or handwriting do to a sample lies in V where it varies inside base classes,
    whether it has a label or not. Where such a nuisance goes along with class among the queries
    too, it would have helped, and its removal costs.

    Args:
        dim: d, the length of the features.
        rank: r, how many directions.
        directions: "within" classes; or "random", the control that removes as many others.
        unit: scale features to length 1 afterwards.

    Shapes:
        forward: features (B, n, d) -> (B, n, d).

    Source:
        section 3 of the paper.

    Deviations:
        the paper weighs pairs of channels; here every sample is set against the mean of its class.
    """

    family = "transfer"
    wants_base = True

    def __init__(
        self, dim: int, rank: int = 3, directions: str = "within", unit: bool = True
    ) -> None:
        super().__init__()
        require(1 <= rank < dim, f"nuisance.rank must be from 1 to {dim - 1}, not {rank}")
        if directions not in DIRECTIONS:
            raise unknown("directions", directions, DIRECTIONS)
        self.rank, self.directions, self.unit = rank, directions, unit
        self.basis: Tensor
        self.register_buffer("basis", torch.zeros(dim, rank))

    def check_base_labels(self, labels: Tensor) -> None:
        """Refuse labels (N,) of classes of one sample each, where directions are learned."""
        if self.directions != "random":
            check_spread(labels, "nuisance")

    def fit_base(self, features: Tensor, labels: Tensor) -> None:
        """Learn V from base-class features (N, d) and labels (N,).

        Raises:
            InputError: where the samples of the classes do not vary in so many directions.
        """
        check_base(features, labels, len(self.basis), 1, "nuisance")
        if self.directions == "random":
            self.basis.copy_(torch.linalg.qr(torch.randn_like(self.basis))[0])
            return
        means, row = class_means(features, labels)
        residuals = features - means[row]
        found = within_class_directions(residuals, self.rank)
        varies = residuals.square().sum() > 1e-10 * features.square().sum()
        require(
            bool(varies) and found.shape[1] == self.rank,
            f"nuisance.rank is {self.rank}, but the samples of the base classes do not vary in so "
            "many directions; lower it, or give more samples of a class",
        )
        self.basis.copy_(found)

    def of_base(self, features: Tensor) -> Tensor:
        """Features (…, d) without V, as the parts behind this one see them."""
        v = self.basis.to(features.dtype)
        left = features - features @ v @ v.mT
        return F.normalize(left, dim=-1) if self.unit else left

    def forward(self, episode: Episode) -> Episode:
        """The episode with rewritten features."""
        x = self.of_base(episode.x)
        return episode.replace(x=x, w=episode.w, relabeled=episode.relabeled)
