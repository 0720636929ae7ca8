"""Propagation of a head's probabilities over the graph of each query image's own cells.

The propagation is that of Zhou et al. 2004, "Learning with Local and Global Consistency",
https://proceedings.neurips.cc/paper/2003/hash/87682805257e619d49b8e0dfdc14affa-Abstract.html;
that it runs over one query image, and from probabilities in place of labels, is ours.
"""

from __future__ import annotations

import torch
from torch import Tensor

from graphfsl.core.episode import Episode
from graphfsl.core.learner import Head, Refine
from graphfsl.functional.centring import centred
from graphfsl.functional.knn import cosine_neighbors
from graphfsl.functional.neighbors import nearest_neighbors
from graphfsl.functional.propagation import propagate, stochastic, symmetric
from graphfsl.functional.prototypes import hide_absent
from graphfsl.functional.soft_kmeans import soft_assign
from graphfsl.functional.sparse_propagation import (
    both_ways,
    propagate_sparse,
    symmetric_sparse,
)
from graphfsl.io.errors import require

__all__ = ["OwnGraph"]
DENSE = 2500  # cells up to which the graph of an image is dense, 25 MB


class OwnGraph(Refine):
    """Propagate the head's probabilities over the graph of each query image's own cells.

    P are the probabilities of one image's cells by the head; the graph has A_ij = max(0, cos(v_i,
    v_j))^3 between k nearest cells, v the features around their mean in that image:

        F = (I - alpha S)^-1 P,  S = D^-1/2 A D^-1/2

    and the logarithm of F with rows scaled to sum one is the scores. No image reads another, so
    that it is inductive. A query that is a single node has no graph and keeps its scores.

    Args:
        k: nearest cells of each cell.
        alpha: how far probabilities spread, in [0, 1).

    Shapes:
        forward: features (B, n, d), scores (B, n, C) -> scores (B, n, C).

    Source:
        as above.

    Deviations:
        the sources are probabilities of a head, in every cell; there are no labeled nodes.
    """

    def __init__(self, k: int = 10, alpha: float = 0.9) -> None:
        super().__init__()
        require(
            k >= 1 and 0 <= alpha < 1,
            f"own_graph.k must be 1 or more and alpha in [0, 1), not {k} and {alpha}",
        )
        self.k, self.alpha = k, alpha

    def forward(self, episode: Episode, scores: Tensor, head: Head) -> Tensor:
        """Log-probabilities (B, n, C) of query cells after propagation; others as they are."""
        cells = episode.cells_per_image
        if cells == 1:
            return scores
        query = episode.query
        x = episode.x[:, query].unflatten(1, (-1, cells)).flatten(0, 1)  # of each image
        p = soft_assign(scores, episode.mask)[:, query].unflatten(1, (-1, cells)).flatten(0, 1)
        f = self.spread(x, p).clamp_min(0)
        answer = stochastic(f).clamp_min(1e-12).log()
        answer = answer.unflatten(0, (len(scores), -1)).flatten(1, 2)
        k = query.start
        whole = torch.cat([scores[:, :k], answer.to(scores), scores[:, query.stop :]], 1)
        return hide_absent(whole, episode.w)

    def spread(self, x: Tensor, p: Tensor) -> Tensor:
        """F of the images' cells.

        Args:
            x: (M, cells, d) features of M images.
            p: (M, cells, C) probabilities.

        Returns:
            (M, cells, C); of more than DENSE cells by a sparse graph, without a derivative.
        """
        real = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
        v = centred(x, real)
        if x.shape[1] <= DENSE:
            return propagate(symmetric(cosine_neighbors(v, real, self.k)), p, self.alpha)
        return torch.stack([self._sparse(one, q) for one, q in zip(v, p, strict=True)])

    @torch.no_grad()
    def _sparse(self, v: Tensor, p: Tensor) -> Tensor:
        """F (cells, C) of one image by a sparse graph: memory grows with its cells alone."""
        found = nearest_neighbors(v.float().cpu().numpy(), self.k)
        index = torch.from_numpy(found.index).to(v.device)
        affinity = torch.from_numpy(found.cosine).to(v).clamp_min(0) ** 3
        start = torch.arange(len(v), device=v.device)[:, None].expand_as(index)
        # an edge that both ends name is one edge, as in the dense graph
        names = torch.minimum(start, index) * len(v) + torch.maximum(start, index)
        edges, at = names.flatten().unique(return_inverse=True)
        weight = affinity.new_zeros(len(edges)).scatter(0, at, affinity.flatten())
        ends = torch.stack([edges // len(v), edges % len(v)])
        s = symmetric_sparse(both_ways(ends, weight, len(v)))
        return propagate_sparse(s, p, self.alpha)
