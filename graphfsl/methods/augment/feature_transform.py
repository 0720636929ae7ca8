"""Feature transforms of the few-shot literature, for all nodes alike.

Power transform: Yang, Liu, Xu 2021, https://arxiv.org/abs/2101.06395 (Tukey 1977); centring and
length 1: Wang, Chao, Weinberger, van der Maaten 2019, https://arxiv.org/abs/1911.04623
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from graphfsl.core.base_classes import check_base
from graphfsl.core.episode import Episode
from graphfsl.core.learner import Augment
from graphfsl.io.errors import require

__all__ = ["FeatureTransform"]


class FeatureTransform(Augment):
    """Rewrite the features of all nodes, and base features for the parts behind it.

    Each step is optional; they are taken in this order:

        x <- sign(x) |x|^power      (Yang 2021, for x >= 0)
        x <- x - m          m the mean of base features after the first step (Wang 2019, 4),
                            or of the episode's own nodes
        x <- x / ||x||      (Wang 2019, equation 3)

    Args:
        dim: d, the length of the features.
        power: 0.5 as in Yang 2021; 1 leaves features as they are.
        centre: take away m, which `fit_base` learns; "episode" takes away the mean of the
            episode's nodes, support, queries and pool, which is transductive and helps where images
            are of another domain than the base classes. Parts behind it learn from base features
            around the mean of these.
        unit: scale features to length 1.

    Shapes:
        forward: features (B, n, d) -> (B, n, d).

    Source:
        the power of Yang et al. 2021; equations 3 and 4 of Wang et al. 2019.

    Deviations:
        the sign is kept, so that features below 0 are no NaN; the logarithm (power 0) is left out.
        The mean of an episode is not of these papers.
    """

    family = "transfer"

    def __init__(
        self, dim: int, power: float = 1.0, centre: bool | str = True, unit: bool = True
    ) -> None:
        super().__init__()
        require(0 < power <= 1, f"feature_transform.power must be in (0, 1], not {power}")
        require(
            isinstance(centre, bool) or centre == "episode",
            f"feature_transform.centre must be true, false or episode, not {centre!r}",
        )
        self.power, self.unit = power, unit
        self.wants_base = centre is True
        self.transductive = self.uses_unlabeled = centre == "episode"
        self.mean: Tensor | None
        self.register_buffer("mean", torch.zeros(dim) if centre is True else None)

    def powered(self, x: Tensor) -> Tensor:
        """Features (…, d) after the first step."""
        return x if self.power == 1 else x.sign() * x.abs() ** self.power

    def of_base(self, features: Tensor) -> Tensor:
        """Features (…, d) as the parts behind this one see them."""
        x = self.powered(features)
        if self.transductive:
            x = x - x.mean(0)  # as if all of them were one episode
        elif self.mean is not None:
            x = x - self.mean.to(x.dtype)
        return F.normalize(x, dim=-1) if self.unit else x

    def fit_base(self, features: Tensor, labels: Tensor) -> None:
        """Learn m from base-class features (N, d)."""
        if self.mean is not None:
            check_base(features, labels, len(self.mean), 1, "feature_transform")
            self.mean.copy_(self.powered(features).mean(0))

    def forward(self, episode: Episode) -> Episode:
        """The episode with rewritten features."""
        x = episode.x
        if self.transductive:
            x = self.powered(x)
            x = x - _mean_of_nodes(x, episode.mask)
            x = F.normalize(x, dim=-1) if self.unit else x
        else:
            x = self.of_base(x)
        return episode.replace(x=x, w=episode.w, relabeled=episode.relabeled)


def _mean_of_nodes(x: Tensor, mask: Tensor) -> Tensor:
    """The mean (B, 1, d) of the real nodes among x (B, n, d), mask (B, n)."""
    real = mask.unsqueeze(-1).to(x.dtype)
    return (x * real).sum(1, keepdim=True) / real.sum(1, keepdim=True).clamp_min(1)
