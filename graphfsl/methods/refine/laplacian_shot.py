"""LaplacianShot: Laplacian regularized few-shot learning.

Ziko, Dolz, Granger, Ben Ayed 2020, https://arxiv.org/abs/2006.15486
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from graphfsl.core.episode import Episode
from graphfsl.core.learner import Head, Refine
from graphfsl.io.errors import require

__all__ = ["LaplacianShot"]


class LaplacianShot(Refine):
    """Pull near queries towards the same class.

    Over assignments Y_q of the queries, a_qc what class c costs and w_qp = 1 where p is among the
    nearest of q,

        min_Y sum_qc Y_qc (a_qc - lambda/2 sum_p w_qp Y_pc + log Y_qc)

    by bound updates from softmax_c(-a_qc) on,

        Y_qc <- softmax_c(-a_qc + lambda sum_p w_qp Y_pc)

    The costs are minus the head's scores, so that it refines any head: with `simple_shot` or
    ProtoNet they are the paper's squared distances from the class means, with `refine: [{name:
    bd_cspn, scale: 2}, laplacian_shot]` those from rectified ones, as in its best results.

    Args:
        lam: lambda, which the authors choose on validation classes among 0.1 ... 1.5.
        k: how many queries are near by cosine, q itself, which is left out, being one of them.
        steps: bound updates.

    Shapes:
        forward: features (B, n, d), scores (B, n, C) -> scores (B, n, C), a query's being log Y_q
            up to a constant.

    Source:
        sections 2.1 to 2.3 and the authors' code: k 3, at most 20 updates.

    Deviations:
        always all updates, where the authors stop when nothing moves. Neighbours are those of the
        features as they come, where the authors subtract the mean of the base classes. Y is a
        constant for the gradient.
    """

    family = "transductive"
    transductive = True
    changes = "queries"
    compares_queries = True
    block_nodes = 2560

    def __init__(self, lam: float = 0.7, k: int = 3, steps: int = 20) -> None:
        super().__init__()
        require(
            lam >= 0 and k >= 2 and steps >= 1,
            f"laplacian_shot.lam, k, steps must be at least 0, 2, 1, not {lam}, {k}, {steps}",
        )
        self.lam, self.k, self.steps = lam, k, steps

    def forward(self, episode: Episode, scores: Tensor, head: Head) -> Tensor:
        """Scores (B, n, C) of which those of the queries are pulled towards their neighbours'."""
        q = episode.query
        if episode.n_query < 2:
            return scores
        near, real = self.neighbours(episode.x[:, q].detach(), episode.mask[:, q])

        def pull(y: Tensor) -> Tensor:
            """W Y, transposed: assignments (B, C, q) -> (B, C, q)."""
            rows = near.flatten(1).unsqueeze(1).expand(-1, y.shape[1], -1)
            of_near = y.gather(-1, rows).unflatten(-1, near.shape[1:])  # (B, C, k - 1, q)
            summed: Tensor = (of_near * real.unsqueeze(1)).sum(-2)
            return summed

        own = scores[:, q]
        a = -own.detach().masked_fill(own == float("-inf"), -1e30).mT
        pulled = self.lam * pull(self.updates(a, pull))
        return torch.cat([scores[:, : q.start], own + pulled.mT, scores[:, q.stop :]], 1)

    def updates(self, a: Tensor, pull: Callable[[Tensor], Tensor]) -> Tensor:
        """Assignments Y (B, C, q) before the last update, from costs a (B, C, q)."""
        y = (-a).softmax(1)
        for _ in range(self.steps - 1):
            y = (self.lam * pull(y) - a).softmax(1)
        return y

    def neighbours(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """The k - 1 nearest other queries of each query, by cosine.

        Args:
            x: (B, q, d) queries.
            mask: (B, q) which of them are real.

        Returns:
            Their places (B, k - 1, q), and 1 where there is such a neighbour, else 0 (B, k - 1, q).
        """
        dots = x @ x.mT
        # In a row, x_q . x_p / ||x_p|| has the order of the cosines.
        length = dots.diagonal(dim1=-2, dim2=-1).clamp_min(1e-24).sqrt().unsqueeze(-2)
        left = (dots / length).masked_fill_(~mask.unsqueeze(-2), float("-inf"))
        left.diagonal(dim1=-2, dim2=-1).fill_(float("-inf"))
        near, cosine = [], []
        for _ in range(min(self.k, x.shape[1]) - 1):  # a sort takes many times as long
            best = left.max(-1, keepdim=True)
            near.append(best.indices)
            cosine.append(best.values)
            left.scatter_(-1, best.indices, float("-inf"))
        there = torch.cat(cosine, -1).mT > float("-inf")
        return torch.cat(near, -1).mT.contiguous(), there.to(x.dtype)
