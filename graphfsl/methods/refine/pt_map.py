"""PT-MAP: power transform and maximum a posteriori.

Hu, Gripon, Pateux 2021, https://arxiv.org/abs/2006.03806
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from graphfsl.core.episode import Episode
from graphfsl.core.learner import Head, Refine
from graphfsl.functional.distances import squared_euclidean
from graphfsl.functional.prototypes import hide_absent, prototypes
from graphfsl.functional.sinkhorn import balance
from graphfsl.io.errors import require

__all__ = ["PTMAP"]

COLD, WARM = 12, 5  # steps of Newton's method for v, from scratch and from the last epoch's v


class PTMAP(Refine):
    """Make features more Gaussian, then move class centres by balanced optimal transport.

        x = (f + 1e-6)^power / ||(f + 1e-6)^power||

    less its mean and of length one again, the support, by its label weights, and the queries each
    by themselves. From the class means mu_c on, `steps` times,

        P = Sinkhorn(exp(-lam ||x_q - mu_c||^2)) with rows of sum 1 and columns of sum Q / C
        mu_c <- mu_c + alpha (sum_i P_ic x_i / sum_i P_ic - mu_c)

    with P = y on the support; a last P gives the answer.

    Args:
        power: beta, of the transform.
        steps: epochs.
        lam: lambda.
        alpha: how far a center moves.
        share: 1 for columns of equal sums, the paper's; below 1 they lie between those and the sums
            of the softmax of -lam ||x_q - mu_c||^2, which is soft k-means at 0, and it no longer
            `needs_balance`.

    Shapes:
        forward: features (B, n, d) that are not negative, label weights (B, n, C) -> scores (B, n,
            C), whatever the head's are; the softmax of a query's scores is its row of P.

    Source:
        algorithm 1 and the authors' code: power 0.5, 20 epochs, lambda 10, alpha 0.2.

    Deviations:
        none in the solution. The centers stay in the span of the nodes, mu = A x, so that A alone
        is iterated, where the authors reduce the dimension by QR; the limit of Sinkhorn's rounds
        comes from Newton's method, which goes on from epoch to epoch. A and v are constants for the
        gradient. One query alone is neither centered nor balanced. A negative feature, as an
        augmentation may make it, counts as zero; cached features with such ones are refused.
    """

    family = "transductive"
    transductive = True
    needs_balance = True
    needs_nonnegative = True
    reads_scores = False
    block_nodes = 10240

    def __init__(
        self,
        power: float = 0.5,
        steps: int = 20,
        lam: float = 10.0,
        alpha: float = 0.2,
        share: float = 1.0,
    ) -> None:
        super().__init__()
        require(
            power > 0 and lam > 0 and steps >= 0 and 0 < alpha <= 1 and 0 <= share <= 1,
            "pt_map.power and lam must be above 0, steps 0 or more, alpha in (0, 1] and "
            "share in [0, 1], not "
            f"{power}, {lam}, {steps}, {alpha}, {share}",
        )
        self.power, self.steps, self.lam, self.alpha, self.share = power, steps, lam, alpha, share
        self.needs_balance = share == 1

    def forward(self, episode: Episode, scores: Tensor, head: Head) -> Tensor:
        """Scores (B, n, C) by the distance to the class centres; the head's are not read."""
        x = self.transform(episode)
        nodes = x[:, : episode.query.stop]
        labels = episode.w[:, episode.support].mT
        query = episode.mask[:, episode.query].to(x.dtype)
        with torch.no_grad():
            a, v = self.centers(nodes, labels, query)
        scores = v.unsqueeze(-2) - self.lam * squared_euclidean(x, a @ nodes)
        return hide_absent(scores, episode.w)

    def transform(self, episode: Episode) -> Tensor:
        """Power-transformed features x (B, n, d); the pool is centered as the queries are."""
        powered = (episode.x.clamp_min(0) + 1e-6) ** self.power
        x = F.normalize(powered, dim=-1)
        real = episode.mask.unsqueeze(-1).to(x.dtype)

        support, query = episode.support, episode.query
        weight = episode.w[:, support].sum(-1, keepdim=True)  # a generated node weighs less
        support_mean = prototypes(x[:, support], weight)
        query_mean = prototypes(x[:, query], real[:, query])
        several = real[:, query].sum(1, keepdim=True) > 1  # one query is not its own centre

        of_support = x[:, support] - support_mean
        of_others = x[:, support.stop :] - several * query_mean
        return F.normalize(torch.cat([of_support, of_others], 1), dim=-1)

    def centers(self, x: Tensor, y: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
        """The class centres as mixtures of nodes, and what balances the classes.

        Args:
            x: (B, m, d) support and queries.
            y: (B, C, k) labels of the first k.
            query: (B, q) 1 where a query is real, else 0.

        Returns:
            A (B, C, m), so that A x are the centres, and Sinkhorn's v (B, C).
        """
        gram = x @ x.mT
        size = y.sum(-1, keepdim=True)
        absent = size == 0

        def of_queries(a: Tensor) -> Tensor:
            """(B, C, q) how near the queries are to the centers A x."""
            return self.log_affinity(a, gram, absent)[..., y.shape[-1] :]

        a = F.pad(y / size.masked_fill(absent, 1), (0, query.shape[-1]))
        v = None
        for _ in range(self.steps):
            log_p = of_queries(a)
            v = balance(log_p.mT, query, self.share, COLD if v is None else WARM, v)
            p = query.unsqueeze(1) * (log_p + v.unsqueeze(-1)).softmax(-2)
            weight = torch.cat([y, p], -1)
            mean = weight / weight.sum(-1, keepdim=True).masked_fill(absent, 1)
            a = a.lerp(mean, self.alpha)
        return a, balance(of_queries(a).mT, query, self.share, COLD)

    def log_affinity(self, a: Tensor, gram: Tensor, absent: Tensor) -> Tensor:
        """How near nodes are to mu = A x: -lam ||x_i - mu_c||^2 (B, C, m), less ||x_i||^2."""
        dots = a @ gram
        distance = (2 * dots - (a * dots).sum(-1, keepdim=True)).masked_fill(absent, float("-inf"))
        return self.lam * distance
