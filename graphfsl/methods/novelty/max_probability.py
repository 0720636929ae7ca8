"""Minus the largest class probability, the baseline of all that finds the unknown.

Hendrycks, Gimpel 2017, https://arxiv.org/abs/1610.02136
"""

from __future__ import annotations

from torch import Tensor

from graphfsl.core.episode import Episode
from graphfsl.core.learner import Novelty
from graphfsl.functional.open_set import max_probability

__all__ = ["MaxProbability"]


class MaxProbability(Novelty):
    """Take the answer's own doubt for novelty.

        u(x) = -max_c p(c | x)      (section 2)

    A learner without a part in this slot does the same.

    Shapes:
        forward: scores (B, n, C) -> (B, n).

    Source:
        section 2.
    """

    def forward(self, episode: Episode, scores: Tensor) -> Tensor:
        """The novelty (B, n)."""
        return max_probability(scores)
