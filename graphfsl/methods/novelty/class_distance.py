"""The distance from the nearest class mean.

Jeong, Choi, Kim 2021 (SnaTCHer) measures it beside its own score, and finds that it does most of
the work, https://openaccess.thecvf.com/content/CVPR2021/html/
Jeong_Few-Shot_Open-Set_Recognition_by_Transformation_Consistency_CVPR_2021_paper.html
"""

from __future__ import annotations

from torch import Tensor

from graphfsl.core.episode import Episode
from graphfsl.core.learner import Novelty
from graphfsl.functional.centring import centred
from graphfsl.functional.distances import cosine, length, squared_euclidean
from graphfsl.functional.prototypes import hide_absent, prototypes
from graphfsl.io.errors import unknown

__all__ = ["ClassDistance"]

DISTANCES = ("cosine", "euclidean")


class ClassDistance(Novelty):
    """Take the distance from the nearest class mean for novelty.

        u(x) = min_c d(f(x), mu_c)

    with d = -cos, of features of length 1, or the squared Euclidean distance, and mu_c the mean of
    the labeled features of class c.

    Args:
        distance: "cosine" or "euclidean".
        centred: take the mean of all support and query features away first (of features of length
            1); a query's novelty then depends on the other queries: transductive.

    Shapes:
        forward: features (B, n, d), label weights (B, n, C) -> (B, n).

    Source:
        the distance of section 4.2's comparison; centred by the task as in `oslo`.
    """

    def __init__(self, distance: str = "cosine", centred: bool = False) -> None:
        super().__init__()
        if distance not in DISTANCES:
            raise unknown("distance", distance, DISTANCES)
        self.distance = distance
        self.centred = self.transductive = centred

    def forward(self, episode: Episode, scores: Tensor) -> Tensor:
        """The novelty (B, n)."""
        x = episode.x
        if self.centred:
            mask = episode.mask.clone()
            mask[:, episode.unlabeled] = False
            x = centred(x, mask)
        elif self.distance == "cosine":
            x = x / length(x)
        mean = prototypes(x, episode.w)
        near = cosine(x, mean) if self.distance == "cosine" else -squared_euclidean(x, mean)
        return -hide_absent(near, episode.w).amax(-1)
