"""SimpleShot: the nearest class mean of centred features of length 1.

Wang, Chao, Weinberger, van der Maaten 2019, https://arxiv.org/abs/1911.04623
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from graphfsl.core.episode import Episode
from graphfsl.core.learner import Head
from graphfsl.functional.distances import length, squared_euclidean
from graphfsl.functional.prototypes import hide_absent, prototypes
from graphfsl.io.errors import unknown

__all__ = ["SimpleShot"]


class SimpleShot(Head):
    """Answer with the nearest class mean after centring and normalising the features.

        s_c(x) = -||x^ - mean_c||^2      (equation 2)
        x^ = x ("un"), x / ||x|| ("l2n"), or (x - m) / ||x - m|| ("cl2n")      (equations 3, 4)

    with m the mean feature of the base classes.

    Args:
        dim: d, the length of the features.
        transform: "un", "l2n" or "cl2n", which learns m in `fit_base`.

    Shapes:
        score: features (B, n, d), label weights (B, n, C) -> (B, n, C).

    Source:
        equations 2 to 4.

    Deviations:
        none are known.
    """

    family = "transfer"

    def __init__(self, dim: int, transform: str = "cl2n") -> None:
        super().__init__()
        if transform not in ("un", "l2n", "cl2n"):
            raise unknown("transform", transform, ("un", "l2n", "cl2n"))
        self.transform = transform
        self.wants_base = transform == "cl2n"
        self.mean: Tensor | None
        self.register_buffer("mean", torch.zeros(dim) if self.wants_base else None)

    def fit_base(self, features: Tensor, labels: Tensor) -> None:
        """Learn m, the mean of base-class features (N, d), where the transform needs it."""
        if self.mean is not None:
            self.mean.copy_(features.mean(0))

    def score(self, episode: Episode) -> Tensor:
        """Minus the squared distance of transformed features to class means: (B, n, C)."""
        x = episode.x if self.mean is None else episode.x - self.mean
        support, w = x[:, episode.labeled], episode.w[:, episode.labeled]
        if self.transform == "un":
            return hide_absent(-squared_euclidean(x, prototypes(support, w)), episode.w)
        means = prototypes(F.normalize(support, dim=-1), w)
        # -||x^ - mean||^2 for x^ of length 1, without writing down x^.
        return hide_absent(
            2 * x @ means.mT / length(x) - means.square().sum(-1).unsqueeze(1) - 1, episode.w
        )
