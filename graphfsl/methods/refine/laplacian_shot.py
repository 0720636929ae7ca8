"""LaplacianShot: Laplacian regularized few-shot learning. Ziko, Dolz, Granger, Ben Ayed 2020,
https://arxiv.org/abs/2006.15486"""

from __future__ import annotations

import torch
from torch import Tensor

from graphfsl.episode import Episode
from graphfsl.errors import InputError
from graphfsl.functional.affinity import pairs
from graphfsl.functional.distances import cosine
from graphfsl.learner import Head, Refine

__all__ = ["LaplacianShot"]


class LaplacianShot(Refine):
    """min_Y sum_qc Y_qc (a_qc - lambda/2 sum_p w_qp Y_pc + log Y_qc)  over assignments Y_q of the queries, a_qc what
    class c costs and w_qp = 1 where p is among the nearest of q; by bound updates from softmax_c(-a_qc) on,

        Y_qc <- softmax_c(-a_qc + lambda sum_p w_qp Y_pc).

    The costs are minus the head's scores, so that it refines any head: with `simple_shot` or ProtoNet they are the
    paper's squared distances from the class means, with `refine: [{name: bd_cspn, scale: 2}, laplacian_shot]` those
    from rectified ones, as in its best results.
    lam: lambda, which the authors choose on validation classes among 0.1 ... 1.5. k: how many queries are near by
        cosine, q itself, which is left out, being one of them. steps: bound updates.

    forward: features (B, n, d), scores (B, n, C) -> scores (B, n, C), a query's being log Y_q up to a constant.
    Source: sections 2.1 to 2.3 and the authors' code: k 3, at most 20 updates.
    Deviations: always all updates, where the authors stop when nothing moves. Neighbours are those of the features as
    they come, where the authors subtract the mean of the base classes. Y is a constant for the gradient.
    """

    family = "transductive"
    transductive = True
    block_nodes = 2560

    def __init__(self, lam: float = 0.7, k: int = 3, steps: int = 20) -> None:
        super().__init__()
        if lam < 0 or k < 1 or steps < 0:
            raise InputError(f"laplacian_shot.lam and steps must be 0 or more and k 1 or more, not {lam}, {steps}, {k}")
        self.lam, self.k, self.steps = lam, k, steps

    def forward(self, episode: Episode, scores: Tensor, head: Head) -> Tensor:
        q = episode.query
        if episode.n_query < 2:
            return scores
        w = self.neighbours(episode.x[:, q].detach(), episode.mask[:, q])
        a = -scores[:, q].detach().masked_fill(scores[:, q] == float("-inf"), -1e30).mT
        pull = torch.zeros_like(a)
        for _ in range(self.steps):
            pull = self.lam * (pull - a).softmax(-2) @ w.mT
        return torch.cat([scores[:, : q.start], scores[:, q] + pull.mT, scores[:, q.stop :]], 1)

    def neighbours(self, x: Tensor, mask: Tensor) -> Tensor:
        """w_qp, not symmetric, of queries x (B, q, d) of which those of the mask (B, q) are real -> (B, q, q)."""
        others = pairs(mask)
        left = near = cosine(x, x).masked_fill(~others, float("-inf"))
        best = left.new_full((), float("inf"))
        for _ in range(min(self.k, x.shape[1]) - 1):  # a sort takes many times as long
            best = left.amax(-1, keepdim=True)
            left = left.masked_fill(left == best, float("-inf"))
        return ((near >= best) & others).to(x.dtype)
