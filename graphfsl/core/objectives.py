"""Objectives of the inner loop: what a step on an episode descends."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from graphfsl.core.episode import Episode
from graphfsl.functional.cross_entropy import cross_entropy
from graphfsl.functional.layers import last_layer

Score = Callable[[Episode], Tensor]
InnerObjective = Callable[[Score, Episode, int], Tensor]


def support_cross_entropy(score: Score, episode: Episode, step: int) -> Tensor:
    """Mean cross-entropy of the support nodes against their label weights.

    Only the support is encoded.
    """
    support = episode.parts(query=False, unlabeled=False)
    return labeled_cross_entropy(last_layer(score(support)), support)


def labeled_cross_entropy(scores: Tensor, support: Episode) -> Tensor:
    """The same of scores (B, k + …, C) whose first k are of the support."""
    w = support.w[:, support.support]
    return cross_entropy(scores[:, support.support], w).sum() / w.sum()


def beside_support(score: Score, episode: Episode, x: Tensor, mask: Tensor) -> Tensor:
    """Scores (B, k + m, C) of the support and of nodes x (B, m, *S), mask (B, m).

    The nodes take the place of queries and pool.
    """
    s = episode.parts(query=False, unlabeled=False)
    w = s.w.new_zeros(*x.shape[:2], s.way)
    x, w, mask = (torch.cat(pair, 1) for pair in ((s.x, x), (s.w, w), (s.mask, mask)))
    return last_layer(score(Episode(x, w, s.n_support, 0, mask, padded=s.padded, relabeled=False)))
