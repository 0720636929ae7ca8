"""Greedy coverage of the propagation matrix: how far labels would go says which to ask for.

The kernel is that of Zhou, Bousquet, Lal, Weston, Schoelkopf 2004,
https://papers.nips.cc/paper/2506, chosen from as Bae, Ng, Sutherland 2024 do
(https://arxiv.org/abs/2407.12212); that the two belong together is ours.
"""

from __future__ import annotations

import torch
from torch import Tensor

from graphfsl.core.episode import Episode
from graphfsl.core.learner import Acquire
from graphfsl.functional.coverage import by_diagonal, covered_by, greedy_coverage
from graphfsl.functional.knn import cosine_neighbors
from graphfsl.functional.propagation import propagate, symmetric
from graphfsl.io.errors import require

__all__ = ["Coverage"]


class Coverage(Acquire):
    """Ask for the samples from which labels would reach all others best.

        W_ij = max(0, cos(x_i, x_j))^3 where one is among the other's k nearest, else 0
        G = (I - alpha S)^-1,  S = D^-1/2 W D^-1/2
        k_ij = G_ij / sqrt(G_ii G_jj)
        gain_i = sum_j max(0, k_ij - max_{l labeled} k_lj)

    G_ij is the label weight that a label at i sends to j. The largest gain is asked for, counts as
    labeled, and so on. What the answers are does not matter, so that all may be asked for at once,
    and no label is needed to begin.

    Args:
        k: neighbours of a sample in the graph.
        alpha: how far labels go, in [0, 1).

    Shapes:
        forward: features (B, n, d), label weights (B, n, C), candidates (B, n) -> nodes (B, count).

    Source:
        the propagation matrix of the paper's closed form as the kernel of generalised coverage
        (MaxHerding, Bae et al. 2024, equation 5: sum_j max_i k_ij, maximised greedily).

    Deviations:
        MaxHerding's kernel is a Gaussian of features. Dividing by the diagonal lets every sample
        cover itself wholly, whether it stands alone or in a crowd.
    """

    def __init__(self, k: int = 10, alpha: float = 0.9) -> None:
        super().__init__()
        require(
            k >= 1 and 0 <= alpha < 1,
            f"coverage takes k of 1 or more and alpha in [0, 1), not {k} and {alpha}",
        )
        self.k, self.alpha = k, alpha

    def kernel(self, x: Tensor, mask: Tensor) -> Tensor:
        """k_ij (B, n, n) of nodes x (B, n, d), zero for padding, mask (B, n)."""
        s = symmetric(cosine_neighbors(x, mask, self.k))
        eye = torch.eye(x.shape[1], dtype=x.dtype, device=x.device).expand_as(s)
        g = propagate(s, eye, self.alpha).clamp_min(0)
        return by_diagonal(g) * mask.unsqueeze(-2)

    def forward(
        self, episode: Episode, candidates: Tensor, scores: Tensor | None, count: int
    ) -> Tensor:
        """The nodes (B, count) that add most to what labels reach."""
        k = self.kernel(episode.x.flatten(2), self.pool_of(episode, candidates))
        labeled = episode.w.sum(-1) > 0
        return greedy_coverage(k, candidates, count, covered_by(k, labeled))[0]
