"""A linear read-out that only adaptation can teach the classes of an episode.

Finn et al. 2017, https://arxiv.org/abs/1703.03400
"""

from __future__ import annotations

from torch import Tensor, nn

from graphfsl.core.episode import Episode
from graphfsl.core.learner import Head
from graphfsl.functional.prototypes import hide_absent

__all__ = ["Linear"]


class Linear(Head):
    """Score with one linear layer: the last layer of MAML's network, tied to one way.

        s(x) = W f(x) + b with W (way, d)

    Args:
        dim: d, the length of the features.
        way: N.

    Shapes:
        score: features (B, n, d) -> (B, n, way), minus infinity for a class that the episode does
            not have. It does not read the support: use it inside `adapt`.

    Source:
        section 5.2 of the paper.
    """

    family = "optimisation"
    reads_support = False
    class_order_sensitive = True

    def __init__(self, dim: int, way: int) -> None:
        super().__init__()
        self.way = way
        self.linear = nn.Linear(dim, way)

    def score(self, episode: Episode) -> Tensor:
        """Logits (B, n, C) of the linear layer."""
        return hide_absent(self.linear(episode.x), episode.w)
