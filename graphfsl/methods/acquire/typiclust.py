"""TypiClust: the most typical sample of each cluster, for budgets of a few labels.

Hacohen, Dekel, Weinshall 2022, https://arxiv.org/abs/2202.02794
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from graphfsl.core.episode import Episode
from graphfsl.core.learner import Acquire
from graphfsl.functional.distances import squared_euclidean
from graphfsl.functional.kmeans import kmeans

__all__ = ["TypiClust"]

NEIGHBORS = 20  # that typicality is the mean distance to, at the most
SMALL = 5  # clusters of so many samples or fewer are passed over
MOST = 500  # clusters


class TypiClust(Acquire):
    """Ask for the most typical sample of each of the largest clusters without a label.

        typicality_i = 1 / (mean over the nearest ||z_i - z_j||),  z = x / ||x||

    k-means makes as many clusters as there are labels and samples to be asked for together, so that
    enough of them are without a label. They are taken in the order of the labels within them, the
    larger one first. The nearest are 20 of a cluster's samples without a label, or half of them.

    Shapes:
        forward: features (B, n, d), label weights (B, n, C), candidates (B, n) -> nodes (B, count).

    Source:
        section 3.2 and algorithm 1, with the authors' code for clusters of 5 samples or fewer
        (passed over), the order and the number of neighbours.

    Deviations:
        k-means starts from greedily chosen samples, not at random. Typicality is not computed anew
        where a cluster is taken a second time. In a pool of few samples, whose clusters have fewer
        than 10 on average, those of up to half that average are passed over.
    """

    def forward(
        self, episode: Episode, candidates: Tensor, scores: Tensor | None, count: int
    ) -> Tensor:
        """The nodes (B, count) of highest typicality, one of each cluster."""
        z, mask = F.normalize(episode.x.flatten(2), dim=-1), self.pool_of(episode, candidates)
        labeled = (episode.w.sum(-1) > 0) & mask
        n = z.shape[1]
        by_others = episode.relabeled and not episode.asked
        may_be_labeled = n if by_others else episode.n_support + episode.asked
        most = min(may_be_labeled + count, MOST, n)
        clusters = (labeled.sum(-1) + count).clamp_max(most)
        cluster = kmeans(z, mask, clusters, most)

        typicality = self.typicality(z, cluster, candidates).masked_fill(~candidates, -torch.inf)
        order, taken = self.order(cluster, mask, labeled, most)
        chosen = []
        for turn in range(count):
            own = order.gather(1, (turn % taken).unsqueeze(1)) == cluster
            # a cluster of which all are labeled gives its turn to all others
            own = own & typicality.isfinite()
            own = own | ~own.any(-1, keepdim=True)
            best = typicality.masked_fill(~own, -torch.inf).argmax(-1, keepdim=True)
            typicality = typicality.scatter(1, best, -torch.inf)
            chosen.append(best)
        return torch.cat(chosen, 1)

    def typicality(self, z: Tensor, cluster: Tensor, candidates: Tensor) -> Tensor:
        """1 / mean distance (B, n) to the nearest candidates of the own cluster."""
        together = (cluster.unsqueeze(-1) == cluster.unsqueeze(-2)) & candidates.unsqueeze(-2)
        itself = torch.eye(z.shape[1], dtype=torch.bool, device=z.device)
        d = squared_euclidean(z, z).sqrt().masked_fill(~together | itself, torch.inf)
        nearest = d.topk(min(NEIGHBORS, z.shape[1]), -1, largest=False).values
        size = together.sum(-1)
        count = (size // 2).clamp(1, nearest.shape[-1])
        rank = torch.arange(nearest.shape[-1], device=z.device)
        mean = nearest.masked_fill(rank >= count.unsqueeze(-1), 0).sum(-1) / count
        return 1 / mean.clamp_min(1e-12)  # zero, not infinite, for one that is alone

    def order(
        self, cluster: Tensor, mask: Tensor, labeled: Tensor, most: int
    ) -> tuple[Tensor, Tensor]:
        """Clusters (B, most) in the order in which they are taken, and how many (B,) are."""
        member = F.one_hot(cluster, most)
        size = (member * mask.unsqueeze(-1)).sum(1)
        inside = (member * labeled.unsqueeze(-1)).sum(1)
        mean = mask.sum(-1, keepdim=True) / (size > 0).sum(-1, keepdim=True).clamp_min(1)
        fit = size > (mean / 2).clamp_max(SMALL)
        n = cluster.shape[1] + 1
        key = (inside * n - size).masked_fill(~fit, n * n)
        return key.argsort(dim=-1, stable=True), fit.sum(-1)
