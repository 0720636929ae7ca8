"""Within-class covariance normalisation.

Hatch, Kajarekar, Stolcke 2006, https://www.isca-archive.org/interspeech_2006/hatch06_interspeech.html
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from graphfsl.core.base_classes import check_base, check_spread
from graphfsl.core.episode import Episode
from graphfsl.core.learner import Augment
from graphfsl.functional.within_class import class_means
from graphfsl.io.errors import require

__all__ = ["WCCN"]


class WCCN(Augment):
    """Scale features so that samples of a base class vary alike in all directions.

        W = 1/N sum_i (x_i - mu_y(i)) (x_i - mu_y(i))'
        x <- (W d/tr(W) + shrink I)^(-1/2) x
        x <- x / ||x||

    Directions in which classes vary much, such as light or colour, count less; nothing is removed
    altogether, so that the price is small where they would have helped.

    Args:
        dim: d, the length of the features.
        shrink: how far W is drawn to a multiple of I; large values leave features as they are.
        unit: scale features to length 1 afterwards.

    Shapes:
        forward: features (B, n, d) -> (B, n, d).

    Source:
        section 2 of the paper; the smoothing of its section 4.

    Deviations:
        the paper smooths by (1 - a) W + a I with a chosen on data, and W keeps its size, which is
        lost in features of length 1; the root is the symmetric one.
    """

    family = "transfer"
    wants_base = True

    def __init__(self, dim: int, shrink: float = 1.0, unit: bool = True) -> None:
        super().__init__()
        require(shrink > 0, f"wccn.shrink must be above 0, not {shrink}")
        self.shrink, self.unit = shrink, unit
        self.map: Tensor
        self.register_buffer("map", torch.eye(dim))

    def check_base_labels(self, labels: Tensor) -> None:
        """Refuse labels (N,) of classes of one sample each."""
        check_spread(labels, "wccn")

    def fit_base(self, features: Tensor, labels: Tensor) -> None:
        """Learn the map from base-class features (N, d) and labels (N,).

        Raises:
            InputError: where no class has two different samples.
        """
        check_base(features, labels, len(self.map), 1, "wccn")
        means, row = class_means(features, labels)
        residuals = features - means[row]
        w = (residuals.mT @ residuals).double() / len(features)
        mean = w.diagonal().mean()
        require(
            bool(mean > 1e-10 * features.square().mean()),
            "wccn learns how the samples of a class differ, but those of the base classes do not",
        )
        values, vectors = torch.linalg.eigh(w)
        root = (values.clamp_min(0) / mean + self.shrink).rsqrt()
        self.map.copy_((vectors * root) @ vectors.mT)

    def of_base(self, features: Tensor) -> Tensor:
        """Features (…, d) as the parts behind this one see them."""
        x = features @ self.map.to(features.dtype)
        return F.normalize(x, dim=-1) if self.unit else x

    def forward(self, episode: Episode) -> Episode:
        """The episode with rewritten features."""
        x = self.of_base(episode.x)
        return episode.replace(x=x, w=episode.w, relabeled=episode.relabeled)
