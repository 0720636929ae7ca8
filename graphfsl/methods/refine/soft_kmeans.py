"""Soft k-means refinement of prototypes with an unlabeled pool.

Ren et al. 2018, https://arxiv.org/abs/1803.00676
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graphfsl.core.episode import Episode
from graphfsl.core.learner import Head, Refine
from graphfsl.functional.layers import last_layer
from graphfsl.functional.prototypes import present
from graphfsl.functional.soft_kmeans import soft_assign
from graphfsl.functional.statistics import or_one
from graphfsl.io.errors import require

__all__ = ["MaskedSoftKmeans", "SoftKmeans", "SoftKmeansCluster"]


class SoftKmeans(Refine):
    """Move class means by the pool, each node counting for each class as it probably belongs.

        z_jc = softmax_c(-||h_j - p_c||^2) for each unlabeled j
        p~_c = (sum_i h_i y_ic + sum_j h_j z_jc) / (sum_i y_ic + sum_j z_jc)      (equation 4)

    with the head's scores in place of -||h_j - p_c||^2. The pool's assignments become label weights
    and the head is called again, so it refines any head that reads label weights; with ProtoNet it
    is the paper's method. An empty pool leaves the scores as they are.

    Args:
        steps: of soft k-means; the paper found that more than one does not help.

    Shapes:
        forward: features (B, n, d), scores (B, n, C) -> scores (B, n, C).

    Source:
        section 3.1.1, equation 4. The assignments are constants for the gradient, as in the
        authors' code.
    """

    family = "semi-supervised"
    uses_unlabeled = True
    reads = "pool"
    relabels = True
    trusts_probabilities = True
    wants_maps = None

    def __init__(self, steps: int = 1) -> None:
        super().__init__()
        require(steps >= 1, f"soft k-means takes at least one step, not {steps}")
        self.steps = steps

    def assign(self, episode: Episode, scores: Tensor) -> Tensor:
        """Label weights of the pool from the head's scores of it: (B, U, C) -> (B, U, C)."""
        return soft_assign(scores.detach(), episode.mask[:, episode.unlabeled])

    def forward(self, episode: Episode, scores: Tensor, head: Head) -> Tensor:
        """The head's scores (B, n, C) after the pool has moved the class means `steps` times."""
        pool = episode.unlabeled
        if episode.n_unlabeled == 0:
            return scores
        for _ in range(self.steps):
            w = torch.cat([episode.w[:, : pool.start], self.assign(episode, scores[:, pool])], 1)
            scores = last_layer(head.score(episode.replace(w=w)))
        return scores


class SoftKmeansCluster(SoftKmeans):
    """Soft k-means with one cluster more, for the unlabeled nodes that belong to no class.

    At p_(N+1) = 0, with r_1 = … = r_N = 1 and r_(N+1) learned,

        z_jc = softmax_c(-||h_j - p_c||^2 / r_c^2 - A(r_c)),  A(r) = log(2 pi) / 2 + log r

    What it is assigned is no class's label weight. As r grows its share vanishes, but as 1/r only.

    Args:
        radius: r_(N+1) at first; its logarithm is the parameter.
        steps: as in `SoftKmeans`.

    Shapes:
        forward: features (B, n, d), scores (B, n, C) -> scores (B, n, C).

    Source:
        section 3.1.2; radius 100 from the authors' code. Scores as -||h_j - p_c||^2, h_j all of a
        node's features.

    Deviations:
        the authors' code divides by 2 r^2; it leaves cluster N+1, moved to the mean of what it was
        assigned, in the softmax of the queries too. Here a query has N scores, and the cluster
        stays at 0 in every step.
    """

    def __init__(self, steps: int = 1, radius: float = 100.0) -> None:
        super().__init__(steps)
        require(radius > 0, f"soft_kmeans_cluster.radius must be above 0, not {radius}")
        self.log_radius = nn.Parameter(torch.tensor(float(radius)).log())

    def assign(self, episode: Episode, scores: Tensor) -> Tensor:
        """Label weights (B, U, C) of the pool, less what the cluster of no class takes."""
        pool = episode.unlabeled
        squares = episode.x[:, pool].flatten(2).square().sum(-1, keepdim=True)
        extra = -squares * (-2 * self.log_radius).exp() - self.log_radius
        return soft_assign(torch.cat([scores, extra], -1), episode.mask[:, pool])[..., :-1]


class MaskedSoftKmeans(SoftKmeans):
    """Soft k-means that leaves out pool nodes which are far from all class means.

        d~_jc = d_jc / mean_j d_jc
        [log beta_c, log gamma_c] = MLP(moments_c)
        m_jc = sigmoid(-gamma_c (d~_jc - beta_c))

    z_jc m_jc are the label weights, z as in `SoftKmeans`; moments_c are minimum, maximum, variance,
    skewness and excess kurtosis of d~_jc over j. d_jc is minus the head's score; where a task has
    scores above zero, the best one counts as distance 0.

    Args:
        hidden: width of the MLP, 5 -> hidden, tanh -> 2.
        steps: as in `SoftKmeans`.

    Shapes:
        forward: features (B, n, d), scores (B, n, C) -> scores (B, n, C).

    Source:
        section 3.1.3. From the authors' code: beta and gamma as exponentials, 20 hidden units,
        initial weights of deviation 0.01, so that beta and gamma start at 1; the statistics are
        constants for the gradient, d and z are not.

    Deviations:
        the authors' code applies the mask twice, and moves beta between steps by a third output;
        with one step, as in the paper, that output does nothing.
    """

    trusts_probabilities = False

    def __init__(self, steps: int = 1, hidden: int = 20) -> None:
        super().__init__(steps)
        require(hidden >= 1, f"masked_soft_kmeans.hidden must be 1 or more, not {hidden}")
        self.mlp = nn.Sequential(nn.Linear(5, hidden), nn.Tanh(), nn.Linear(hidden, 2))
        for p in self.mlp.parameters():
            nn.init.normal_(p, std=0.01) if p.ndim == 2 else nn.init.zeros_(p)

    def assign(self, episode: Episode, scores: Tensor) -> Tensor:
        """Label weights of the pool, those of far nodes masked: (B, U, C) -> (B, U, C)."""
        real = episode.mask[:, episode.unlabeled]
        return soft_assign(scores, real) * self.keep(scores, real, present(episode.w))

    def keep(self, scores: Tensor, real: Tensor, there: Tensor) -> Tensor:
        """m: how much of each node each class keeps, from 0 to 1.

        Args:
            scores: (B, U, C) of the pool.
            real: (B, U) which of its nodes are real.
            there: (B, C) which classes there are.

        Returns:
            (B, U, C)
        """
        here = real.unsqueeze(-1) & there.unsqueeze(1)
        s = scores.masked_fill(~here, 0)
        d = (s.amax((1, 2), keepdim=True).clamp_min(0) - s) * here
        mean = average(d, here)
        d = d / or_one(mean)
        beta, gamma = self.mlp(summary(d, here).detach()).exp().unbind(-1)
        return torch.sigmoid(gamma * (beta - d))


def average(x: Tensor, here: Tensor) -> Tensor:
    """The mean of x (B, U, C) over the nodes that are `here` (B, U, C): (B, 1, C)."""
    return (x * here).sum(1, keepdim=True) / here.sum(1, keepdim=True).clamp_min(1)


def summary(d: Tensor, here: Tensor) -> Tensor:
    """Minimum, maximum, variance, skewness and excess kurtosis of distances over the nodes.

    Args:
        d: (B, U, C) distances.
        here: (B, U, C) which of them count.

    Returns:
        (B, 1, C, 5): minimum, maximum, variance, skewness and excess kurtosis.
    """
    least = d.masked_fill(~here, float("inf")).amin(1, keepdim=True)
    least = least.masked_fill(~here.any(1, keepdim=True), 0)
    centred = d - average(d, here)
    variance = average(centred.square(), here)
    unit = centred / or_one(variance).sqrt()
    skew, kurtosis = average(unit**3, here), average(unit**4, here) - 3
    return torch.stack([least, d.amax(1, keepdim=True), variance, skew, kurtosis], -1)
