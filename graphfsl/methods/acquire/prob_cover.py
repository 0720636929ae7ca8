"""ProbCover: balls around few samples that cover most of all.

Yehuda, Dekel, Hacohen, Weinshall 2022, https://arxiv.org/abs/2205.11320
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from graphfsl.core.episode import Episode
from graphfsl.core.learner import Acquire
from graphfsl.functional.coverage import covered_by, greedy_coverage
from graphfsl.functional.distances import squared_euclidean
from graphfsl.functional.kmeans import kmeans
from graphfsl.functional.statistics import or_one
from graphfsl.io.errors import require

__all__ = ["ProbCover"]

ROUNDING = 1e-4  # by which a radius stays below the distance that it must not reach


class ProbCover(Acquire):
    """Ask for the sample whose ball holds most samples that no ball holds yet, again and again.

        E = {(i, j): ||z_i - z_j|| <= delta},  z = x / ||x||
        i = argmax_i |{j: (i, j) in E, j not covered}|

    delta is the largest radius at which a share `purity` of the balls holds one class only, k-means
    clusters standing for classes, as many as the label weights have columns: a ball is pure up to
    the distance of the nearest sample of another cluster, so that delta is a quantile of these.

    Args:
        delta: the radius; null finds it by purity.
        purity: the share of balls that hold one cluster.

    Shapes:
        forward: features (B, n, d), label weights (B, n, C), candidates (B, n) -> nodes (B, count).

    Source:
        algorithm 1, and section 3.3 for delta (purity 0.95).

    Deviations:
        of balls with as many samples the one whose centre is nearest to what is not covered wins,
        also where all is covered; the authors' code takes the first in the data set, then again and
        again. Their delta is found once for a data set, on a grid; ours is each pool's own.
    """

    def __init__(self, delta: float | None = None, purity: float = 0.95) -> None:
        super().__init__()
        require(
            (delta is None or delta > 0) and 0 < purity < 1,
            f"prob_cover takes a delta above 0, or null, and a purity between 0 and 1, not {delta} "
            f"and {purity}",
        )
        self.delta, self.purity = delta, purity

    def radius(self, z: Tensor, d: Tensor, mask: Tensor, episode: Episode) -> Tensor:
        """delta (B, 1, 1) by purity, from distances d (B, n, n) of unit features z."""
        classes = (episode.w.sum(1) > 0).sum(-1)
        if not episode.n_support:  # which classes there are is not known, but how many
            classes = torch.full_like(classes, episode.way)
        cluster = kmeans(z, mask, classes, episode.way)
        other = (cluster.unsqueeze(-1) != cluster.unsqueeze(-2)) & mask.unsqueeze(-2)
        pure = d.masked_fill(~other, torch.inf).amin(-1).masked_fill(~mask, torch.inf)
        place = ((1 - self.purity) * mask.sum(-1)).long()
        delta = pure.sort(-1).values.gather(-1, place[:, None]).unsqueeze(-1)
        return delta * (1 - ROUNDING)

    def forward(
        self, episode: Episode, candidates: Tensor, scores: Tensor | None, count: int
    ) -> Tensor:
        """The nodes (B, count) whose balls cover most."""
        z, mask = F.normalize(episode.x.flatten(2), dim=-1), self.pool_of(episode, candidates)
        square = squared_euclidean(z, z)
        d = square.sqrt()
        delta = self.radius(z, d, mask, episode) if self.delta is None else self.delta
        # of a tie; all of them together count less than a sample
        near = (4 - square).clamp_min(0) / 8
        tie = near / or_one(mask.sum(-1).to(z.dtype))[:, None, None]
        k = ((d <= delta).to(z.dtype) + tie) * mask.unsqueeze(-2)
        labeled = episode.w.sum(-1) > 0
        return greedy_coverage(k, candidates, count, covered_by(k, labeled))[0]
