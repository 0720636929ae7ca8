"""Transductive fine-tuning of a linear classifier. Dhillon, Chaudhari, Ravichandran, Soatto 2020,
https://arxiv.org/abs/1909.02729"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from graphfsl.core.episode import Episode
from graphfsl.core.learner import Head, Refine
from graphfsl.functional.adam import adam
from graphfsl.functional.prototypes import hide_absent
from graphfsl.io.errors import InputError

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
        if steps < 0 or not lr > 0:
            raise InputError(
                f"transductive_fine_tuning.steps must be 0 or more and lr above 0, "
                f"not {steps} and {lr}"
            )
        self.steps, self.lr = steps, lr

    def forward(self, episode: Episode, scores: Tensor, head: Head) -> Tensor:
        k, m = episode.n_support, episode.n_support + episode.n_query
        z = F.pad(F.normalize(episode.x, dim=-1), (0, 1), value=1.0)  # the bias
        y, query = episode.w[:, :k].mT, episode.mask[:, k:m]
        start = F.pad(F.normalize(y @ z[:, :k, :-1], dim=-1), (0, 1))
        fixed = z[:, :m].detach()
        moved = adam(
            lambda theta: self.gradient(theta, fixed, y, query), start.detach(), self.lr, self.steps
        )
        return hide_absent(z @ (start + (moved - start.detach())).mT, episode.w)

    def gradient(self, theta: Tensor, z: Tensor, y: Tensor, query: Tensor) -> Tensor:
        """Of the loss by (W, b) (B, C, d + 1): nodes z (B, m, d + 1), labels y (B, C, k) of the
        first k, which queries are real (B, q)."""
        k, real = y.shape[-1], query.unsqueeze(1).to(y.dtype)
        f = (theta @ z.mT).masked_fill(y.sum(-1, keepdim=True) == 0, -1e30)
        log_p = f.log_softmax(-2)
        p, log_p = log_p.exp(), log_p[..., k:]
        h = -(p[..., k:] * log_p).sum(-2, keepdim=True)
        by_s = (y.sum(-2, keepdim=True) * p[..., :k] - y) / y.sum((1, 2), keepdim=True).clamp_min(
            1e-12
        )
        by_q = -p[..., k:] * (log_p + h) * real / real.sum(-1, keepdim=True).clamp_min(1)
        return torch.cat([by_s, by_q], -1) @ z
