"""BD-CSPN: prototype rectification.

Liu, Song, Qin 2020, https://arxiv.org/abs/1911.10713
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

from graphfsl.core.episode import Episode
from graphfsl.core.learner import Head, Refine
from graphfsl.functional.prototypes import hide_absent, present, prototypes
from graphfsl.functional.selection import log_odds, top_per_class
from graphfsl.functional.statistics import or_one
from graphfsl.io.errors import require, unknown

__all__ = ["BDCSPN"]


class BDCSPN(Refine):
    """Move queries towards the support, and class means towards the surest queries.

    On features of length one, with the basic prototypes P_c, the means of the support of each
    class,

        xi = mean(S) - mean(Q),  X'_q = X_q + xi                  against the cross-class bias
        w_ic = exp(eps cos(X'_i, P_c)) / sum_j exp(eps cos(X'_j, P_c))
        P'_c = sum_i w_ic X'_i                                    against the intra-class bias
        s_c(q) = scale * cos(X'_q, P'_c)

    the sums being over the support of c and the Z queries that are most surely of c. Label weights
    count in the means of the support, the one of all classes among them.

    Args:
        eps: how much more a node that is near to P_c counts.
        most: Z, of the queries whose nearest prototype is P_c; null takes them all.
        over: "nodes", as above, or "classes": w_ic is the softmax over classes, a node's
            probability of c, and P'_c the mean with these weights, as in the code of
            LaplacianShot's authors (eps 10, Z null).
        scale: of the cosine, which changes no answer; 2 makes of the scores minus the squared
            distances of vectors of length one, which is what `laplacian_shot` takes.

    Shapes:
        forward: features (B, n, d), label weights (B, n, C) -> scores (B, n, C), whatever the
            head's are.

    Source:
        section 3, Z 8. xi takes the queries for a mixture of the support's classes in its shares
        (`needs_balance`; experiments/ablations/cifarfs_transductive.yaml measures the cost). A
        class may have no query.

    Deviations:
        eps is 1, chosen on training classes of CIFAR-FS; at the paper's 10 the one node of a class
        with one shot, which is its own prototype, outweighs all queries. A query alone is not
        shifted: it would land on the mean of the support. easyfsl's BDCSPN has others: lengths as
        they come, all queries of a class, which are shifted for P', not for the answer.
    """

    family = "transductive"
    transductive = True
    needs_balance = True
    reads_scores = False
    block_nodes = 2560

    def __init__(
        self, eps: float = 1.0, scale: float = 10.0, most: int | None = 8, over: str = "nodes"
    ) -> None:
        super().__init__()
        require(
            eps >= 0 and scale > 0 and (most is None or most >= 0),
            "bd_cspn.eps must be 0 or more, scale above 0 and most 0 or more, or null, "
            f"not {eps}, {scale} and {most}",
        )
        if over not in ("nodes", "classes"):
            raise unknown("bd_cspn.over", over, ("nodes", "classes"))
        self.eps, self.scale, self.most, self.over = eps, scale, most, over

    def forward(self, episode: Episode, scores: Tensor, head: Head) -> Tensor:
        """Scaled cosines (B, n, C) to the rectified prototypes; the head's scores are not read."""
        labels = episode.w[:, episode.support]
        shifted = Shifted.without_cross_class_bias(episode)
        basic = F.normalize(shifted.means(labels), dim=-1)  # the support is not moved

        # support and queries make the prototypes
        cos = shifted.cosines(basic)[:, : episode.query.stop]
        cos = cos.masked_fill(~present(labels).unsqueeze(1), -1e30)  # 0 * -inf is no number
        guess = self.pseudo_labels(cos[:, episode.query], episode.mask[:, episode.query])
        weight = torch.cat([labels, guess], 1) * self.relevance(cos)
        rectified = F.normalize(shifted.means(weight), dim=-1)

        return hide_absent(self.scale * shifted.cosines(rectified), episode.w)

    def relevance(self, cos: Tensor) -> Tensor:
        """How much nodes of these cosines (B, m, C) count; a class's common factor is free."""
        if self.over == "classes":
            return (self.eps * cos).softmax(-1)
        return (self.eps * (cos - 1)).exp()

    def pseudo_labels(self, cos: Tensor, real: Tensor) -> Tensor:
        """Which class a query joins.

        Args:
            cos: (B, Q, C) cosines to the basic prototypes.
            real: (B, Q) which queries are real.

        Returns:
            Label weights (B, Q, C), one-hot or zero.
        """
        nearest = (cos == cos.amax(-1, keepdim=True)) & real.unsqueeze(-1)
        if self.most is not None:
            nearest = top_per_class(log_odds(cos), nearest, float(self.most))
        return nearest.to(cos.dtype)


@dataclass(frozen=True)
class Shifted:
    """Nodes X'_i = z_i + m_i xi, z_i = x_i / |x_i| of length one, some of them moved by xi.

    Neither X' nor z is made: they are as large as the features, which takes longer than all else.
    Whatever is asked of X' is that of x over |x|, and m times that of xi.

    Args:
        x: (B, n, d) features.
        norm: (B, n, 1) their lengths |x_i|; z is zero where x is.
        moves: (B, n, 1) m_i, one for nodes that are moved and zero for the others.
        xi: (B, 1, d) by what they are moved.
    """

    x: Tensor
    norm: Tensor
    moves: Tensor
    xi: Tensor

    @classmethod
    def without_cross_class_bias(cls, episode: Episode) -> Shifted:
        """Move queries by xi = mean(S) - mean(Q), unless there is but one."""
        x = episode.x
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        real = episode.mask.unsqueeze(-1).to(x.dtype)
        support, query = episode.support, episode.query
        weight = episode.w[:, support].sum(-1, keepdim=True)  # a generated node weighs less
        mean_support = unit_means(x[:, support], norm[:, support], weight)
        mean_query = unit_means(x[:, query], norm[:, query], real[:, query])
        moves = torch.zeros_like(real)
        moves[:, query] = (real[:, query].sum(1, keepdim=True) > 1).to(x.dtype)
        return cls(x, norm, moves, mean_support - mean_query)

    def means(self, w: Tensor) -> Tensor:
        """Class means (B, C, d) of the first m nodes, which have the weights w (B, m, C)."""
        first = slice(0, w.shape[1])
        moved = prototypes(self.moves[:, first], w)  # (B, C, 1): the mean m of a class
        return unit_means(self.x[:, first], self.norm[:, first], w) + moved * self.xi

    def cosines(self, p: Tensor) -> Tensor:
        """Cosines (B, n, C) with directions p (B, C, d) of length one."""
        return self.products(p) / self.length

    def products(self, p: Tensor) -> Tensor:
        """X' . p (B, n, C) for p (B, C, d)."""
        unmoved = (p @ self.x.mT).mT / or_one(self.norm)  # p in front is quicker, since it is small
        return unmoved + self.moves * (self.xi @ p.mT)

    @cached_property
    def length(self) -> Tensor:
        """|X'| (B, n, 1), from |X'|^2 = |z|^2 + m (2 X' . xi - |xi|^2).

        It is not below the rounding of its square, so that a node that is moved onto zero has
        cosines near zero.
        """
        change = 2 * self.products(self.xi) - self.xi @ self.xi.mT
        square = (self.norm > 0) + self.moves * change
        return square.clamp_min(torch.finfo(square.dtype).eps).sqrt()


def unit_means(x: Tensor, norm: Tensor, w: Tensor) -> Tensor:
    """Class means (B, C, d) of x / |x|: x (B, n, d), norm (B, n, 1), weights w (B, n, C)."""
    total = w.sum(1).unsqueeze(-1)
    return (w / or_one(norm)).mT @ x / or_one(total)
