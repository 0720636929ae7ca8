"""PANet: masked average pooling, and alignment of prototypes with those of the query.

Wang, Liew, Zou, Zhou, Feng 2019, https://arxiv.org/abs/1908.06391
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from graphfsl.core.episode import Episode
from graphfsl.core.learner import Head
from graphfsl.functional.distances import cosine
from graphfsl.functional.layers import last_layer
from graphfsl.functional.prototypes import hide_absent, prototypes
from graphfsl.io.errors import require

__all__ = ["PANet"]


class PANet(Head):
    """Answer with the class whose masked mean of support features is nearest in angle.

        p_c = 1/K sum_k sum_x F(x) 1[M(x) = c] / sum_x 1[M(x) = c]     (equations 1, 2)
        M~_c(x) = softmax_c(alpha cos(F_q(x), p_c))                     (equation 3)
        L = L_seg + weight L_PAR

    L_PAR segments the support by prototypes that the query's own predicted mask gives (equations 5
    to 7). The mask is hard, so that its gradient flows through features alone; support nodes of a
    class that is predicted nowhere do not count.

    Args:
        scale: alpha, which is not learned.
        weight: of the alignment loss, in training alone; 0 leaves it out.

    Shapes:
        score: features (B, n, d), label weights (B, n, C) -> (B, n, C).

    Source:
        as above, section 3; PASCAL-5i 48.1 and 55.7 mIoU.

    Deviations:
        all classes of a task are aligned at once, where the authors' code takes each against the
        background. Images count alike by their weights (`graphfsl.core.cells`), nodes that are
        whole images by their own.
    """

    def __init__(self, scale: float = 20.0, weight: float = 1.0) -> None:
        super().__init__()
        require(scale > 0, f"panet.scale must be above 0, not {scale}")
        require(weight >= 0, f"panet.weight must be 0 or more, not {weight}")
        self.scale, self.weight = scale, weight

    def score(self, episode: Episode) -> Tensor:
        """Scores (B, n, C): how near each node is to each class mean, in angle."""
        p = prototypes(episode.x[:, episode.labeled], episode.w[:, episode.labeled])
        return hide_absent(self.scale * cosine(episode.x, p), episode.w)

    def criterion(self, scores: Tensor, target: object, episode: Episode) -> Tensor:
        """The task's own loss and that of alignment: a scalar."""
        own = super().criterion(scores, target, episode)
        if not self.weight:
            return own
        return own + self.weight * self.alignment(last_layer(scores), episode)

    def alignment(self, scores: Tensor, episode: Episode) -> Tensor:
        """L_PAR: cross-entropy of the support by the prototypes of the query's predicted mask.

        Args:
            scores: (B, n, C).
            episode: of features.
        """
        query, support = episode.query, episode.support
        answer = F.one_hot(scores[:, query].argmax(-1), episode.way).to(episode.x)
        predicted = answer * episode.mask[:, query].unsqueeze(-1)
        p = prototypes(episode.x[:, query], predicted)
        logits = hide_absent(self.scale * cosine(episode.x[:, support], p), predicted)

        there = predicted.sum(1, keepdim=True) > 0
        w = episode.w[:, support] * there
        logs = logits.log_softmax(-1).masked_fill(~there, 0)
        total: Tensor = -(w * logs).sum() / w.sum().clamp_min(torch.finfo(w.dtype).tiny)
        return total
