"""iLPC: iterative label propagation and cleaning.

Lazarou, Stathaki, Avrithis 2021, https://arxiv.org/abs/2012.07962
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from graphfsl.core.episode import Episode
from graphfsl.core.learner import Head, Refine
from graphfsl.functional.affinity import pairs
from graphfsl.functional.centring import centred
from graphfsl.functional.knn import nearest
from graphfsl.functional.layers import last_layer
from graphfsl.functional.propagation import propagator, stochastic, symmetric
from graphfsl.functional.prototypes import present
from graphfsl.functional.selection import quota, top_per_class
from graphfsl.functional.sinkhorn import potentials
from graphfsl.functional.statistics import or_one
from graphfsl.io.errors import require

__all__ = ["ILPC"]


class ILPC(Refine):
    """Propagate labels to the pool, balance the classes, and believe the most credible nodes.

    Stage by stage, until all are labeled, with i among the k nearest of j,

        A_ij = max(0, cos(v_i, v_j))^3,  W = D^-1/2 (A + A^T) D^-1/2
        Z = (I - alpha W)^-1 Y

    P is made of the rows of Z+ that sum to one, to the power tau, then scaled by Sinkhorn so that
    rows sum to one and columns to the nodes that each class has left. Of the nodes that argmax P
    gives to a class, those of least mean loss while a classifier is trained on the support and all
    pseudo-labels move into the support. Then the head is called again on all labels.

    Args:
        k, alpha, tau: as above.
        stages: how many; each moves 1/stages of every class, 10 are 3 of the paper's 30 nodes.
        balance: whether the pool holds as many nodes of every class; False leaves out the columns
            of Sinkhorn, and with share 1 it no longer `needs_balanced_pool`.
        share: of the pool that takes part, an equal part for each class by P of the first stage;
            below 1 for distractors.
        epochs, lr: the training of the classifier, from the class means, with momentum 0.9 and
            weight decay.

    Shapes:
        forward: features (B, n, d), scores (B, n, C) -> scores (B, n, C). Queries are not in the
            graph: inductive.

    Source:
        section 3 and the authors' code, semi-supervised variant: k 15, alpha 0.8, tau 3, three
        nodes a stage, and what is left at the end; with distractors, the 30 best of each class
        (here `share`, once).

    Deviations:
        the limits of conjugate gradients and of Sinkhorn's rounds; any head in place of logistic
        regression, and on its own features; the classifier has no bias; 30 epochs of 30 times the
        rate, not 1000.
    """

    family = "semi-supervised"
    uses_unlabeled = True
    reads = "none"
    relabels = True
    needs_balanced_pool = True
    block_nodes = 5120  # of Sinkhorn's many small steps

    def __init__(
        self,
        k: int = 15,
        alpha: float = 0.8,
        tau: float = 3.0,
        stages: int = 10,
        balance: bool = True,
        share: float = 1.0,
        epochs: int = 30,
        lr: float = 3.0,
    ) -> None:
        super().__init__()
        require(
            k >= 1
            and stages >= 1
            and epochs >= 1
            and 0 <= alpha < 1
            and 0 < share <= 1
            and tau > 0
            and lr > 0,
            "ilpc.k, stages and epochs must be 1 or more, alpha in [0, 1), share in (0, 1], "
            "tau and lr above 0, "
            f"not {k}, {stages}, {epochs}, {alpha}, {share}, {tau} and {lr}",
        )
        self.k, self.alpha, self.tau, self.stages = k, alpha, tau, stages
        self.balance, self.share, self.epochs, self.lr = balance, share, epochs, lr
        self.needs_balanced_pool = balance or share < 1

    def forward(self, episode: Episode, scores: Tensor, head: Head) -> Tensor:
        """The head's scores (B, n, C) after the pool was labeled and cleaned."""
        if episode.n_unlabeled == 0:
            return scores
        with torch.no_grad():
            labels = self.labels(episode.parts(query=False))
        return last_layer(head.score(episode.label_pool(labels[:, episode.n_support :])))

    def labels(self, episode: Episode) -> Tensor:
        """Label weights (B, n, C) of support and pool, one-hot in the pool.

        Args:
            episode: of support and pool alone, without queries.
        """
        y, way = episode.w, present(episode.w)
        node = torch.arange(y.shape[1], device=y.device)
        pool = free = episode.mask & (node >= episode.n_support)
        taken = y.new_zeros(len(y), 1, y.shape[-1])  # nodes that a class has got
        v = centred(episode.x, episode.mask)
        gram = v @ v.mT  # the cosines, as nodes have length 1
        spread = propagator(self.graph(gram, episode.mask), self.alpha)
        for stage in range(1, self.stages + 1):
            left = quota(pool, way, 1.0) - taken
            p = self.balanced(spread(y), free, way, left)
            best = F.one_hot(p.argmax(-1), p.shape[-1]).bool() & free.unsqueeze(-1)
            if stage == 1 and self.share < 1:
                best = top_per_class(p.amax(-1), best, quota(pool, way, self.share))
                pool = free = best.any(-1)
            most: Tensor | float = float("inf")
            if stage < self.stages:
                most = quota(pool, way, stage / self.stages) - taken
            loss = self.loss(gram, y, best.to(y.dtype))
            picked = top_per_class(-loss, best, most).to(y.dtype)
            y = y + picked
            free = free & ~picked.any(-1)
            taken = taken + picked.sum(1, keepdim=True)
        return y

    def graph(self, cosines: Tensor, mask: Tensor) -> Tensor:
        """The graph W (B, n, n) of nodes, real where the mask is, with these cosines (B, n, n)."""
        a = cosines.clamp_min(0) ** 3 * pairs(mask)
        # Each a_ij that is kept for i alone counts once, for both twice: A + A^T.
        return symmetric(nearest(a, self.k) + nearest(a, self.k, mutual=True))

    def balanced(self, z: Tensor, free: Tensor, way: Tensor, left: Tensor) -> Tensor:
        """P: how probably each free node is of each class, when each gets what it lacks.

        Args:
            z: (B, n, C) what propagation says.
            free: (B, n) which nodes have no label yet.
            way: (B, C) which classes there are.
            left: (B, 1, C) how many nodes each class has still to get.

        Returns:
            (B, n, C)
        """
        log_p = self.tau * stochastic(z.clamp_min(0)).clamp_min(1e-12).log()
        if not self.balance:
            return log_p.masked_fill(~way.unsqueeze(1), float("-inf")).softmax(-1)
        rows = free.to(z.dtype)
        wanted = (left.clamp_min(0) * way.unsqueeze(1)).squeeze(1)
        columns = wanted * rows.sum(-1, keepdim=True) / or_one(wanted.sum(-1, keepdim=True))
        log_p = log_p.masked_fill((columns == 0).unsqueeze(1), -1e30)
        # One node alone would get the shares of the columns, whatever propagation says of it.
        several = rows.sum(-1, keepdim=True) > 1
        potential = potentials(log_p, rows, columns).where(several, 0)
        return rows.unsqueeze(-1) * (log_p + potential.unsqueeze(1)).softmax(-1)

    def loss(self, gram: Tensor, y: Tensor, guess: Tensor) -> Tensor:
        """How hard each label is to learn: its loss while a linear classifier W = A V trains.

        Args:
            gram: (B, n, n) V V^T of the features.
            y: (B, n, C) label weights that are settled; a node counts as much as it weighs.
            guess: (B, n, C) labels that are looked at.

        Returns:
            (B, n), the mean over the epochs.
        """
        # Classes stand before nodes: a CPU multiplies few long rows faster than few long columns.
        settled, given = y.mT.contiguous(), (y + guess).mT.contiguous()
        weight = given.sum(1, keepdim=True)
        target = given / or_one(weight)
        share = weight / or_one(weight.sum(-1, keepdim=True))
        absent = ~present(y).unsqueeze(-1)
        a = settled / settled.sum(-1, keepdim=True).clamp_min(1e-12)
        a = a / (a * (a @ gram)).sum(-1, keepdim=True).clamp_min(1e-12).sqrt()
        velocity, total = torch.zeros_like(a), torch.zeros_like(weight)
        for _ in range(self.epochs):
            log_p = (a @ gram).masked_fill(absent, float("-inf")).log_softmax(1)
            total = total - (target * log_p.where(target > 0, 0)).sum(1, keepdim=True)
            velocity = 0.9 * velocity + share * (log_p.exp() - target) + 5e-4 * a
            a = a - self.lr * velocity
        return total.squeeze(1) / self.epochs
