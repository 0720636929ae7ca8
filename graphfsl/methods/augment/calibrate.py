"""Closed forms that move a class mean towards what base classes say of it; nothing is sampled.

The nearest base means: Yang, Liu, Xu 2021 (Distribution Calibration),
https://arxiv.org/abs/2101.06395; all of them, weighted: Wang et al. 2023 (TEEN),
https://arxiv.org/abs/2312.05229.
"""

from __future__ import annotations

import torch
from torch import Tensor

from graphfsl.core.base_classes import BaseMemory, check_base, check_count
from graphfsl.core.episode import Episode
from graphfsl.core.learner import Augment
from graphfsl.functional.distances import cosine, squared_euclidean
from graphfsl.functional.prototypes import present, prototypes
from graphfsl.functional.within_class import class_means
from graphfsl.io.errors import require, unknown

__all__ = ["Calibrate"]

FORMS = ("teen", "nearest", "ridge")


class Calibrate(BaseMemory, Augment):
    """Add one support node t_c to each class, so that its mean p_c becomes (1 - a) p_c + a t_c.

    The node has the label weight `weight`, and a = weight / (weight + shots): the more samples a
    class has, the less base classes count. With mu_b the means of the base classes,

        teen     t_c = sum_b softmax_b(temperature cos(p_c, mu_b)) mu_b
        nearest  t_c = mean over the samples x of c of the mean of the k mu_b nearest to x
        ridge    t_c = W p_c + v, where W and v minimise
                 sum_i ||W x_i + v - mu_y(i)||^2 + N strength ||W||^2 over N base samples

    Features should be centred and of length 1: put `feature_transform` in front, in a list of
    augment parts.

    Args:
        dim: d, the length of the features.
        form: "teen", "nearest" or "ridge".
        weight: label weight of the node beside 1 of a real one; 0 adds nothing.
        temperature: of TEEN's softmax.
        neighbors: k of `nearest`.
        strength: of the penalty of `ridge`.

    Shapes:
        forward: features (B, n, d), weights (B, n, C) -> an episode with C more support nodes.

    Source:
        the papers named above: TEEN's calibrated mean, and that of Distribution Calibration.

    Deviations:
        in the papers a is the same for any number of shots: k / (k + 1) of `nearest`. TEEN comes
        from class-incremental learning, where base classes are answers too. Ridge regression from a
        sample to its class mean is no paper's.
    """

    family = "generative"
    wants_base = True
    remembers = ("means",)

    def __init__(
        self,
        dim: int,
        form: str = "teen",
        weight: float = 1.0,
        temperature: float = 16.0,
        neighbors: int = 2,
        strength: float = 0.003,
    ) -> None:
        super().__init__()
        if form not in FORMS:
            raise unknown("form", form, FORMS)
        require(weight >= 0, f"calibrate.weight must be 0 or more, not {weight}")
        require(
            temperature > 0 and neighbors >= 1 and strength > 0,
            "calibrate: temperature and strength must be above 0, neighbors 1 or more",
        )
        self.form, self.weight, self.temperature = form, weight, temperature
        self.neighbors, self.strength = neighbors, strength
        self.means: Tensor
        self.map: Tensor | None
        self.shift: Tensor | None
        is_ridge = form == "ridge"
        self.register_buffer("means", torch.zeros(0, dim))
        self.register_buffer("map", torch.zeros(dim, dim) if is_ridge else None)
        self.register_buffer("shift", torch.zeros(dim) if is_ridge else None)

    @property
    def note(self) -> str:
        """What a results row says of the node that it adds."""
        if not self.weight:
            return ""
        return f"1 node a class of base means, {self.weight:g} times the weight of a real one"

    def check_base_labels(self, labels: Tensor) -> None:
        """Refuse labels (N,) of fewer classes than are looked for as neighbors."""
        check_count(labels, self.neighbors if self.form == "nearest" else 1, "calibrate")

    def fit_base(self, features: Tensor, labels: Tensor) -> None:
        """Learn from base-class features (N, d) and labels (N,)."""
        check_base(features, labels, self.means.shape[1], 1, "calibrate")
        self.check_base_labels(labels)
        self.means, row = class_means(features, labels)
        if self.map is not None and self.shift is not None:
            middle = features.mean(0)
            x, goal = features - middle, self.means[row] - middle
            penalty = len(x) * self.strength * torch.eye(len(middle)).to(x)
            self.map.copy_(torch.linalg.solve(x.mT @ x + penalty, x.mT @ goal).mT)
            self.shift.copy_(middle - self.map @ middle)

    def target(self, episode: Episode) -> Tensor:
        """t (B, C, d) of an episode of features; of absent classes anything."""
        means = self.means.to(episode.x.dtype)
        of_each = means.expand(len(episode.x), -1, -1)
        if self.form == "nearest":
            x, w = episode.x[:, episode.labeled], episode.w[:, episode.labeled]
            nearest = squared_euclidean(x, of_each).topk(self.neighbors, largest=False).indices
            return prototypes(means[nearest].mean(-2), w)
        p = prototypes(episode.x, episode.w)
        if self.map is not None and self.shift is not None:
            return p @ self.map.to(p.dtype).mT + self.shift.to(p.dtype)
        return (self.temperature * cosine(p, of_each)).softmax(-1) @ means

    def forward(self, episode: Episode) -> Episode:
        """The episode with a node for each class; as it is before `fit_base`."""
        if not self.weight or not len(self.means):
            return episode
        there = present(episode.w)
        w = self.weight * torch.diag_embed(there.to(episode.w.dtype))
        return episode.add_support(self.target(episode), w, there)
