"""Embedding propagation (EPNet) smooths the features of an episode over its graph.

Rodriguez, Laradji, Drouin, Lacoste 2020, https://arxiv.org/abs/2003.04151
"""

from __future__ import annotations

from graphfsl.core.episode import Episode
from graphfsl.core.learner import Graph
from graphfsl.functional.affinity import pairs, std_scaled
from graphfsl.functional.propagation import propagate, symmetric
from graphfsl.io.errors import require

__all__ = ["EmbeddingPropagation"]


class EmbeddingPropagation(Graph):
    """Smooth the features of an episode over the graph of all its nodes.

        A_ij = exp(-d_ij / std(d)) of squared distances d,  A_ii = 0
        L = D^-1/2 A D^-1/2
        z~ = (I - alpha L)^-1 z

    It has no parameters and smooths any embedding over support, queries and pool. The paper's
    classifier on z~ is `label_propagation` with `scale: std, k: null, alpha: 0.2, log: true`.

    Args:
        alpha: how far features go, in [0, 1); 0 leaves them as they are.

    Shapes:
        forward: features (B, n, d) -> an episode with features z~ (B, n, d). The deviation of the
            distances couples all nodes, so that even a single query is not answered as it would be
            in company.

    Source:
        section 3 and the authors' code for one episode: the standard deviation (the text has the
        variance) over pairs of different nodes, 1e-4 added to the degrees, alpha = 0.5. Their code
        for batches normalises differently.

    Deviations:
        the authors' standard deviation leaves out distances of zero, which copies of a node have
        too; here it is over all pairs of different nodes.
    """

    family = "graph"
    transductive = True
    uses_unlabeled = True

    def __init__(self, alpha: float = 0.5) -> None:
        super().__init__()
        require(0 <= alpha < 1, f"embedding_propagation.alpha must lie in [0, 1), not {alpha}")
        self.alpha = alpha

    def forward(self, episode: Episode) -> Episode:
        """The episode with propagated features, (B, n, d) -> (B, n, d)."""
        a = std_scaled(episode.x, episode.mask) * pairs(episode.mask)
        return episode.replace(x=propagate(symmetric(a, 1e-4), episode.x, self.alpha))
