"""Nearest labeled neighbour: the baseline without training.

Cover, Hart 1967, https://doi.org/10.1109/TIT.1967.1053964
"""

from __future__ import annotations

import torch
from torch import Tensor

from graphfsl.core.episode import Episode
from graphfsl.core.learner import Head
from graphfsl.functional.distances import cosine, squared_euclidean
from graphfsl.io.errors import require, unknown

__all__ = ["NearestNeighbor"]


class NearestNeighbor(Head):
    """Answer with the class of the nearest labeled node.

        s_k(x) = max over labeled nodes i of class k of -||f(x) - f(x_i)||^2

    With one labeled node per class it equals ProtoNet. A node with soft labels counts for a class
    as far as its weight there is its largest.

    Args:
        distance: "sqeuclidean" as above; or "cosine", s_k(x) = scale * max cos(f(x), f(x_i)).
        scale: of the cosine, which is not learned.

    Shapes:
        score: features (B, n, d), label weights (B, n, C) -> (B, n, C); the query scores train like
            ProtoNet's.

    Source:
        the rule of section II of the paper.
    """

    cannot_export = "takes one class after the other, so that a graph would hold their number"

    def __init__(self, distance: str = "sqeuclidean", scale: float = 20.0) -> None:
        super().__init__()
        if distance not in ("sqeuclidean", "cosine"):
            raise unknown("distance", distance, ("sqeuclidean", "cosine"))
        require(scale > 0, f"the scale of cosines must be above 0, not {scale}")
        self.distance, self.scale = distance, scale

    def score(self, episode: Episode) -> Tensor:
        """How near the nearest labeled node of each class is: (B, n, C)."""
        labeled = episode.x[:, episode.labeled]
        if self.distance == "cosine":
            similarity = self.scale * cosine(episode.x, labeled)
        else:
            similarity = -squared_euclidean(episode.x, labeled)  # (B, n, m)
        w = episode.w[:, episode.labeled]
        labels = (w > 0) & (w == w.amax(-1, keepdim=True))  # (B, m, C)
        # One class at a time keeps the memory at (B, n, m).
        nearest = [
            similarity.masked_fill(~labels[..., k].unsqueeze(-2), float("-inf")).amax(-1)
            for k in range(episode.way)
        ]
        return torch.stack(nearest, -1)
