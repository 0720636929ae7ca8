"""Propagation of a head's scores over the graph of support and pool.

Zhou et al. 2004 (local and global consistency),
https://proceedings.neurips.cc/paper/2003/hash/87682805257e619d49b8e0dfdc14affa-Abstract.html;
Poisson learning: Calder et al. 2020, https://arxiv.org/abs/2006.11184
"""

from __future__ import annotations

import torch
from torch import Tensor

from graphfsl.core.episode import Episode
from graphfsl.core.learner import Head, Refine
from graphfsl.functional.affinity import cosine_power, pairs
from graphfsl.functional.centring import centred
from graphfsl.functional.distances import cosine
from graphfsl.functional.knn import nearest
from graphfsl.functional.propagation import propagate, symmetric
from graphfsl.functional.prototypes import hide_absent
from graphfsl.functional.soft_kmeans import soft_assign
from graphfsl.functional.statistics import or_one
from graphfsl.io.errors import require, unknown

__all__ = ["LogitPropagation"]

ALMOST_ONE = 0.999
WEAK = 0.3


class LogitPropagation(Refine):
    """Propagate a head's labels and scores over the graph of support and pool.

    Y is the label weights on the support, t * softmax(scores) on the pool; the graph has A_ij =
    max(0, cos(v_i, v_j))^3 between k nearest neighbours, v the features around their mean. Either
    "closed" (Zhou et al., section 2), whose logarithm is the scores, or "poisson" (Calder et al.):

        closed:   F = (I - alpha S)^-1 Y,  S = D^-1/2 A D^-1/2
        poisson:  L F = Y - r y-,  L = D - A,  r the row sums of Y and y- its mean

    In the second all other edges of a node weigh together as much as WEAK edges of mean weight, so
    that no node is without one. A query is a leaf: it reads its k nearest nodes and its own Y, and
    no other node reads it, so that each is answered alone. An empty pool leaves the scores as they
    are.

    Args:
        method: "closed" or "poisson".
        k, alpha: as above.
        trust: what the head's probabilities weigh in the pool together, relative to the labels
            together, which gives t; 0 propagates the labels alone.

    Shapes:
        forward: features (B, n, d), scores (B, n, C) -> scores (B, n, C).

    Source:
        as above; the affinity is that of iLPC.

    Deviations:
        the head's probabilities as sources beside the labels; the weak edges of the second form, as
        few nodes make a graph that falls apart, where the sources of a component do not sum to zero
        and F has no bounds; L F = b is solved as D^1/2 (I - 0.999 S) D^1/2, which is regular; no
        correction for the class prior, which is uniform here.
    """

    family = "semi-supervised"
    uses_unlabeled = True

    def __init__(
        self, method: str = "closed", k: int = 10, alpha: float = 0.8, trust: float = 1.0
    ) -> None:
        super().__init__()
        if method not in ("closed", "poisson"):
            raise unknown("method", method, ("closed", "poisson"))
        require(
            k >= 1 and 0 <= alpha < 1 and trust >= 0,
            "logit_propagation.k must be 1 or more, alpha in [0, 1) and trust 0 or more, "
            f"not {k}, {alpha} and {trust}",
        )
        self.method, self.k, self.alpha, self.trust = method, k, alpha, trust
        self.reads = "all" if trust else "none"

    def forward(self, episode: Episode, scores: Tensor, head: Head) -> Tensor:
        """Log-scores (B, n, C) after propagation from the labels and the head's probabilities."""
        if episode.n_unlabeled == 0:
            return scores
        query = episode.query
        graph = episode.parts(query=False)  # support and pool
        sources = self.sources(episode, scores)
        on_graph = torch.cat([sources[:, : query.start], sources[:, query.stop :]], 1)
        a, near = self.affinities(episode, graph.mask)
        if self.method == "poisson":
            f, answer = self.poisson(*connected(a, near, graph.mask), on_graph, sources[:, query])
        else:
            f, answer = self.closed(a, near, on_graph, sources[:, query])
        k = query.start
        return hide_absent(torch.cat([f[:, :k], answer, f[:, k:]], 1), episode.w)

    def sources(self, episode: Episode, scores: Tensor) -> Tensor:
        """Y: label weights of the support, and elsewhere the head's probabilities.

        The probabilities weigh `trust` times as much as the labels, together.

        Returns:
            (B, n, C)
        """
        labels = episode.w[:, episode.support]
        pool = episode.mask[:, episode.unlabeled].sum(1).clamp_min(1)
        each = (self.trust * (labels.sum((1, 2)) / pool))[:, None, None]
        guess = each * soft_assign(scores, episode.mask)
        return torch.cat([labels, guess[:, episode.n_support :]], 1)

    def affinities(self, episode: Episode, mask: Tensor) -> tuple[Tensor, Tensor]:
        """How near the k nearest nodes of the graph are to each of its nodes and to queries.

        Args:
            episode: of features (B, n, d).
            mask: (B, m) which nodes of the graph, support and pool, are real.

        Returns:
            Affinities (B, m, m) of the graph's nodes, and (B, Q, m) of the queries to them.
        """
        queries = torch.zeros_like(episode.mask)
        queries[:, episode.query] = True
        v = centred(episode.x, episode.mask & ~queries)
        of_query = v[:, episode.query]
        of_graph = torch.cat([v[:, episode.support], v[:, episode.unlabeled]], 1)
        a = nearest(cosine_power(of_graph) * pairs(mask), self.k)
        near = cosine(of_query, of_graph).clamp_min(0) ** 3
        near = near.masked_fill(~mask.unsqueeze(1), 0)
        best = near.topk(min(self.k, near.shape[-1]), -1)
        return a, torch.zeros_like(near).scatter(-1, best.indices, best.values)

    def closed(self, a: Tensor, near: Tensor, y: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        """The limit of propagation in closed form.

        Args:
            a: (B, m, m) affinities of the graph's nodes.
            near: (B, Q, m) affinities of the queries to them.
            y: (B, m, C) sources of the graph's nodes.
            own: (B, Q, C) sources of the queries.

        Returns:
            Log-scores of the graph's nodes (B, m, C) and of the queries (B, Q, C).
        """
        f = propagate(symmetric(a), y, self.alpha)
        degree = or_one(a.sum(-1, keepdim=True))
        reach = or_one(near.sum(-1, keepdim=True))
        answer = own + self.alpha * (near / reach.sqrt()) @ (f / degree.sqrt())
        return f.clamp_min(1e-12).log(), answer.clamp_min(1e-12).log()

    def poisson(self, a: Tensor, near: Tensor, y: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        """The scores by Poisson learning; arguments and results are those of `closed`."""
        mean = y.sum(1, keepdim=True) / or_one(y.sum((1, 2), keepdim=True))
        source = y - y.sum(-1, keepdim=True) * mean
        own_source = own - own.sum(-1, keepdim=True) * mean
        root = or_one(a.sum(-1, keepdim=True)).sqrt()
        f = propagate(symmetric(a), source / root, ALMOST_ONE) / root
        reach = or_one(near.sum(-1, keepdim=True))
        return f, (own_source + near @ f) / reach


def connected(a: Tensor, near: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Affinities with weak edges between all real nodes added, so that no node stands alone.

    Args:
        a: (B, m, m) of the graph.
        near: (B, Q, m) of the queries to it.
        mask: (B, m) which nodes of the graph are real.

    Returns:
        Both with the weak edges, of the same shapes.
    """
    mean = a.sum((1, 2), keepdim=True) / (a > 0).sum((1, 2), keepdim=True).clamp_min(1)
    weak = WEAK * mean / mask.sum(-1).clamp_min(1)[:, None, None]
    return a + weak * pairs(mask), near + weak * mask.unsqueeze(1)
