"""Self-training with pseudo-labels.

Lee 2013 (Pseudo-Label), https://www.researchgate.net/publication/280581078; with a curriculum:
Cascante-Bonilla et al. 2021, https://arxiv.org/abs/2001.06001
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from graphfsl.core.episode import Episode
from graphfsl.core.learner import Head, Refine
from graphfsl.functional.layers import last_layer
from graphfsl.functional.prototypes import present
from graphfsl.functional.selection import log_odds, quota, top_per_class
from graphfsl.functional.soft_kmeans import soft_assign
from graphfsl.io.errors import require

__all__ = ["PseudoLabel"]


class PseudoLabel(Refine):
    """Label the most confident nodes of the pool by the head's own answers, again and again.

        y'_j = 1 for the class c of largest p(c | x_j), else 0

    They become label weights, the head is called again, and so on with its new p. Each class may
    take an equal part of the pool, the nodes of largest p among those that fall to it.

    Args:
        steps: how often the pool is labeled.
        share: of the pool that is labeled at most in the last step.
        curriculum: in step t of T the share is t/T of that, and every step chooses anew; without
            one it is whole at once.
        threshold: a node needs this p.
        soft: p itself as label weights, in place of 1 for the best class.

    Shapes:
        forward: features (B, n, d), scores (B, n, C) -> scores (B, n, C).

    Source:
        Lee, section 2; Cascante-Bonilla et al., section 3: the best 20%, 40%, … 100%, each time
        from scratch.

    Deviations:
        a head that is called again in place of a network that is trained on; the labels weigh as
        much as those of the support; the share is of each class, not of all nodes, so that no class
        takes the pool.
    """

    family = "semi-supervised"
    uses_unlabeled = True
    reads = "pool"
    relabels = True
    needs_balanced_pool = True
    wants_maps = None

    def __init__(
        self,
        steps: int = 5,
        share: float = 1.0,
        curriculum: bool = True,
        threshold: float = 0.0,
        soft: bool = False,
    ) -> None:
        super().__init__()
        require(
            steps >= 1 and 0 < share <= 1 and 0 <= threshold < 1,
            "pseudo_label.steps must be 1 or more, share in (0, 1] and threshold in [0, 1), "
            f"not {steps}, {share} and {threshold}",
        )
        self.steps, self.share, self.curriculum = steps, share, curriculum
        self.threshold, self.soft = threshold, soft
        self.trusts_probabilities = soft

    def forward(self, episode: Episode, scores: Tensor, head: Head) -> Tensor:
        """The head's scores (B, n, C) after it was fitted to its own labels of the pool."""
        if episode.n_unlabeled == 0:
            return scores
        pool = episode.unlabeled
        mask, way = episode.mask[:, pool], present(episode.w)
        for t in range(1, self.steps + 1):
            logits = scores[:, pool].detach()
            p = soft_assign(logits, mask)
            sure = (
                F.one_hot(logits.argmax(-1), p.shape[-1]).bool()
                & mask.unsqueeze(-1)
                & (p >= self.threshold)
            )
            most = quota(mask, way, self.share * (t / self.steps if self.curriculum else 1))
            picked = top_per_class(log_odds(logits), sure, most)
            weight = p * picked.any(-1, keepdim=True) if self.soft else picked
            scores = last_layer(head.score(episode.label_pool(weight)))
        return scores
