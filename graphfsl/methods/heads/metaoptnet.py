"""MetaOptNet: meta-learning with differentiable convex optimization.

Lee, Maji, Ravichandran, Soatto 2019, https://arxiv.org/abs/1904.03758
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graphfsl.core.episode import Episode
from graphfsl.core.learner import Head
from graphfsl.functional.prototypes import hide_absent
from graphfsl.functional.svm import crammer_singer
from graphfsl.io.errors import require

__all__ = ["MetaOptNet"]


class MetaOptNet(Head):
    """Fit a linear support vector machine on each support, differentiably.

        min_{w_k}, xi  1/2 sum_k ||w_k||^2 + C sum_n xi_n  subject to
        w_{y_n} . f(x_n) - w_k . f(x_n) >= 1 - delta_{y_n, k} - xi_n      (equation 10)
        scores: gamma w_k . f(x)      (equation 12)

    Args:
        C: the price of a violated margin.
        scale: where gamma starts; its logarithm is learned.

    Shapes:
        score: features (B, n, d), label weights (B, n, C) -> (B, n, C).

    Source:
        equations 10 to 12; C 0.1 and gamma 1 as in the authors' code, which solves the dual by
        OptNet.

    Deviations:
        the problem is that of equation 10, solved until its duality gap is 1e-16 of it, in training
        as in evaluation; the authors' code adds the identity to the Gram matrix, for the sake of
        its solver, which gives every node a dimension of its own. A node of weight w counts as w
        nodes; where its label is soft, the margin to class k is 1 - y_k.
    """

    cannot_export = "solves its quadratic program until it converges, and no graph ends so"
    family = "metric"
    block_nodes = 20480

    def __init__(self, C: float = 0.1, scale: float = 1.0) -> None:
        super().__init__()
        require(C > 0 and scale > 0, f"metaoptnet.C and scale must be above 0, not {C} and {scale}")
        self.C = C
        self.log_scale = nn.Parameter(torch.tensor(float(scale)).log())

    def score(self, episode: Episode) -> Tensor:
        """Scaled logits (B, n, C) of the support vector machine that was fitted to the support."""
        labeled = episode.labeled
        weight = crammer_singer(episode.x[:, labeled], episode.w[:, labeled], self.C)
        return hide_absent(self.log_scale.exp() * (episode.x @ weight.mT), episode.w)
