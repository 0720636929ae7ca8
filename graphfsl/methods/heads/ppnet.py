"""PPNet: several prototypes of each class, the centres of its support features.

Liu, Zhang, Zhang, He 2020, "Part-aware Prototype Network for Few-shot Semantic Segmentation",
https://arxiv.org/abs/2007.06309
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from graphfsl.core.episode import Episode
from graphfsl.core.learner import Head
from graphfsl.functional.distances import cosine
from graphfsl.functional.kmeans import kmeans
from graphfsl.functional.prototypes import hide_absent, prototypes
from graphfsl.io.errors import require

__all__ = ["PPNet"]


class PPNet(Head):
    """Answer with the class of the nearest part, in angle.

        p_ck = centre_ck + whole p_c,   score_c(x) = scale max_k cos(x, p_ck)

    The parts k are the clusters of the support nodes that have weight of class c, by k-means; a
    centre is the mean of its nodes by that weight, and p_c the mean of all of them. A class with
    fewer nodes than parts has a part for each node.

    Args:
        parts: k-means centres of a class, background included.
        whole: the weight of the class mean in each part.
        steps: of k-means.
        scale: of the cosine, which is not learned.

    Shapes:
        score: features (B, n, d), label weights (B, n, C) -> (B, n, C).

    Source:
        as above, section 4.1, and the authors' code: 5 centres, 10 steps, 0.5; PASCAL-5i 51.5 and
        62.0 mIoU with a branch for base classes and unlabeled images.

    Deviations:
        k-means starts from samples that are chosen greedily, in place of random ones. The branch
        for base classes and the graph attention over parts of unlabeled images are left out.
    """

    def __init__(
        self, parts: int = 5, whole: float = 0.5, steps: int = 10, scale: float = 20.0
    ) -> None:
        super().__init__()
        require(
            parts >= 1 and steps >= 1 and whole >= 0 and scale > 0,
            "ppnet.parts and steps must be 1 or more, whole 0 or more and scale above 0, not "
            f"{parts}, {steps}, {whole} and {scale}",
        )
        self.parts, self.whole, self.steps, self.scale = parts, whole, steps, scale

    def score(self, episode: Episode) -> Tensor:
        """Scores (B, n, C): how near each node is to the nearest part of each class, in angle."""
        x, w = episode.x[:, episode.labeled], episode.w[:, episode.labeled]
        member = self.members(x, w)
        of_each = x.unsqueeze(1).expand(-1, member.shape[1], -1, -1)
        centres = prototypes(of_each, member)  # (B, C, parts, d)
        p = centres + self.whole * prototypes(x, w).unsqueeze(2)
        empty = member.sum(-2) == 0
        near = cosine(episode.x, p.flatten(1, 2)).unflatten(-1, empty.shape[1:])
        best = near.masked_fill(empty.unsqueeze(1), float("-inf")).amax(-1)
        return hide_absent(self.scale * best, episode.w)

    @torch.no_grad()
    def members(self, x: Tensor, w: Tensor) -> Tensor:
        """The label weights (B, C, k, parts) of each class's nodes, in the part that each is of.

        Args:
            x: (B, k, d) labeled features.
            w: (B, k, C) their label weights.
        """
        of_class = w.mT > 0
        z = x.unsqueeze(1).expand(*of_class.shape, x.shape[-1])
        clusters = of_class.sum(-1).clamp_max(self.parts)
        part = kmeans(z, of_class, clusters, self.parts, self.steps)
        return F.one_hot(part, self.parts).to(w) * w.mT.unsqueeze(-1)
