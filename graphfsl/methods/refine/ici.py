"""ICI: instance credibility inference.

Wang, Xu, Liu, Zhang, Fu 2020, https://arxiv.org/abs/2003.11853
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from graphfsl.core.episode import Episode
from graphfsl.core.learner import Head, Refine
from graphfsl.functional.group_lasso import leaving
from graphfsl.functional.layers import last_layer
from graphfsl.functional.prototypes import present
from graphfsl.functional.selection import quota, top_per_class
from graphfsl.io.errors import require

__all__ = ["ICI"]


class ICI(Refine):
    """Label first those pool nodes that a linear model of all labels finds most credible.

    Stage by stage the head's most probable classes are the labels y of the pool. On support and
    pool, with one-hot Y, X the features reduced to a few dimensions and H = X (X^T X)^-1 X^T,

        Y = X beta + gamma + epsilon
        min_gamma 1/2 ||(I - H)(Y - gamma)||^2 + lambda sum_i ||gamma_i||

    A node whose gamma_i is zero down to a smaller lambda is more credible; of each class the most
    credible ones join the support, with the labels of the head as it then is, and the head is
    called again.

    Args:
        components: of the principal component analysis that gives X; fewer in a pool so small that
            they would explain any labels.
        stages: how many; each adds 1/stages of every class, 6 are 5 of 30 nodes.
        share: of the pool that may be added in all, an equal part of it for each class.

    Shapes:
        forward: features (B, n, d), scores (B, n, C) -> scores (B, n, C). Queries are not in X:
            inductive.

    Source:
        section 3 and the authors' code: features of length 1, five nodes of a class at a time.

    Deviations:
        ten components, which do better than the paper's five where distractors are in the pool; 20
        values of lambda in place of 100, solved by FISTA; any head in place of logistic regression;
        all stages are run, where the paper reports the best number of them.
    """

    family = "semi-supervised"
    uses_unlabeled = True
    reads = "pool"
    relabels = True
    needs_balanced_pool = True

    def __init__(self, components: int = 10, stages: int = 6, share: float = 1.0) -> None:
        super().__init__()
        require(
            components >= 1 and stages >= 1 and 0 < share <= 1,
            "ici.components and stages must be 1 or more and share in (0, 1], "
            f"not {components}, {stages} and {share}",
        )
        self.components, self.stages, self.share = components, stages, share

    def forward(self, episode: Episode, scores: Tensor, head: Head) -> Tensor:
        """The head's scores (B, n, C) after the most credible pool nodes were labeled."""
        if episode.n_unlabeled == 0:
            return scores
        pool, way, u = episode.unlabeled, present(episode.w), self.basis(episode.parts(query=False))
        mask, support = episode.mask[:, pool], episode.w[:, episode.support]
        added = torch.zeros_like(mask)
        for t in range(1, self.stages + 1):
            label = F.one_hot(
                scores[:, pool].detach().argmax(-1), episode.way
            ).bool() & mask.unsqueeze(-1)
            with torch.no_grad():
                doubt = leaving(u, torch.cat([support, label.to(u.dtype)], 1))[
                    :, episode.n_support :
                ]
            old = label & added.unsqueeze(-1)
            most = quota(mask, way, self.share * t / self.stages) - old.sum(1, keepdim=True)
            new = top_per_class(-doubt, label & ~old, most)
            added = added | new.any(-1)
            scores = last_layer(head.score(episode.label_pool(old | new)))
        return scores

    @torch.no_grad()
    def basis(self, episode: Episode) -> Tensor:
        """An orthonormal basis of the columns of X, so that H = U U^T.

        Returns:
            U (B, n, r); zero columns beyond the rank of X, and beyond n - 2 of n real nodes.
        """
        real = episode.mask.unsqueeze(-1)
        v = F.normalize(episode.x, dim=-1).where(real, 0)
        v = (v - v.sum(1, keepdim=True) / real.sum(1, keepdim=True).clamp_min(1)).where(real, 0)
        # The eigenvectors of the Gram matrix are the principal components of the nodes, of length
        # 1. Of features that are no numbers, `eigh` raises; the head's scores will tell of these.
        values, vectors = torch.linalg.eigh((v @ v.mT).nan_to_num(0))
        values, vectors = values[:, -self.components :], vectors[..., -self.components :]
        in_rank = values > 1e-5 * values[:, -1:].clamp_min(1e-12)
        # n - 1 components and the mean explain any labels of n nodes: all gamma would be the same.
        place = torch.arange(values.shape[1], 0, -1, device=values.device)
        leaves_doubt = place <= episode.mask.sum(1, keepdim=True) - 2
        embedded: Tensor = vectors * (in_rank & leaves_doubt).unsqueeze(1)
        return embedded
