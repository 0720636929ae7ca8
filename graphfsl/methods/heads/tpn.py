"""Transductive Propagation Networks (TPN).

Liu, Lee, Park, Kim, Yang, Hwang, Yang 2019, https://arxiv.org/abs/1805.10002
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from graphfsl.core.batchnorm import BatchNorm
from graphfsl.core.episode import Episode, Target
from graphfsl.functional.affinity import rbf
from graphfsl.functional.distances import squared_euclidean
from graphfsl.methods.heads.label_propagation import LabelPropagation

__all__ = ["TPN"]


class TPN(LabelPropagation):
    """Propagate labels over a graph whose scale each node learns, trained through the solution.

        W_ij = exp(-d(z_i / sigma_i, z_j / sigma_j) / 2),  sigma_i = g_phi(z_i)
        L = -mean_i log softmax(F_i)_{y_i} over support and queries

    with d the mean of the squared differences; k nearest neighbours, S and F = (I - alpha S)^-1 Y
    as in `label_propagation`. Encoder and g_phi learn through the inverse.

    Args:
        dim: d, the length of the features.
        k: neighbours of a node, itself among them; null for all nodes.
        alpha: how far labels go, in [0, 1).

    Shapes:
        score: features (B, n, d), label weights (B, n, C) -> (B, n, C). F is of the order of 1 / (1
            - alpha), which makes its softmax sharp. Queries are answered together, and how many
            they are matters; `per_query: true` in the pipeline with a pool of unlabeled nodes is
            the paper's semi-supervised variant.

    Source:
        section 3.2 and the authors' code (mean over d, self-loops, Y = 0 for queries, alpha = 0.99,
        k = 20).

    Deviations:
        g_phi is an MLP d -> 32 (BatchNorm, ReLU) -> 8 (ReLU) -> 1 on vectors; the authors' two
        convolutions fit maps of 64 x 5 x 5 alone. Its softplus is sigma, so that it stays above
        zero and starts small; theirs starts around zero and may have any sign.
    """

    def __init__(self, dim: int, k: int | None = 20, alpha: float = 0.99) -> None:
        super().__init__(k=k, alpha=alpha)
        self.first, self.norm = nn.Linear(dim, 32, bias=False), BatchNorm(32)
        self.rest = nn.Sequential(nn.ReLU(), nn.Linear(32, 8), nn.ReLU(), last := nn.Linear(8, 1))
        # sigma starts near 0.1. Where it is large all nodes look alike, and nothing can be learned
        # from that.
        nn.init.constant_(last.bias, -2.25)

    def sigma(self, episode: Episode) -> Tensor:
        """The positive width that the network gives each node: (B, n, 1)."""
        mask = episode.mask.flatten() if episode.padded else None
        h = self.norm(self.first(episode.x.flatten(0, 1)), mask)
        # The floor keeps z / sigma finite.
        scale: Tensor = F.softplus(self.rest(h)).unflatten(0, episode.x.shape[:2]) + 1e-3
        return scale

    def affinity(self, episode: Episode) -> Tensor:
        """W (B, n, n): how near nodes are, each by the width that the network gives it."""
        z = episode.x / self.sigma(episode)
        return rbf(squared_euclidean(z, z) / z.shape[-1], 1.0)

    def criterion(self, scores: Tensor, target: Target, episode: Episode) -> Tensor:
        """The mean cross-entropy of support and queries: a scalar."""
        known = target.known(episode)
        # An absent class scores -inf and has no weight: 0 * -inf must not make the loss NaN.
        log_p = scores[:, : known.shape[1]].log_softmax(-1).where(known > 0, 0)
        return -(known * log_p).sum() / known.sum()
