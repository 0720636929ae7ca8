"""Support and pool as one graph, and what it tells of each pool node, whatever the pool's size."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from graphfsl.functional.affinity import cosine_power, pairs
from graphfsl.functional.centring import centred
from graphfsl.functional.knn import nearest
from graphfsl.functional.pool_statistics import entropy, moments, place_among
from graphfsl.functional.propagation import stochastic, symmetric
from graphfsl.functional.prototypes import present
from graphfsl.functional.selection import two_best
from graphfsl.functional.statistics import or_one

STATISTICS = 31  # numbers that are told of a node
MEANS_SCALE = 10.0  # of cosines to class means, whose softmax is their probability


@dataclass(frozen=True)
class Reading:
    """What a round finds out about a pool's nodes.

    Args:
        log_p: (B, U, C) of propagation, minus infinity for absent classes.
        cosines: (B, U, C) to the class means, 0 for absent classes.
        best: (B, U) the most probable class.
        statistics: (B, U, STATISTICS) that a gate reads.
    """

    log_p: Tensor
    cosines: Tensor
    best: Tensor
    statistics: Tensor


@dataclass(frozen=True)
class TaskPoolGraph:
    """The graph of support and pool of B tasks, n = k + U nodes each.

    Args:
        labels: (B, k, C) label weights of the support.
        mask: (B, n) which nodes are real.
        cosines: (B, n, n) of the features.
        affinity: (B, n, n) between nearest neighbours, of the features around their mean.
        factor: (B, n, n) the Cholesky factor of I - alpha S.
        nearness: (B, n) the mean affinity of a node to its nearest others in the pool.
    """

    labels: Tensor
    mask: Tensor
    cosines: Tensor
    affinity: Tensor
    factor: Tensor
    nearness: Tensor

    @classmethod
    def of(cls, x: Tensor, labels: Tensor, mask: Tensor, k: int, alpha: float) -> TaskPoolGraph:
        """The graph of features (B, n, d), k nearest neighbours each."""
        support = labels.shape[1]
        z = F.normalize(x, dim=-1)
        every = cosine_power(centred(x, mask)) * pairs(mask)
        to_pool = every[..., support:]
        closest = to_pool.topk(min(k, to_pool.shape[-1]), -1).values
        itself = torch.arange(x.shape[1], device=x.device) >= support  # a node of the pool is in it
        others = (mask[:, support:].sum(1, keepdim=True) - itself.long()).clamp(1, k)
        affinity = nearest(every, k)
        eye = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
        factor = torch.linalg.cholesky_ex(eye - alpha * symmetric(affinity)).L
        return cls(labels, mask, z @ z.mT, affinity, factor, closest.sum(-1) / others)

    @property
    def real(self) -> Tensor:
        """(B, U) which nodes of the pool are real."""
        return self.mask[:, self.labels.shape[1] :]

    @property
    def degree(self) -> Tensor:
        """(B, n)."""
        return self.affinity.sum(-1)

    @property
    def root_degree(self) -> Tensor:
        """(B, n), one for a node without edges."""
        return or_one(self.degree).sqrt()

    def propagate(self, weights: Tensor) -> Tensor:
        """F (B, n, C) of the support's labels and the pool's weights (B, U, C), per label mass."""
        w = torch.cat([self.labels, weights], 1)
        return torch.cholesky_solve(w, self.factor) / or_one(w.sum(1, keepdim=True))

    def class_cosines(self, nodes: Tensor, w: Tensor) -> Tensor:
        """Cosines (B, m, C) to the class means of weights w (B, n, C).

        Args:
            nodes: (B, m, n) cosines of the m nodes to those of the graph.
            w: (B, n, C) label weights.
        """
        squares = (w * (self.cosines @ w)).sum(1, keepdim=True)
        return (nodes @ w) / squares.clamp_min(1e-12).sqrt()

    def read(self, weights: Tensor) -> Reading:
        """What propagation and class means say of the pool whose weights (B, U, C) are these."""
        support = self.labels.shape[1]
        f = self.propagate(weights)[:, support:]
        p = stochastic(f.clamp_min(0))
        absent = ~present(self.labels).unsqueeze(1)
        log_p = p.clamp_min(1e-9).log().masked_fill(absent, float("-inf"))
        w = torch.cat([self.labels, weights], 1)
        cosines = self.class_cosines(self.cosines[:, support:], w)
        by_means = (
            (MEANS_SCALE * cosines).masked_fill(absent, float("-inf")).softmax(-1).nan_to_num(0)
        )
        # Without weights in the pool the means are of the support alone, and say less than P.
        weighed = (weights.sum((1, 2), keepdim=True) > 0).to(p.dtype)
        joint = stochastic(p * (by_means * weighed + 1 - weighed))
        mass = (f.sum(-1) / self.root_degree[:, support:]).clamp_min(1e-9).log()
        best = joint.argmax(-1)
        statistics = self.statistics(joint, by_means, cosines.masked_fill(absent, -1), mass, best)
        return Reading(log_p, cosines, best, statistics)

    def statistics(
        self, p: Tensor, by_means: Tensor, cosines: Tensor, mass: Tensor, best: Tensor
    ) -> Tensor:
        """The numbers (B, U, STATISTICS) by which a gate judges a node.

        They are of the node, places and deviations among the pool's nodes, and shape and means of
        the whole pool: a pool twice as large is the same pool. The number of its nodes enters as a
        logarithm, by which what more neighbours change can be learned.

        Args:
            p: (B, U, C) probabilities of classes.
            by_means: (B, U, C) the same of the class means alone.
            cosines: (B, U, C) to the class means, -1 for absent classes.
            mass: (B, U) the logarithm of what has reached a node over the root of its degree.
            best: (B, U) the most probable class.
        """
        support, real = self.labels.shape[1], self.real
        classes = present(self.labels)
        way = classes.sum(-1, keepdim=True).clamp_min(1)

        def of_best(t: Tensor) -> Tensor:
            return t.gather(-1, best.unsqueeze(-1)).squeeze(-1)

        top, second = two_best(p)
        closest = cosines.amax(-1)
        near, degree = self.nearness, self.degree[:, support:]
        # A class whose support lies less densely in the pool than the pool itself is hardly there.
        of_support = place_among(near[:, :support], near[:, support:], real).unsqueeze(-1)
        of_class = (of_support * self.labels).sum(1) / or_one(self.labels.sum(1))
        there = of_class.where(classes, 0)
        between = self.between_classes(classes, way)
        neighbours = stochastic(self.affinity[:, support:, support:] @ (p * real.unsqueeze(-1)))

        standard_mass, of_mass = moments(mass, real)
        standard_closest, of_closest = moments(closest, real)
        standard_degree, of_degree = moments(degree, real)
        _, of_top = moments(top, real)
        share = (p * real.unsqueeze(-1)).sum(1) / real.sum(1, keepdim=True).clamp_min(1)
        per_node = [
            standard_mass,
            place_among(mass, mass, real),
            top,
            top - second,
            entropy(p),
            closest,
            standard_closest,
            place_among(closest, closest, real),
            standard_degree,
            of_best(neighbours),
            of_best(by_means),
            of_class.gather(1, best),
            closest - between,
            place_among(near[:, support:], near[:, support:], real),
        ]
        per_pool = [
            of_mass[:, 1:3],
            of_mass[:, 3:].clamp_max(20),
            real.sum(1, keepdim=True).clamp_min(1).log().to(p.dtype),
            (self.labels.sum((1, 2)).unsqueeze(1) / way).clamp_min(1e-2).log(),
            of_top[:, :2],
            of_closest[:, :3],
            entropy(share).unsqueeze(1),
            of_degree[:, :2],
            there.sum(-1, keepdim=True) / way,
            of_class.masked_fill(~classes, float("inf")).amin(-1, keepdim=True).clamp_max(1),
            there.amax(-1, keepdim=True),
            between,
        ]
        whole = torch.cat(per_pool, -1).unsqueeze(1).expand(-1, p.shape[1], -1)
        return torch.cat([torch.stack(per_node, -1), whole], -1)

    def between_classes(self, classes: Tensor, way: Tensor) -> Tensor:
        """The mean cosine (B, 1) of two class means of the support."""
        support = self.labels.shape[1]
        own = self.cosines[:, :support, :support]
        products = self.labels.mT @ own @ self.labels
        length = products.diagonal(dim1=-2, dim2=-1).clamp_min(1e-12).sqrt()
        of_two = products / (length.unsqueeze(-1) * length.unsqueeze(-2))
        of_two = of_two * pairs(classes)
        return of_two.sum((-1, -2)).unsqueeze(-1) / (way * (way - 1)).clamp_min(1)
