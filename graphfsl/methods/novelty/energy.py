"""The energy of the scores: all classes speak, not only the best.

Liu, Wang, Owens, Li 2020, https://arxiv.org/abs/2010.03759
"""

from __future__ import annotations

from torch import Tensor

from graphfsl.core.episode import Episode
from graphfsl.core.learner import Novelty
from graphfsl.io.errors import require

__all__ = ["Energy"]


class Energy(Novelty):
    """Take the free energy of the scores for novelty.

        u(x) = -T log sum_c exp(f_c(x) / T)      (equation 4)

    It reads how high the scores are, not only how they differ: a head must give scores whose height
    means something, as squared distances do. Those of a head that gives log-probabilities sum to
    the same for all nodes.

    Args:
        temperature: T.

    Shapes:
        forward: scores (B, n, C) -> (B, n).

    Source:
        section 3.1.
    """

    def __init__(self, temperature: float = 1.0) -> None:
        super().__init__()
        require(temperature > 0, f"energy.temperature must be above 0, not {temperature}")
        self.temperature = temperature

    def forward(self, episode: Episode, scores: Tensor) -> Tensor:
        """The novelty (B, n)."""
        return -self.temperature * (scores / self.temperature).logsumexp(-1)
