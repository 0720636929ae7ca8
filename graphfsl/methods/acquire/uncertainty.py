"""Uncertainty sampling, by margin and by entropy.

Settles 2009, Active Learning Literature Survey, https://minds.wisconsin.edu/handle/1793/60660
"""

from __future__ import annotations

import torch
from torch import Tensor

from graphfsl.core.episode import Episode
from graphfsl.core.learner import Acquire
from graphfsl.functional.selection import shuffled, two_best
from graphfsl.io.errors import require

__all__ = ["Entropy", "Margin"]


class Entropy(Acquire):
    """Ask for the samples whose class is the least certain, by entropy.

        i = argmax_i -sum_c p_ic log p_ic,  p = softmax(scores)

    What no class was seen of has no score. Where the support names no classes, the first samples
    are therefore drawn at random, until each column of the label weights has a label.

    Args:
        batch: samples of a round, after which all are scored anew.
        seed: of the samples that are drawn at random.

    Shapes:
        forward: scores (B, n, C), candidates (B, n) -> nodes (B, count).

    Source:
        section 3.1, equation for x*_H (Shannon 1948).
    """

    reads_scores = True
    by_place = True

    def __init__(self, batch: int = 1, seed: int = 0) -> None:
        super().__init__()
        require(batch >= 1, f"a round asks for 1 sample or more, not {batch}")
        self.batch: int = batch
        self.seed = seed

    def doubt(self, p: Tensor) -> Tensor:
        """How uncertain probabilities (B, n, C) are: (B, n)."""
        entropy: Tensor = torch.special.entr(p).sum(-1)
        return entropy

    def forward(
        self, episode: Episode, candidates: Tensor, scores: Tensor | None, count: int
    ) -> Tensor:
        """The nodes (B, count) of the least certain class."""
        at_random = shuffled(candidates, self.seed)
        if scores is None:
            return at_random.topk(count, -1).indices
        doubt = self.doubt(scores.softmax(-1).nan_to_num(0)).masked_fill(~candidates, -torch.inf)
        if episode.n_support:  # which classes there are is known
            return doubt.topk(count, -1).indices
        seen = (episode.w.sum(1) > 0).all(-1)
        return doubt.where(seen[:, None], at_random).topk(count, -1).indices


class Margin(Entropy):
    """Ask for the samples whose best two classes are the nearest to each other.

        i = argmin_i p_i(1) - p_i(2),  p = softmax(scores), the largest first

    Where the support names no classes, the first samples are drawn at random, as `entropy` does.

    Args:
        batch: samples of a round, after which all are scored anew.
        seed: of the samples that are drawn at random.

    Shapes:
        forward: scores (B, n, C), candidates (B, n) -> nodes (B, count).

    Source:
        section 3.1, equation for x*_M (Scheffer, Decomain, Wrobel 2001,
        https://doi.org/10.1007/3-540-44816-0_31).
    """

    def doubt(self, p: Tensor) -> Tensor:
        """How near the two largest of probabilities (B, n, C) are: (B, n), at most 0."""
        best, second = two_best(p)
        return second - best
