"""A support label that its neighbours contradict gives way to what they say.

Ours, 2026; the propagation is that of Zhou et al. 2004,
https://proceedings.neurips.cc/paper/2003/hash/87682805257e619d49b8e0dfdc14affa-Abstract.html
"""

from __future__ import annotations

from torch import Tensor

from graphfsl.core.episode import Episode
from graphfsl.core.learner import Augment
from graphfsl.functional.affinity import cosine_power, pairs
from graphfsl.functional.centring import centred
from graphfsl.functional.knn import nearest
from graphfsl.functional.propagation import left_out, symmetric
from graphfsl.functional.prototypes import present
from graphfsl.functional.statistics import or_one
from graphfsl.io.errors import require

__all__ = ["OverruledSupport"]

TEMPERATURE = 0.7  # what held-out labels of `graphfsl label` usually ask for
REACHED = 1e-7  # what reaches a node is more than that


class OverruledSupport(Augment):
    """Weigh each support label against what propagation of all the others says of its node.

        F_ic = sum_(j != i) G_ij y_jc / sum_(j != i) y_jc,  G = (I - alpha S)^-1
        p_ic ~ F_ic^(1/T) * ( trust if c is the node's label, else (1 - trust) / (C - 1) )
        w'_ic = w_i p_ic

    on the graph of support and pool, with A_ij = max(0, cos(x_i, x_j))^3 between k nearest
    neighbours, around the mean of all. It is Bayes' rule: a label is right with a probability
    `trust`, and else any other one. A node that no other label of its class tells of, or none
    reaches, stays as it is: at one shot nothing changes.

    Args:
        trust: how often a label is right; 1 leaves all as they are.
        k: neighbours of a node.
        alpha: how far labels go.

    Shapes:
        forward: features (B, n, d), weights (B, n, C) -> the same episode with other weights.

    Source:
        equations above; `trust` was chosen on training classes of CIFAR-FS.
    """

    uses_unlabeled = True

    def __init__(self, trust: float = 0.9, k: int = 10, alpha: float = 0.9) -> None:
        super().__init__()
        require(
            0 < trust <= 1 and k >= 1 and 0 <= alpha < 1,
            "overruled_support: trust must lie in (0, 1], k be 1 or more and alpha in [0, 1), not "
            f"{trust}, {k} and {alpha}",
        )
        self.trust, self.k, self.alpha = trust, k, alpha

    def forward(self, episode: Episode) -> Episode:
        """The episode with other label weights of the support."""
        support = episode.support
        w = episode.w[:, support]
        f = self.others(episode)

        p = f.clamp_min(REACHED) ** (1 / TEMPERATURE) * self.prior(w)
        weight = w.sum(-1, keepdim=True)
        overruled = weight * p / or_one(p.sum(-1, keepdim=True))
        others_of_class = (w.sum(1, keepdim=True) - w).where(w > 0, 0).sum(-1, keepdim=True)
        heard = (f.sum(-1, keepdim=True) > REACHED) & (others_of_class > 0)
        told = overruled.where(heard, w)
        return episode.with_tensors({"w": episode.w.slice_scatter(told, 1, 0, support.stop)})

    def others(self, episode: Episode) -> Tensor:
        """F (B, k, C): what all other support labels say of each support node."""
        graph = episode.parts(query=False)
        a = nearest(cosine_power(centred(graph.x, graph.mask)) * pairs(graph.mask), self.k)
        return left_out(symmetric(a), episode.w[:, episode.support], self.alpha)

    def prior(self, w: Tensor) -> Tensor:
        """The probability (B, k, C) of each class by the node's own label alone."""
        there = present(w).unsqueeze(1)
        y = w / or_one(w.sum(-1, keepdim=True))
        others = (there.sum(-1, keepdim=True) - 1).clamp_min(1)
        return (self.trust * y + (1 - self.trust) * (1 - y) / others) * there
