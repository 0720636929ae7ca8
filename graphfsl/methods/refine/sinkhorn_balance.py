"""Balanced assignment of the queries by optimal transport.

Cuturi 2013, https://arxiv.org/abs/1306.0895
"""

from __future__ import annotations

from torch import Tensor

from graphfsl.core.episode import Episode
from graphfsl.core.learner import Head, Refine
from graphfsl.functional.sinkhorn import balance
from graphfsl.io.errors import require

__all__ = ["SinkhornBalance"]


class SinkhornBalance(Refine):
    """Scale the answers for the queries so that each class gets its share of them.

        P = diag(u) exp(s / temperature) diag(v)      (lemma 2)

    with rows of sum one and columns of prescribed sums, for the scores s_qc of any head; its answer
    for a query is log P_qc up to a constant, s_qc / temperature + log v_c.

    Args:
        share: 1 for as many queries of every class; 0 for the sums of softmax(s / temperature),
            which change nothing; between, the sums of the columns lie between. Below 1 it no longer
            `needs_balance`.
        temperature: of the scores; a small one makes the assignment hard.
        steps: of Newton's method for v, after those at higher temperatures; 12 meet the columns
            where scores differ by thousands, as squared distances may.

    Shapes:
        forward: features (B, n, d), scores (B, n, C) -> scores (B, n, C).

    Source:
        section 4; the use on the queries of an episode is that of PT-MAP (Hu, Gripon, Pateux 2021).

    Deviations:
        the limit of Sinkhorn's rounds comes from Newton's method on the same dual. v is a constant
        for the gradient. One query alone is left as it is.
    """

    family = "transductive"
    transductive = True
    needs_balance = True
    compares_queries = True
    wants_maps = None

    def __init__(self, share: float = 1.0, temperature: float = 1.0, steps: int = 12) -> None:
        super().__init__()
        require(
            0 <= share <= 1 and temperature > 0 and steps >= 1,
            f"sinkhorn_balance.share must lie in [0, 1], temperature above 0 and steps be at "
            f"least 1, not "
            f"{share}, {temperature}, {steps}",
        )
        self.share, self.temperature, self.steps = share, temperature, steps
        self.needs_balance = share == 1

    def forward(self, episode: Episode, scores: Tensor, head: Head) -> Tensor:
        """The scores (B, n, C) by the temperature, moved so that the classes balance."""
        if episode.n_query == 0:
            return scores
        scores, q = scores / self.temperature, episode.query
        v = balance(scores[:, q], episode.mask[:, q].to(scores.dtype), self.share, self.steps)
        return scores + v.unsqueeze(-2)
