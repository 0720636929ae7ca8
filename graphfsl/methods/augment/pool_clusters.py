"""The pool's clusters as support nodes, from which generators behind it draw too.

The clusters are those of soft k-means: Ren et al. 2018, https://arxiv.org/abs/1803.00676
"""

from __future__ import annotations

import torch
from torch import Tensor

from graphfsl.core.episode import Episode
from graphfsl.core.learner import Augment
from graphfsl.functional.distances import squared_euclidean
from graphfsl.functional.prototypes import hide_absent, prototypes
from graphfsl.functional.soft_kmeans import soft_assign
from graphfsl.io.errors import require

__all__ = ["PoolClusters"]


class PoolClusters(Augment):
    """Add for each class the mean of the unlabeled nodes that probably belong to it.

        z_jc = softmax_c(-||h_j - p_c||^2 / t)  for each unlabeled j
        m_c = sum_j z_jc h_j / sum_j z_jc,  with label weight a sum_j z_jc for class c

    A class mean is then that of soft k-means, whatever part or head takes it next: a generator
    behind it draws from what support and pool say together. With a = t = 1 and a ProtoNet alone
    the answers are those of `soft_kmeans`.

    Args:
        temperature: t; below 1 where features have length 1.
        weight: a, how much an unlabeled node counts beside a labeled one.
        steps: how often assignments are made, each time by the class means with the clusters.

    Shapes:
        forward: features (B, n, d), weights (B, n, C) -> an episode with C more support nodes;
            itself without a pool.

    Source:
        equation 4 of Ren et al.; one step, as the paper found that more do not help.
    """

    family = "semi-supervised"
    uses_unlabeled = True  # unless it weighs nothing

    def __init__(self, temperature: float = 1.0, weight: float = 1.0, steps: int = 1) -> None:
        super().__init__()
        require(
            temperature > 0 and weight >= 0 and steps >= 1,
            "pool_clusters: temperature must be above 0, weight 0 or more and steps 1 or more",
        )
        self.temperature, self.weight, self.steps = temperature, weight, steps
        self.uses_unlabeled = weight > 0

    @property
    def note(self) -> str:
        """What a results row says of the nodes that it adds; empty where they weigh nothing."""
        if not self.weight:
            return ""
        return f"1 mean of the pool a class, {self.weight:g} times the weight of its nodes"

    def forward(self, episode: Episode) -> Episode:
        """The episode with the pool's clusters among its support nodes."""
        if not episode.n_unlabeled or not self.weight:
            return episode
        pool, mask = episode.x[:, episode.unlabeled], episode.mask[:, episode.unlabeled]
        labeled, w = episode.x[:, episode.labeled], episode.w[:, episode.labeled]
        means = prototypes(labeled, w)
        for _ in range(self.steps):
            logits = -squared_euclidean(pool, means) / self.temperature
            z = soft_assign(hide_absent(logits, w).detach(), mask)
            both = torch.cat([labeled, pool], 1), torch.cat([w, self.weight * z], 1)
            means = prototypes(*both)
        total = self.weight * z.sum(1)
        there: Tensor = total > 0
        return episode.add_support(prototypes(pool, z), torch.diag_embed(total), there)
