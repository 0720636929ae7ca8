"""TEEN: class means of new classes, calibrated towards those of base classes.

Wang, Zhou, Zhang, Zhan, Ye 2023, https://arxiv.org/abs/2312.05229
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from graphfsl.core.episode import Episode
from graphfsl.core.learner import Head
from graphfsl.functional.distances import cosine
from graphfsl.functional.prototypes import hide_absent, prototypes
from graphfsl.functional.sessions import is_base
from graphfsl.io.errors import require

__all__ = ["TEEN"]


class TEEN(Head):
    """Pull the mean of a new class towards the base classes that are like it; train nothing.

        c_n <- (1 - alpha) c_n + alpha sum_b w_nb c_b,  w_nb = softmax_b(tau cos(c_n, c_b))

    over the classes b of the base session, all means and the sum of length 1. The means of base
    classes stay as they are. A query is answered by its cosine with the means.

    Args:
        alpha: the share of the base classes; 0 is the nearest class mean by cosine.
        tau: how sharply a new class chooses among base classes; it must grow with their number.
        scale: of the cosine.

    Shapes:
        score: features (B, n, d), label weights (B, n, C) -> (B, n, C). An episode without
            sessions has no base classes, and its means stay as they are.

    Source:
        equations 6 to 8 and the authors' code: alpha 0.1 on CIFAR-100 (0.5 on CUB), tau 16.

    Deviations:
        none are known.
    """

    reads_means = True

    def __init__(self, alpha: float = 0.1, tau: float = 16.0, scale: float = 16.0) -> None:
        super().__init__()
        require(
            0 <= alpha <= 1 and tau > 0 and scale > 0,
            f"teen: alpha must lie in [0, 1], tau and scale above 0, not {alpha}, {tau} and "
            f"{scale}",
        )
        self.alpha, self.tau, self.scale = alpha, tau, scale

    def calibrated(self, c: Tensor, base: Tensor) -> Tensor:
        """Class means (B, C, d), of which those of base classes, a mask (B, C), stay the same."""
        unit = F.normalize(c, dim=-1)
        w = self.tau * cosine(c, c)
        w = w.masked_fill(~base.unsqueeze(1), torch.finfo(w.dtype).min).softmax(-1)
        towards = F.normalize(w @ unit, dim=-1)
        moved = (1 - self.alpha) * unit + self.alpha * towards
        stays = base | ~base.any(-1, keepdim=True)  # without base classes all stay
        return torch.where(stays.unsqueeze(-1), c, moved)

    def score(self, episode: Episode) -> Tensor:
        """Scaled cosines (B, n, C) with the calibrated class means."""
        c = prototypes(episode.x[:, episode.labeled], episode.w[:, episode.labeled])
        c = self.calibrated(c, is_base(episode.session, c))
        return hide_absent(self.scale * cosine(episode.x, c), episode.w)
