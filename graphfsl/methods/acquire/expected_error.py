"""Expected error reduction on a graph, with harmonic functions.

Zhu, Lafferty, Ghahramani 2003, Combining Active Learning and Semi-Supervised Learning Using
Gaussian Fields and Harmonic Functions,
https://pages.cs.wisc.edu/~jerryzhu/pub/zglactive.pdf
"""

from __future__ import annotations

import torch
from torch import Tensor

from graphfsl.core.episode import Episode
from graphfsl.core.learner import Acquire
from graphfsl.functional.affinity import pairs
from graphfsl.functional.knn import cosine_neighbors
from graphfsl.functional.selection import shuffled
from graphfsl.functional.statistics import total_or_one
from graphfsl.io.errors import require

__all__ = ["ExpectedError"]

WEAK = 1e-3  # of edges between all nodes, in mean degrees: none is out of reach


class ExpectedError(Acquire):
    """Ask for the sample whose label leaves the least error to be expected.

        f_u = L_uu^-1 W_ul f_l,  L = D - W
        f^{+(i,c)}_u = f_u + (e_c - f_i) (L_uu^-1)_ui / (L_uu^-1)_ii
        R(i) = sum_c f_ic sum_j (1 - max_c' f^{+(i,c)}_jc')
        i = argmin_i R(i)

    f are the harmonic functions of the labels, probabilities of the classes. f^{+(i,c)} is what
    they would be if i turned out to be of class c, without solving anew. Where the support names no
    classes, the first samples are drawn at random, until each column of the label weights has a
    label.

    Args:
        k: neighbours of a sample in the graph, whose edges weigh max(0, cos)^3.
        among: how many candidates are looked at for each label, drawn at random; null for all.
        batch: samples of a round, after which f is that of all their labels.
        seed: of what is drawn at random.

    Shapes:
        forward: features (B, n, d), label weights (B, n, C), candidates (B, n) -> nodes (B, count).

    Source:
        equations 2, 8 and 10 to 12, for more than two classes.

    Deviations:
        the graph is that of `coverage`, not a Gaussian of all pairs; weak edges join all nodes, so
        that L_uu has an inverse. The paper looks at all candidates, and begins with a label of each
        class.
    """

    by_place = True

    def __init__(self, k: int = 10, among: int | None = 50, batch: int = 1, seed: int = 0) -> None:
        super().__init__()
        require(
            min(k, batch) >= 1 and (among is None or among >= 1),
            f"expected_error takes k, among and batch of 1 or more, not {k}, {among} and {batch}",
        )
        self.k, self.among, self.seed = k, among, seed
        self.batch: int = batch

    def risk(self, episode: Episode, mask: Tensor, rows: Tensor) -> Tensor:
        """R(i) (B, m) of the nodes i in `rows` (B, m), over the nodes of a mask (B, n)."""
        f, inverse = self.harmonic(episode, mask)
        way = episode.way
        unknown = ((episode.w.sum(-1) == 0) & mask).to(f.dtype).unsqueeze(1)
        column = inverse.gather(1, rows.unsqueeze(-1).expand(-1, -1, f.shape[1]))  # (B, m, n)
        own = column.gather(2, rows.unsqueeze(-1))
        reach = (column / own.clamp_min(torch.finfo(f.dtype).tiny)).unsqueeze(-1)
        f_i = f.gather(1, rows.unsqueeze(-1).expand(-1, -1, way))  # (B, m, C)

        total = torch.zeros_like(f_i[..., 0])
        for c in range(way):
            change = -f_i
            change[..., c] += 1
            after = (f.unsqueeze(1) + change.unsqueeze(2) * reach).amax(-1)
            total = total + f_i[..., c] * ((1 - after) * unknown).sum(-1)
        return total

    def harmonic(self, episode: Episode, mask: Tensor) -> tuple[Tensor, Tensor]:
        """f (B, n, C) of all nodes, and (L_uu)^-1 (B, n, n), zero for labeled and padding."""
        w = cosine_neighbors(episode.x.flatten(2), mask, self.k)
        real = mask.sum(-1).clamp_min(1)[:, None, None]
        degree = w.sum((1, 2), keepdim=True) / real
        w = w + WEAK * degree.clamp_min(torch.finfo(w.dtype).eps) / real * pairs(mask)

        y = episode.w / total_or_one(episode.w)
        free = ((episode.w.sum(-1) == 0) & mask).to(w.dtype)
        free_pair = free.unsqueeze(-1) * free.unsqueeze(-2)
        laplacian = torch.diag_embed(w.sum(-1)) - w
        among_free = laplacian * free_pair + torch.diag_embed(1 - free)
        inverse = torch.linalg.inv_ex(among_free)[0] * free_pair
        return y + inverse @ (w @ y), inverse

    def forward(
        self, episode: Episode, candidates: Tensor, scores: Tensor | None, count: int
    ) -> Tensor:
        """The nodes (B, count) of the least risk; of more than one the labels are not awaited."""
        at_random = shuffled(candidates, self.seed)
        m = max(count, min(self.among or candidates.shape[1], candidates.shape[1]))
        drawn = at_random.topk(m, -1)
        risk = self.risk(episode, self.pool_of(episode, candidates), drawn.indices).masked_fill(
            drawn.values < 0, torch.inf
        )
        best = drawn.indices.gather(1, risk.topk(count, -1, largest=False).indices)
        if episode.n_support:  # which classes there are is known
            return best
        seen = (episode.w.sum(1) > 0).all(-1)
        return best.where(seen[:, None], drawn.indices[:, :count])
