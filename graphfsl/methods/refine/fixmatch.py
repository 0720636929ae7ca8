"""FixMatch on features.

Sohn et al. 2020, https://arxiv.org/abs/2001.07685; its self-adaptive thresholds are those of
FreeMatch, Wang et al. 2023, https://arxiv.org/abs/2205.07246
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from graphfsl.core.episode import Episode
from graphfsl.core.learner import Head, Refine
from graphfsl.functional.layers import last_layer
from graphfsl.functional.prototypes import present
from graphfsl.functional.soft_kmeans import soft_assign
from graphfsl.functional.statistics import or_one
from graphfsl.io.errors import require

__all__ = ["FixMatch"]


class FixMatch(Refine):
    """Ask that a surely labeled pool node keeps its class when its features are disturbed.

        min  sum_S H(y_i, p(x_i)) + weight * sum_U 1[max q_j >= tau] H(argmax q_j, p(A(x_j)))

    with q_j = p(x_j) (equations 3, 4): a node whose class is sure as it is must get this class in a
    strongly augmented view A(x_j). Step by step, the head gives q and is called again with the
    augmented nodes as labeled ones, which minimises the loss for any head that fits a classifier.

    Args:
        dim: d.
        steps: as above, each with a view of its own.
        drop: A sets this share of the dimensions to zero and scales the others up; a view drops the
            same ones of every node, so that the order of nodes does not matter, and those drawn at
            the start in evaluation, so that answers repeat. On features every share above 0 cost
            accuracy, most of all with distances of features of any length, where one view misplaces
            the class means.
        weight: of an augmented node beside 1 of the support, on average; all classes weigh the
            same, or a head with intercepts gives them all to one.
        threshold: tau; None takes for class c tau_c = (mean_j q_jc / max_c' mean_j q_jc') mean_j
            max q_j (FreeMatch's self-adaptive threshold, without its moving average), which suits
            heads of any temperature.

    Shapes:
        forward: features (B, n, d), scores (B, n, C) -> scores (B, n, C).

    Source:
        as above.

    Deviations:
        views of features and not of images, by default without change (`drop` 0, chosen on training
        classes of CIFAR-FS); the weak view is the node as it is; the head's minimum in place of
        gradient steps; the pool's classes weigh the same, in place of FreeMatch's fairness term.
    """

    family = "semi-supervised"
    uses_unlabeled = True
    reads = "pool"
    relabels = True

    def __init__(
        self,
        dim: int,
        steps: int = 5,
        drop: float = 0.0,
        weight: float = 1.0,
        threshold: float | None = None,
    ) -> None:
        super().__init__()
        require(
            steps >= 1
            and 0 <= drop < 1
            and weight > 0
            and (threshold is None or 0 <= threshold < 1),
            "fixmatch.steps must be 1 or more, drop in [0, 1), weight above 0 and threshold "
            "in [0, 1) or null, "
            f"not {steps}, {drop}, {weight} and {threshold}",
        )
        self.steps, self.drop, self.weight, self.threshold = steps, drop, weight, threshold
        self.keep: Tensor
        # Not weights: a trained run of any head takes this refiner.
        fixed = self.views(
            torch.rand(steps, dim, generator=torch.Generator("cpu").manual_seed(0), device="cpu")
        )
        self.register_buffer("keep", fixed.to(torch.get_default_device()), persistent=False)

    def views(self, u: Tensor) -> Tensor:
        """What each view multiplies the features by; each keeps as many dimensions.

        Args:
            u: (steps, d) uniform random numbers.

        Returns:
            (steps, d), zero in a dropped dimension.
        """
        kept = max(1, round((1 - self.drop) * u.shape[-1]))
        return (u.argsort(-1) < kept) * (u.shape[-1] / kept)

    def forward(self, episode: Episode, scores: Tensor, head: Head) -> Tensor:
        """The head's scores (B, n, C) after it was fitted to views of the sure pool nodes."""
        if episode.n_unlabeled == 0:
            return scores
        pool, k = episode.unlabeled, episode.n_support
        mask, x = episode.mask[:, pool], episode.x[:, pool]
        classes = present(episode.w).sum(-1).clamp_min(1)[:, None, None]
        keep = self.views(torch.rand_like(self.keep)) if self.training else self.keep
        for view in keep.to(x.dtype).unbind():
            q = soft_assign(scores[:, pool].detach(), mask)
            label = F.one_hot(q.argmax(-1), episode.way) * mask.unsqueeze(-1)
            sure = q.amax(-1, keepdim=True) >= self.least(q, mask)
            w = (label * sure).to(x.dtype)
            total = w.sum(1, keepdim=True)
            w = self.weight * w / or_one(total) * total.sum(-1, keepdim=True) / classes
            scores = last_layer(head.score(episode.add_support(view * x, w, mask)))
            scores = torch.cat([scores[:, :k], scores[:, k + x.shape[1] :]], 1)
        return scores

    def least(self, q: Tensor, mask: Tensor) -> Tensor | float:
        """The threshold tau of each node, by its most probable class: q (B, U, C) -> (B, U, 1)."""
        if self.threshold is not None:
            return self.threshold
        count = mask.sum(1).clamp_min(1)[:, None, None]
        often = q.sum(1, keepdim=True) / count
        tau = (
            often
            / often.amax(-1, keepdim=True).clamp_min(1e-12)
            * q.amax(-1, keepdim=True).sum(1, True)
            / count
        )
        return tau.expand_as(q).gather(-1, q.argmax(-1, keepdim=True))
