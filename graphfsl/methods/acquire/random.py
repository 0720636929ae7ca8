"""Random choice: the bar that every rule has to clear.

Settles 2009, Active Learning Literature Survey, https://minds.wisconsin.edu/handle/1793/60660
"""

from __future__ import annotations

from torch import Tensor

from graphfsl.core.episode import Episode
from graphfsl.core.learner import Acquire
from graphfsl.functional.selection import shuffled

__all__ = ["Random"]


class Random(Acquire):
    """Ask for samples at random, each as likely as any other.

        i_1, ..., i_b  drawn from the candidates without replacement

    Args:
        seed: of the draw.

    Shapes:
        forward: features (B, n, d), label weights (B, n, C), candidates (B, n) -> nodes (B, count).

    Source:
        passive learning in section 1 of the survey. The draw is over the places of candidates, and
        the same for all episodes; which image stands where is drawn anew for each.
    """

    by_place = True

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.seed = seed

    def forward(
        self, episode: Episode, candidates: Tensor, scores: Tensor | None, count: int
    ) -> Tensor:
        """Nodes (B, count) at random."""
        return shuffled(candidates, self.seed).topk(count, -1).indices
