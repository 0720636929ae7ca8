"""R2-D2: a differentiable closed-form solver.

Bertinetto, Henriques, Torr, Vedaldi 2019, https://arxiv.org/abs/1805.08136
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphfsl.core.episode import Episode
from graphfsl.core.learner import Head
from graphfsl.functional.prototypes import hide_absent
from graphfsl.functional.ridge import ridge
from graphfsl.io.errors import require

__all__ = ["R2D2"]


class R2D2(Head):
    """Solve ridge regression of the labels on each support in closed form.

        W = Z^T (Z Z^T + lambda I)^-1 Y on the support, Z with a column of ones      (equation 6)
        Y^ = alpha X W      (equation 7)

    Args:
        lamda, alpha: where lambda and alpha start; their logarithms are learned, so that they stay
            positive.

    Shapes:
        score: features (B, n, d), label weights (B, n, C) -> (B, n, C).

    Source:
        equations 6 and 7; lambda 50 and alpha 10 as in the authors' training on CIFAR-FS.

    Deviations:
        no beta in Y^ = alpha X W + beta: it moves all classes alike and gets no gradient from
        cross-entropy. The authors' code also multiplies lambda by the number of support nodes, and
        keeps it fixed.
    """

    cannot_export = "solves linear equations, for which ONNX has no operator"
    family = "metric"

    def __init__(self, lamda: float = 50.0, alpha: float = 10.0) -> None:
        super().__init__()
        require(
            lamda > 0 and alpha > 0,
            f"r2d2.lamda and alpha must be above 0, not {lamda} and {alpha}",
        )
        self.log_lamda = nn.Parameter(torch.tensor(math.log(lamda)))
        self.log_alpha = nn.Parameter(torch.tensor(math.log(alpha)))

    def score(self, episode: Episode) -> Tensor:
        """Scaled logits (B, n, C) of the ridge regression that was fitted to the support."""
        z = F.pad(episode.x, (0, 1), value=1.0)
        labeled = episode.labeled
        weight = ridge(z[:, labeled], episode.w[:, labeled], self.log_lamda.exp())
        return hide_absent(self.log_alpha.exp() * (z @ weight.mT), episode.w)
