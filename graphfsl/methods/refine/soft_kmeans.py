"""Soft k-means refinement of prototypes with an unlabeled pool. Ren et al. 2018, https://arxiv.org/abs/1803.00676"""

from __future__ import annotations

import torch
from torch import Tensor

from graphfsl.episode import Episode
from graphfsl.errors import InputError
from graphfsl.functional.soft_kmeans import soft_assign
from graphfsl.learner import Head, Refine

__all__ = ["SoftKmeans"]


class SoftKmeans(Refine):
    """z_jc = softmax_c(-||h_j - p_c||^2) for each unlabeled j;  p~_c = (sum_i h_i y_ic + sum_j h_j z_jc) /
    (sum_i y_ic + sum_j z_jc)  (equation 4), with the head's scores in place of -||h_j - p_c||^2.

    The pool's assignments become label weights and the head is called again, so it refines any head that reads
    label weights; with ProtoNet it is the paper's method. An empty pool leaves the scores as they are.
    steps: of soft k-means; the paper found that more than one does not help.

    forward: features (B, n, d), scores (B, n, C) -> scores (B, n, C).
    Source: section 3.1.1, equation 4. The assignments are constants for the gradient, as in the authors' code.
    """

    family = "semi-supervised"
    uses_unlabeled = True
    wants_maps = None

    def __init__(self, steps: int = 1) -> None:
        super().__init__()
        if steps < 1:
            raise InputError(f"soft_kmeans takes at least one step, not {steps}")
        self.steps = steps

    def forward(self, episode: Episode, scores: Tensor, head: Head) -> Tensor:
        pool = episode.unlabeled
        if episode.n_unlabeled == 0:
            return scores
        for _ in range(self.steps):
            z = soft_assign(scores[:, pool].detach(), episode.mask[:, pool])
            w = torch.cat([episode.w[:, : pool.start], z], 1)
            scores = head.score(episode.replace(w=w))
            scores = scores[-1] if scores.ndim == 4 else scores
        return scores
