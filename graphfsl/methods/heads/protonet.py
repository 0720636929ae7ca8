"""Prototypical Networks: the nearest class mean.

Snell, Swersky, Zemel 2017, https://arxiv.org/abs/1703.05175
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graphfsl.core.episode import Episode
from graphfsl.core.learner import Head
from graphfsl.functional.distances import cosine, squared_euclidean
from graphfsl.functional.prototypes import hide_absent, prototypes
from graphfsl.io.errors import require, unknown

__all__ = ["ProtoNet"]


class ProtoNet(Head):
    """Answer with the class whose mean support feature is nearest.

        c_k = mean of the support features of class k
        p(y = k | x) = softmax_k(-d(f(x), c_k))      (equations 1, 2)

    Args:
        distance: "sqeuclidean", the paper's, neither rooted nor divided by the dimension; or
            "cosine", scaled by a learned temperature (its logarithm is the parameter, so that it
            stays positive).
        scale: the initial temperature of the cosine; plain cosine (scale 1) does not train.
        learned: whether the temperature is learned. A fixed one is no weight, so that other heads
            without weights can be evaluated in place of this one.

    Shapes:
        score: features (B, n, d), label weights (B, n, C) -> (B, n, C).

    Source:
        equations 1 and 2 of the paper; published Omniglot 98.8 / 99.7 / 96.0 / 98.9.

    Deviations:
        the paper's cosine has no temperature.
    """

    reads_means = True

    def __init__(
        self, distance: str = "sqeuclidean", scale: float = 10.0, learned: bool = True
    ) -> None:
        super().__init__()
        if distance not in ("sqeuclidean", "cosine"):
            raise unknown("distance", distance, ("sqeuclidean", "cosine"))
        require(scale > 0, f"the scale of cosines must be above 0, not {scale}")
        self.distance = distance
        require(
            learned or distance == "cosine",
            "protonet: sqeuclidean distances have no temperature; learned=false goes with "
            "distance=cosine",
        )
        self.log_scale: Tensor
        if distance == "cosine":
            log_scale = torch.tensor(float(scale)).log()
            if learned:
                self.log_scale = nn.Parameter(log_scale)
            else:
                self.register_buffer("log_scale", log_scale, persistent=False)

    def logits(self, z: Tensor, p: Tensor) -> Tensor:
        """How near nodes are to prototypes: (B, n, d), (B, C, d) -> (B, n, C)."""
        if self.distance == "cosine":
            return self.log_scale.exp() * cosine(z, p)
        return -squared_euclidean(z, p)

    def score(self, episode: Episode) -> Tensor:
        """Scores (B, n, C): how near each node is to each class mean."""
        c = prototypes(episode.x[:, episode.labeled], episode.w[:, episode.labeled])
        return hide_absent(self.logits(episode.x, c), episode.w)
