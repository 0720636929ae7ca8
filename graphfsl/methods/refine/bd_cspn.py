"""BD-CSPN: prototype rectification.

Liu, Song, Qin 2020, https://arxiv.org/abs/1911.10713
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from graphfsl.core.episode import Episode
from graphfsl.core.learner import Head, Refine
from graphfsl.functional.distances import length
from graphfsl.functional.prototypes import hide_absent, present, prototypes
from graphfsl.functional.selection import log_odds, top_per_class
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

    the sums being over the support of c and the Z queries that are most surely of c.

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
        fitted = slice(0, episode.query.stop)  # support and queries make the prototypes
        z = F.normalize(episode.x, dim=-1)
        shifted = self.without_cross_class_bias(z, episode)
        size = length(shifted)
        basic = F.normalize(prototypes(z[:, episode.support], labels), dim=-1)

        cos = (shifted @ basic.mT / size)[:, fitted]
        cos = cos.masked_fill(~present(labels).unsqueeze(1), -1e30)  # 0 * -inf is no number
        guess = self.pseudo_labels(cos[:, episode.query], episode.mask[:, episode.query])
        weight = torch.cat([labels, guess], 1) * self.relevance(cos)
        rectified = F.normalize(prototypes(shifted[:, fitted], weight), dim=-1)

        return hide_absent(self.scale * (shifted @ rectified.mT / size), episode.w)

    def without_cross_class_bias(self, z: Tensor, episode: Episode) -> Tensor:
        """Move queries by xi = mean(S) - mean(Q), unless there is but one: X' (B, n, d)."""
        real = episode.mask.unsqueeze(-1).to(z.dtype)
        support, query = episode.support, episode.query
        xi = prototypes(z[:, support], real[:, support]) - prototypes(z[:, query], real[:, query])
        moves = torch.zeros_like(real)
        moves[:, query] = (real[:, query].sum(1, keepdim=True) > 1).to(z.dtype)
        return torch.baddbmm(z, moves, xi)

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
