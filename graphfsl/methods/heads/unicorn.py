"""UNICORN-MAML: all classes start at one vector, so that their order is of no account.

Ye, Chao 2022, "How to Train Your MAML to Excel in Few-Shot Classification",
https://arxiv.org/abs/2106.16245
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from graphfsl.core.episode import Episode
from graphfsl.core.learner import Head
from graphfsl.functional.prototypes import hide_absent
from graphfsl.io.errors import require

__all__ = ["UNICORN"]


class UNICORN(Head):
    """Score with one weight vector a class, all of which start a task at the same learned vector.

        s_c(x) = w_c . f(x),  w_1 = … = w_N = w before the first step      (section 5)

    The adapted answer no longer depends on which class is called the first. Any number of classes
    is answered.

    Args:
        dim: d, the length of the features.
        temperature: by which the scores of the queries are divided in the outer loss; the inner
            loss takes them as they are.

    Shapes:
        score: features (B, n, d) -> (B, n, C), minus infinity for a class that the episode does not
            have. It does not read the support: use it inside `adapt`, as `fomaml`.

    Source:
        section 5 and the authors' code: first order, 15 steps of 0.05 at 1 shot and 20 of 0.1 at 5
        shots, from a pretrained encoder, temperature 0.5.

    Deviations:
        no bias: one that all classes share changes no probability. The same holds for w itself
        under a cross-entropy: its gradient is zero, along the inner loop and through it, so that it
        stays where it is drawn, and any w answers alike.
    """

    family = "optimisation"
    reads_support = False
    imprinted = ("weight",)  # what `Adapt` starts from `imprint`

    def __init__(self, dim: int, temperature: float = 0.5) -> None:
        super().__init__()
        require(temperature > 0, f"unicorn.temperature must be above 0, not {temperature}")
        self.temperature = temperature
        self.start = nn.Parameter(torch.empty(dim).uniform_(-(dim**-0.5), dim**-0.5))
        self.weight: Tensor | None
        self.register_buffer("weight", None)

    def imprint(self, episode: Episode) -> dict[str, Tensor]:
        """The weights (B, C, d) at which an episode starts: for each class the same."""
        return {"weight": self.start.expand(len(episode.w), episode.way, -1)}

    def score(self, episode: Episode) -> Tensor:
        """Scores (B, n, C) of an episode of features."""
        weight = self.imprint(episode)["weight"] if self.weight is None else self.weight
        return hide_absent(episode.x @ weight.mT, episode.w)

    def criterion(self, scores: Tensor, target: Any, episode: Episode) -> Tensor:
        """Cross-entropy of the scores divided by the temperature."""
        return super().criterion(scores / self.temperature, target, episode)
