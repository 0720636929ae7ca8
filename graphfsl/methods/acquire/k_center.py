"""k-centre: a core set such that no sample is far from it.

Sener, Savarese 2018, https://arxiv.org/abs/1708.00489
"""

from __future__ import annotations

import torch
from torch import Tensor

from graphfsl.core.episode import Episode
from graphfsl.core.learner import Acquire
from graphfsl.functional.distances import squared_euclidean

__all__ = ["KCenter"]


class KCenter(Acquire):
    """Ask for the sample that is farthest from all that are labeled, again and again.

        u = argmax_i min_{j labeled} ||x_i - x_j||

    Shapes:
        forward: features (B, n, d), label weights (B, n, C), candidates (B, n) -> nodes (B, count).

    Source:
        algorithm 1, k-Center-Greedy.

    Deviations:
        the paper begins with labels. Without any, the first sample is the one farthest from the
        mean of the candidates. Its robust version, which solves a mixed-integer program, is left
        out.
    """

    def forward(
        self, episode: Episode, candidates: Tensor, scores: Tensor | None, count: int
    ) -> Tensor:
        """The nodes (B, count), each farthest from those before."""
        x = episode.x.flatten(2)
        d = squared_euclidean(x, x)
        labeled = (episode.w.sum(-1) > 0) & episode.mask
        apart = d.masked_fill(~labeled.unsqueeze(1), float("inf")).amin(-1)
        total = candidates.sum(-1)[:, None, None].clamp_min(1)
        mean = (x * candidates.unsqueeze(-1)).sum(1, keepdim=True) / total
        from_mean = squared_euclidean(x, mean).squeeze(-1)

        chosen = []
        for _ in range(count):
            far = apart.where(apart.isfinite(), from_mean).masked_fill(~candidates, -1)
            best = far.argmax(-1, keepdim=True)
            row = d.gather(1, best.unsqueeze(-1).expand(-1, -1, d.shape[-1])).squeeze(1)
            apart = torch.minimum(apart, row)
            candidates = candidates.scatter(1, best, False)
            chosen.append(best)
        return torch.cat(chosen, 1)
