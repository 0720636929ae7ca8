"""Imprinted class weights: the mean of the normalised support features of a class.

Qi, Brown, Lowe 2018, "Low-Shot Learning with Imprinted Weights", https://arxiv.org/abs/1712.07136
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from graphfsl.core.episode import Episode
from graphfsl.core.learner import Head
from graphfsl.functional.distances import cosine
from graphfsl.functional.prototypes import hide_absent, prototypes
from graphfsl.io.errors import require

__all__ = ["Imprinting"]


class Imprinting(Head):
    """Take the class means of normalised features as the weights of a cosine classifier.

        w_c = mean of f(x_i) / |f(x_i)| over the support of class c
        p(c | x) = softmax_c(scale * cos(w_c, f(x)))      (equations 3 and 4)

    Inside `adapt` the weights w_c of an episode start there and are tuned.

    Args:
        scale: s of the cosine.

    Shapes:
        score: features (B, n, d), label weights (B, n, C) -> logits (B, n, C).

    Source:
        sections 3.2 and 3.3.

    Deviations:
        only the classes of the episode are told apart, not the base classes too; s is not learned.
    """

    family = "transfer"
    imprinted = ("weight",)  # what `Adapt` starts from `imprint`

    def __init__(self, scale: float = 10.0) -> None:
        super().__init__()
        require(scale > 0, f"imprinting.scale must be above 0, not {scale}")
        self.scale = scale
        self.weight: Tensor | None
        self.register_buffer("weight", None)

    def imprint(self, episode: Episode) -> dict[str, Tensor]:
        """The weights (B, C, d) of an episode of features."""
        labeled = episode.labeled
        return {
            "weight": prototypes(F.normalize(episode.x[:, labeled], dim=-1), episode.w[:, labeled])
        }

    def score(self, episode: Episode) -> Tensor:
        """Scaled cosines (B, n, C) to the imprinted, or since adapted, class weights."""
        weight = self.weight if self.weight is not None else self.imprint(episode)["weight"]
        weight = weight.expand(len(episode.x), -1, -1)  # a task's own, in each copy of the task
        return hide_absent(self.scale * cosine(episode.x, weight), episode.w)
