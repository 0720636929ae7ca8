"""Transductive fine-tuning of a linear classifier.

Dhillon, Chaudhari, Ravichandran, Soatto 2020, https://arxiv.org/abs/1909.02729
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from graphfsl.core.episode import Episode
from graphfsl.core.learner import Head, Refine
from graphfsl.functional.adam import adam
from graphfsl.functional.prototypes import hide_absent
from graphfsl.io.errors import require

__all__ = ["TransductiveFineTuning"]


class TransductiveFineTuning(Refine):
    """Train a linear classifier on the support and on the entropy of the queries.

    p_i = softmax(W z_i + b) of features z_i of length one. From w_c, the direction of the mean of
    the support of c, and b = 0 on, Adam descends

        mean_S -log p_i,y_i + mean_Q H(p_i)

    Args:
        steps, lr: of Adam.

    Shapes:
        forward: features (B, n, d), label weights (B, n, C) -> scores (B, n, C), whatever the
            head's are.

    Source:
        sections 3.1 and 3.2; 25 steps of lr 5e-5.

    Deviations:
        the encoder stays as it is, so that cached features do; the paper tunes the whole network,
        and these few small steps of the classifier alone hardly change an answer. The gradient is
        written out, and how W and b moved is a constant for the gradient of a training.
    """

    family = "transductive"
    transductive = True
    reads_scores = False
    block_nodes = 2560

    def __init__(self, steps: int = 25, lr: float = 5e-5) -> None:
        super().__init__()
        require(
            steps >= 0 and lr > 0,
            f"transductive_fine_tuning.steps must be 0 or more and lr above 0, "
            f"not {steps} and {lr}",
        )
        self.steps, self.lr = steps, lr

    def forward(self, episode: Episode, scores: Tensor, head: Head) -> Tensor:
        """Logits (B, n, C) of the tuned linear classifier; the head's scores are not read."""
        features = F.normalize(episode.x, dim=-1)
        z = F.pad(features, (0, 1), value=1.0)  # the bias
        labels = episode.w[:, episode.support].mT
        query = episode.mask[:, episode.query]
        nodes = z[:, : episode.query.stop].detach()
        start = F.pad(F.normalize(labels @ features[:, episode.support], dim=-1), (0, 1))

        def gradient(theta: Tensor) -> Tensor:
            return self.gradient(theta, nodes, labels, query)

        moved = adam(gradient, start.detach(), self.lr, self.steps)
        theta = start + (moved - start.detach())  # the value of `moved`, the gradient of `start`
        return hide_absent(z @ theta.mT, episode.w)

    def gradient(self, theta: Tensor, z: Tensor, y: Tensor, query: Tensor) -> Tensor:
        """The gradient of the loss with respect to theta = [W, b]: (B, C, d + 1).

        Args:
            theta: (B, C, d + 1) the classifier.
            z: (B, k + q, d + 1) features of support and queries, with a 1 for the bias.
            y: (B, C, k) label weights of the support.
            query: (B, q) bool, which queries are real.
        """
        k = y.shape[-1]
        absent = y.sum(-1, keepdim=True) == 0
        log_p = (theta @ z.mT).masked_fill(absent, -1e30).log_softmax(-2)
        p = log_p.exp()

        by_support = y.sum(-2, keepdim=True) * p[..., :k] - y
        by_support = by_support / y.sum((1, 2), keepdim=True).clamp_min(1e-12)

        real = query.unsqueeze(1).to(y.dtype)
        entropy = -(p[..., k:] * log_p[..., k:]).sum(-2, keepdim=True)
        # the derivative of the entropy H by logit c is -p_c (log p_c + H)
        by_query = -p[..., k:] * (log_p[..., k:] + entropy) * real
        by_query = by_query / real.sum(-1, keepdim=True).clamp_min(1)
        return torch.cat([by_support, by_query], -1) @ z
