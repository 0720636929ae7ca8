"""Label propagation: local and global consistency.

Zhou, Bousquet, Lal, Weston, Schoelkopf 2004, https://papers.nips.cc/paper/2506
"""

from __future__ import annotations

import torch
from torch import Tensor

from graphfsl.core.episode import Episode
from graphfsl.core.learner import Head
from graphfsl.functional.affinity import median_distance, pairs, rbf, std_scaled
from graphfsl.functional.distances import squared_euclidean
from graphfsl.functional.knn import nearest
from graphfsl.functional.propagation import propagate, symmetric
from graphfsl.functional.prototypes import hide_absent
from graphfsl.functional.statistics import or_one
from graphfsl.io.errors import InputError, require

__all__ = ["LabelPropagation"]


class LabelPropagation(Head):
    """Let labels flow over the graph of an episode's nearest neighbours until they rest.

        W_ij = exp(-||x_i - x_j||^2 / (2 sigma^2)) where one is among the other's k nearest, else 0
        S = D^-1/2 W D^-1/2
        F = (I - alpha S)^-1 Y, the limit of F <- alpha S F + Y

    Y are the label weights, zero for queries and pool: all nodes of an episode are in one graph.

    Args:
        scale: sigma in median distances of two nodes, so that it fits features of any length (at 1
            nearly all nodes are alike, and with alpha near 1 the class of the best connected
            support takes all); or "std", EPNet's affinity: exp(-d_ij / std(d)) of squared
            distances, without self-loops, 1e-4 added to the degrees.
        k: neighbours of a node, itself among them; null for all nodes.
        alpha: how far labels go, in [0, 1).
        log: the scores are log(F_ic / sum_j P_ij + 1e-6), P the inverse above, as EPNet has them;
            otherwise F.
        average: the labels of a class weigh one together, so that a class is not favoured for
            having more of them.

    Shapes:
        score: features (B, n, d), label weights (B, n, C) -> (B, n, C).

    Source:
        the paper's closed form with k and alpha of TPN (Liu et al. 2019,
        https://arxiv.org/abs/1805.10002), whose row "Label Propagation" it is: mini-ImageNet 52.31
        / 68.18. `scale: std, k: null, alpha: 0.2, log: true` is EPNet's (Rodriguez et al. 2020,
        https://arxiv.org/abs/2003.04151).

    Deviations:
        self-loops stay, as in TPN's code, and the constant factor 1 - alpha is left out; the scale
        is relative (0.25 was chosen on validation classes of CIFAR-FS).
    """

    family = "graph"
    transductive = True
    uses_unlabeled = True

    def __init__(
        self,
        scale: float | str = 0.25,
        k: int | None = 20,
        alpha: float = 0.99,
        log: bool = False,
        average: bool = False,
    ) -> None:
        super().__init__()
        if scale != "std" and (isinstance(scale, str) or not scale > 0):
            raise InputError(
                f"label_propagation.scale must be a number above 0, or std, not {scale!r}"
            )
        require(
            (k is None or k >= 1) and 0 <= alpha < 1,
            f"propagation takes k of 1 or more, or null, and alpha in [0, 1), not {k} and {alpha}",
        )
        self.scale, self.k, self.alpha, self.log = scale, k, alpha, log
        self.average = average

    def affinity(self, episode: Episode) -> Tensor:
        """Affinities (B, n, n) of all nodes; padding is taken out afterwards."""
        if isinstance(self.scale, str):
            return std_scaled(episode.x, episode.mask) * pairs(episode.mask)
        d = squared_euclidean(episode.x, episode.x)
        return rbf(d, self.scale * median_distance(d, episode.mask).sqrt())

    def score(self, episode: Episode) -> Tensor:
        """The label weights (B, n, C) that reach each node, or with `log` their logarithms."""
        w = self.affinity(episode) * (episode.mask.unsqueeze(-1) & episode.mask.unsqueeze(-2))
        if self.k is not None:
            w = nearest(w, self.k)
        s = symmetric(w, 1e-4 if self.scale == "std" else 0.0)
        y = episode.w
        if self.average:
            y = y / or_one(y.sum(1, keepdim=True))
        if not self.log:
            return hide_absent(propagate(s, y, self.alpha), y)
        # A row of P = (I - alpha S)^-1 sums to P 1.
        f = propagate(s, torch.cat([y, torch.ones_like(y[..., :1])], -1), self.alpha)
        return hide_absent((f[..., :-1] / f[..., -1:] + 1e-6).log(), y)
