"""LST: learning to self-train.

Li, Sun, Liu, Zhou, Zheng, Chua, Schiele 2019, https://arxiv.org/abs/1906.00562
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphfsl.core.episode import Episode
from graphfsl.core.learner import Head, Refine
from graphfsl.functional.layers import last_layer
from graphfsl.functional.prototypes import present, prototypes
from graphfsl.functional.selection import log_odds, quota, top_per_class
from graphfsl.io.errors import require

__all__ = ["LST"]


class LST(Refine):
    """Label the pool, weigh what was labeled by a learned network, and train again.

    Stage by stage the head's most probable class labels the pool; of each class the most confident
    nodes are kept (hard selection); each weighs

        w_jc = softmax_c f(|x_j - p_c|)

    with p_c the class mean of the support and f the soft weighting network, which is learned with
    the rest. The head is called again on support and pool (re-training). After the last stage it is
    called with the support weighing `anchor` times as much (fine-tuning).

    Args:
        dim: d, the length of the features.
        hidden: the width of f, a perceptron of two layers on features of length d^1/2.
        stages: as above.
        share: of the pool that is kept, an equal part for each class; 1 keeps all.
        anchor: as above.

    Shapes:
        forward: features (B, n, d), scores (B, n, C) -> scores (B, n, C).

    Source:
        section 4 and the authors' code: the 20 most confident of 30 candidates a class, three
        stages or more.

    Deviations:
        any head that is called again in place of a classifier that takes gradient steps, so that
        the weights multiply labels and not predictions, and the last steps on the support become
        its larger weight; f sees the difference and not the pair; one set of candidates for all
        stages.
    """

    family = "semi-supervised"
    uses_unlabeled = True
    reads = "pool"
    relabels = True
    needs_balanced_pool = True

    def __init__(
        self, dim: int, hidden: int = 64, stages: int = 3, share: float = 0.7, anchor: float = 2.0
    ) -> None:
        super().__init__()
        require(
            min(dim, hidden, stages) >= 1 and 0 < share <= 1 and anchor > 0,
            "lst.dim, hidden and stages must be 1 or more, share in (0, 1] and anchor above 0, not "
            f"{dim}, {hidden}, {stages}, {share} and {anchor}",
        )
        self.stages, self.share, self.anchor = stages, share, anchor
        self.weigh = nn.Sequential(
            nn.Linear(dim, hidden), nn.LeakyReLU(), nn.Linear(hidden, 1, bias=False)
        )

    def forward(self, episode: Episode, scores: Tensor, head: Head) -> Tensor:
        """The head's scores (B, n, C) after several stages of self-training on the pool."""
        if episode.n_unlabeled == 0:
            return scores
        pool, way = episode.unlabeled, present(episode.w)
        mask = episode.mask[:, pool]
        most = quota(mask, way, self.share)
        weight = self.weights(episode, way)
        for t in range(self.stages + 1):
            logits = scores[:, pool].detach()
            label = F.one_hot(logits.argmax(-1), episode.way).bool() & mask.unsqueeze(-1)
            labeled = episode.label_pool(weight * top_per_class(log_odds(logits), label, most))
            if t == self.stages:
                anchored = [self.anchor * labeled.w[:, : pool.start], labeled.w[:, pool]]
                labeled = labeled.replace(w=torch.cat(anchored, 1))
            scores = last_layer(head.score(labeled))
        return scores

    def weights(self, episode: Episode, way: Tensor) -> Tensor:
        """The learned weights w_jc of the pool (B, U, C), for the classes present (B, C)."""
        z = episode.x.shape[-1] ** 0.5 * F.normalize(episode.x, dim=-1)
        p = prototypes(z[:, episode.support], episode.w[:, episode.support])
        apart = (z[:, episode.unlabeled].unsqueeze(2) - p.unsqueeze(1)).abs()
        f = self.weigh(apart).squeeze(-1)
        probabilities: Tensor = f.masked_fill(~way.unsqueeze(1), float("-inf")).softmax(-1)
        return probabilities
