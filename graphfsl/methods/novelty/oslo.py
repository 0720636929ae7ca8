"""OSLO, open-set likelihood optimisation: who belongs, found together with the class means.

Boudiaf et al. 2023, https://arxiv.org/abs/2301.08390
"""

from __future__ import annotations

import torch
from torch import Tensor

from graphfsl.core.episode import Episode
from graphfsl.core.learner import Novelty
from graphfsl.functional.centring import centred
from graphfsl.functional.distances import cosine
from graphfsl.functional.prototypes import hide_absent, prototypes
from graphfsl.io.errors import require

__all__ = ["OSLO"]


class OSLO(Novelty):
    """Alternate between who belongs, to what class, and the class means.

        xi_i = sigmoid( sum_c z_ic cos(x_i, mu_c) / lambda_xi )
        z_ic = softmax_c( xi_i cos(x_i, mu_c) / lambda_z )
        mu_c = mean of the support of class c and of all queries, weighted by xi_i z_ic
        u(x_i) = -sum_c z_ic cos(x_i, mu_c) / lambda_xi, the logit of 1 - xi_i

    from z_ic = 1 / C, for x around the mean of support and queries, of length 1. Without centring,
    features that are not negative have xi = 1 throughout. The logit ranks where xi saturates.

    Args:
        steps: of the alternation.
        lambda_xi, lambda_z: how soft membership and assignment are.

    Shapes:
        forward: features (B, n, d), label weights (B, n, C) -> (B, n).

    Source:
        section 4, equations 7 to 9; 2 steps, 0.05 and 0.1 are the authors'.

    Deviations:
        ranks by the logit; an unlabeled pool is answered and moves nothing.
    """

    transductive = True

    def __init__(self, steps: int = 2, lambda_xi: float = 0.05, lambda_z: float = 0.1) -> None:
        super().__init__()
        require(
            steps >= 1 and lambda_xi > 0 and lambda_z > 0,
            "oslo: steps must be 1 or more, lambda_xi and lambda_z above 0",
        )
        self.steps, self.lambda_xi, self.lambda_z = steps, lambda_xi, lambda_z

    def forward(self, episode: Episode, scores: Tensor) -> Tensor:
        """The novelty (B, n)."""
        seen = episode.mask.clone()
        seen[:, episode.unlabeled] = False
        x, y = centred(episode.x, seen), episode.w
        asked = torch.zeros_like(episode.mask)
        asked[:, episode.query] = episode.mask[:, episode.query]
        asked = asked & (y.sum(-1) == 0)

        near = cosine(x, prototypes(x, y))
        z = hide_absent(torch.zeros_like(near), y).softmax(-1)
        for _ in range(self.steps):
            logit = (z * near).sum(-1) / self.lambda_xi
            xi = logit.sigmoid()
            z = hide_absent(xi.unsqueeze(-1) * near / self.lambda_z, y).softmax(-1)
            weight = (xi * asked).unsqueeze(-1) * z
            near = cosine(x, prototypes(x, y + weight))
        return -logit
