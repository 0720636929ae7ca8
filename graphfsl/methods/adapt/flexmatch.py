"""FlexMatch, self-training with a threshold for each class, on the images of an episode.

Zhang et al. 2021, https://arxiv.org/abs/2110.08263; with a fixed threshold it is FixMatch, Sohn et
al. 2020, https://arxiv.org/abs/2001.07685
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from graphfsl.core.adapt import Adapt
from graphfsl.core.episode import Episode
from graphfsl.core.learner import Learner
from graphfsl.core.objectives import Score, beside_support, labeled_cross_entropy
from graphfsl.core.rules import Adam
from graphfsl.functional.cross_entropy import cross_entropy
from graphfsl.io.errors import require
from graphfsl.nn.views import Moves, Views

__all__ = ["FlexMatch"]


class FlexMatch(Adapt):
    """Tune a network on each episode's images so that strongly moved views keep their labels.

    Adam descends, with q = p(weak(u)) a constant and c its class,

        mean_S H(y, p(x)) + weight * mean_U 1[max q > tau_c] H(c, p(strong(u)))

    where the threshold of a class rises as more of the pool is surely of it:

        sigma_c = sum_U 1[max q > tau] 1[argmax q = c]
        beta_c = sigma_c / max(max_c' sigma_c', U - sum_c' sigma_c')
        tau_c = tau * beta_c / (2 - beta_c)

    Args:
        net: any learner; the head `imprinting` starts at the class means.
        steps, lr: of Adam.
        params: what adapts, by name pattern; the head and the last block are enough.
        threshold: tau.
        flexible: false takes tau for all classes, which is FixMatch.
        weight: as above.
        rotate, translate, scale, flip: of the strong views, see `graphfsl.nn.views`; images of one
            channel must have paper 0.
        weak: the share of these by which a weak view moves.
        task_chunk: see `Adapt`.

    Shapes:
        score: images (B, n, *S) -> (B, n, C).

    Source:
        equations 5 to 10, with the convex mapping and the warm-up of the threshold; FixMatch's
        equations 3 and 4.

    Deviations:
        each step takes the whole episode, its labeled images as they are; views are affine, and
        drawn at the start, so that answers repeat. How the weights moved is a constant for the
        gradient of a training.
    """

    family = "semi-supervised"
    uses_unlabeled = True
    adapts_frozen = True
    keeps_autocast = True
    takes_values = False

    def __init__(
        self,
        net: Learner,
        steps: int = 20,
        lr: float = 1e-3,
        params: str | Sequence[str] = "*",
        threshold: float = 0.95,
        flexible: bool = True,
        weight: float = 1.0,
        rotate: float = 15.0,
        translate: float = 0.15,
        scale: float = 0.2,
        flip: bool = False,
        weak: float = 0.3,
        task_chunk: int | None = None,
    ) -> None:
        super().__init__(net, Adam(lr), steps, self.consistency, params, True, task_chunk)
        require(
            lr > 0 and weight >= 0 and 0 <= threshold < 1 and 0 <= weak <= 1,
            "flexmatch: lr must be above 0, weight 0 or more, threshold in [0, 1) and weak "
            "in [0, 1], "
            f"not {lr}, {weight}, {threshold} and {weak}",
        )
        self.uses_unlabeled = True
        self.threshold, self.flexible, self.weight, self.weak = threshold, flexible, weight, weak
        self.views = Views(steps, 2, Moves(rotate, translate, scale, flip))

    def consistency(self, score: Score, episode: Episode, step: int) -> Tensor:
        """The loss of a step: of the support as it is, and of the pool's strong views."""
        k, pool = episode.n_support, episode.unlabeled
        images, mask = episode.x[:, pool], episode.mask[:, pool]
        places = self.views.places(images, mask, step)
        weak = self.views(images, places, step, 0, self.weak)
        strong = self.views(images, places, step, 1)
        q = beside_support(score, episode, weak, mask)[:, k:].detach().softmax(-1)
        label = self.sure(q, mask).to(q.dtype)
        scores = beside_support(score, episode, strong, mask)
        loss_u = cross_entropy(scores[:, k:], label).sum() / mask.sum().clamp_min(1)
        return labeled_cross_entropy(scores, episode) + self.weight * loss_u

    def sure(self, q: Tensor, mask: Tensor) -> Tensor:
        """Where the most probable class of q (B, U, C) is above its threshold: (B, U, C) bool.

        Nothing elsewhere, and nothing for padding.
        """
        column = torch.arange(q.shape[-1], device=q.device)
        best = (q.argmax(-1, keepdim=True) == column) & mask.unsqueeze(-1)
        top = q.amax(-1, keepdim=True)
        tau = torch.full_like(q[:, :1], self.threshold)  # (B, 1, C)
        if self.flexible:
            sigma = (best & (top > self.threshold)).sum(1, keepdim=True)
            unsure = mask.sum(-1)[:, None, None] - sigma.sum(-1, keepdim=True)
            beta = sigma / torch.maximum(sigma.amax(-1, keepdim=True), unsure).clamp_min(1)
            tau = tau * beta / (2 - beta)
        return best & (top > tau)
