"""How little of the labels' mass reaches a node of the graph.

Ours, 2026; the propagation is that of Zhou et al. 2004,
https://proceedings.neurips.cc/paper/2003/hash/87682805257e619d49b8e0dfdc14affa-Abstract.html
"""

from __future__ import annotations

from torch import Tensor

from graphfsl.core.episode import Episode
from graphfsl.core.learner import Novelty
from graphfsl.functional.affinity import cosine_power, pairs
from graphfsl.functional.centring import centred
from graphfsl.functional.knn import nearest
from graphfsl.functional.propagation import propagate, symmetric
from graphfsl.functional.statistics import or_one
from graphfsl.io.errors import require

__all__ = ["PropagatedMass"]


class PropagatedMass(Novelty):
    """Propagate the labels over the graph of all nodes; little of them reaches what is foreign.

        F = (I - alpha S)^-1 Y,  S = D^-1/2 A D^-1/2
        u_i = -log( sum_c F_ic / sqrt(d_i) ),  d_i = sum_j A_ij

    with the label weights Y and A_ij = max(0, cos(x_i, x_j))^3 between k nearest neighbours. A
    foreign query has neighbours of its own kind, from which no label comes; a node's degree says
    how much would reach it in any case.

    Args:
        k: neighbours of a node.
        alpha: how far labels go.
        centred: take the mean of all nodes away first, of features of length 1.

    Shapes:
        forward: features (B, n, d), label weights (B, n, C) -> (B, n).

    Source:
        equations above.
    """

    transductive = True
    uses_unlabeled = True

    def __init__(self, k: int = 10, alpha: float = 0.9, centred: bool = True) -> None:
        super().__init__()
        require(
            k >= 1 and 0 < alpha < 1,
            f"propagated_mass: k must be 1 or more and alpha in (0, 1), not {k} and {alpha}",
        )
        self.k, self.alpha, self.centred = k, alpha, centred

    def forward(self, episode: Episode, scores: Tensor) -> Tensor:
        """The novelty (B, n)."""
        x, y = episode.x, episode.w
        if self.centred:
            x = centred(x, episode.mask)
        a = nearest(cosine_power(x) * pairs(episode.mask), self.k)
        degree = a.sum(-1)
        # a class with more labels does not reach farther for it
        share = y / or_one(y.sum(1, keepdim=True))
        mass = propagate(symmetric(a), share, self.alpha).sum(-1) / or_one(degree).sqrt()
        return -mass.clamp_min(1e-12).log()
