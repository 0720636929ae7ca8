"""PLCM: pseudo-loss confidence metric. Huang, Geng, Jiang, Deng, Xu 2021,
https://openaccess.thecvf.com/content/ICCV2021/html/Huang_Pseudo-Loss_Confidence_Metric_for_Semi-Supervised_Few-Shot_Learning_ICCV_2021_paper.html
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from graphfsl.core.episode import Episode
from graphfsl.core.learner import Head, Refine
from graphfsl.functional.layers import last_layer
from graphfsl.functional.logistic_regression import logistic_regression
from graphfsl.functional.prototypes import present
from graphfsl.functional.selection import quota, top_per_class
from graphfsl.functional.statistics import or_one
from graphfsl.io.errors import InputError

__all__ = ["PLCM"]

EPISODES = 64  # of base classes, which the mixtures are fitted on


class PLCM(Refine):
    """Step by step: logistic regression on support and chosen pool gives each node its pseudo-loss
    l_j = -max_c log p(c | x_j) / log N;  a mixture of normal densities over l, whose components are
    clean and noisy, gives its confidence  P(clean | l_j) = pi_1 N(l_j; m_1, v_1) / sum_k pi_k
    N(l_j; m_k, v_k);  the next regression sees the most confident nodes of each class, more of them
    each step. Then the head is called on these labels.

    `fit_base` runs the same steps on episodes of base classes, where it is known which
    pseudo-labels are right, and keeps the mixture of every step; nodes chosen in the step before
    have one of their own, as they have been fitted. Until then a smaller loss is more confident.
    way, shot, unlabeled: of these episodes, the latter two for each class, and fewer unlabeled
        where classes are small.
    steps: as above. share: of the pool that is labeled in the last step, an equal part for each
    class. C: of the regression, as in scikit-learn.

    forward: features (B, n, d), scores (B, n, C) -> scores (B, n, C).
    Source: section 3 and iLPC's implementation of it: logistic regression of C 10 with balanced
    classes on features of length 1, four components.
    Deviations: the components are fitted where their members are known, without EM on the new task;
    five steps in place of ten; losses are divided by log N in place of the range of base losses;
    the head may be any.
    """

    family = "semi-supervised"
    uses_unlabeled = True
    reads = "none"
    relabels = True
    needs_balanced_pool = True
    wants_base = True

    def __init__(
        self,
        way: int,
        steps: int = 5,
        share: float = 1.0,
        C: float = 10.0,
        shot: int = 1,
        unlabeled: int = 30,
    ) -> None:
        super().__init__()
        if min(steps, shot, unlabeled) < 1 or not 0 < share <= 1 or not C > 0:
            raise InputError(
                "plcm.steps, shot and unlabeled must be 1 or more, share in (0, 1] and C above 0, "
                f"not {steps}, {shot}, {unlabeled}, {share} and {C}"
            )
        self.steps, self.share, self.C, self.drawn = steps, share, C, (way, shot, unlabeled)
        # Of each step, for nodes that were not or were chosen, the noisy and the clean component.
        self.prior: Tensor
        self.mean: Tensor
        self.variance: Tensor
        self.register_buffer("prior", torch.full((steps, 2, 2), 0.5))
        self.register_buffer("mean", torch.tensor([0.6, 0.3]).expand(steps, 2, 2).clone())
        self.register_buffer("variance", torch.full((steps, 2, 2), 0.05))

    def fit_base(self, features: Tensor, labels: Tensor) -> None:
        way, shot, unlabeled = self.drawn
        device, count = labels.device, torch.bincount(labels)
        unlabeled = min(unlabeled, int(count[count > 0].min()) - shot)
        if unlabeled < 1:
            raise InputError(
                f"plcm.shot={shot} leaves a base class without another labeled "
                f"image to calibrate on"
            )
        order = torch.randperm(len(labels), device=device)
        order = order[labels[order].argsort(stable=True)]
        c = (
            torch.rand(EPISODES, len(count), device=device)
            .masked_fill(count == 0, -1)
            .topk(min(way, len(count)))[1]
        )
        start = torch.randint(len(labels), (*c.shape, 1), device=device)
        place = (start + torch.arange(shot + unlabeled, device=device)) % count[c].unsqueeze(-1)
        # (episodes, way, shot + unlabeled)
        ids = order[(count.cumsum(0) - count)[c].unsqueeze(-1) + place]
        ids = torch.cat([ids[..., :shot].flatten(1), ids[..., shot:].flatten(1)], 1)
        y = torch.eye(c.shape[1], dtype=features.dtype, device=device)
        w = torch.cat(
            [y.repeat_interleave(shot, 0), torch.zeros_like(y).repeat_interleave(unlabeled, 0)]
        )
        truth = torch.arange(c.shape[1], device=device).repeat_interleave(unlabeled)
        self.labels(Episode(features[ids], w.expand(EPISODES, -1, -1), shot * c.shape[1], 0), truth)

    def forward(self, episode: Episode, scores: Tensor, head: Head) -> Tensor:
        if episode.n_unlabeled == 0:
            return scores
        return last_layer(head.score(episode.label_pool(self.labels(episode.parts(query=False)))))

    @torch.no_grad()
    def labels(self, episode: Episode, truth: Tensor | None = None) -> Tensor:
        """One-hot labels (B, U, C) of the chosen pool of an episode without queries; truth (U,)
        calibrates.
        """
        pool, way = episode.unlabeled, present(episode.w)
        mask, z, chosen = (
            episode.mask[:, pool],
            F.normalize(episode.x, dim=-1),
            torch.zeros_like(episode.w[:, pool]),
        )
        for t in range(self.steps):
            w = episode.label_pool(chosen).w
            total = w.sum(1, keepdim=True)  # of each class: all shall weigh the same
            w = (
                w
                / or_one(total)
                * (total.sum(-1) / way.sum(-1, keepdim=True).clamp_min(1)).unsqueeze(-1)
            )
            weight, bias = logistic_regression(z, w, self.C, 6, 8)
            logits = z[:, pool] @ weight.mT + bias.unsqueeze(1)
            best = logits.masked_fill(~way.unsqueeze(1), float("-inf")).log_softmax(-1).max(-1)
            loss = -best.values / way.sum(-1, keepdim=True).clamp_min(2).log()
            old = chosen.any(-1)
            if truth is not None:
                self.calibrate(t, loss, old, best.indices == truth)
            label = F.one_hot(best.indices, episode.way).bool() & mask.unsqueeze(-1)
            most = quota(mask, way, self.share * (t + 1) / self.steps)
            chosen = top_per_class(self.log_odds(t, loss, old), label, most).to(z.dtype)
        return chosen

    def calibrate(self, t: int, loss: Tensor, old: Tensor, clean: Tensor) -> None:
        """Fit the components of step t to losses (B, U) of nodes that were chosen before or not,
        and right or not.
        """
        cells = F.one_hot(2 * old.long() + clean.long(), 4).to(loss.dtype).flatten(0, 1)
        n = cells.sum(0)
        mean = loss.flatten() @ cells / n.clamp_min(1)
        variance = ((loss.flatten()[:, None] - mean).square() * cells).sum(0) / n.clamp_min(1)
        prior = (n.view(2, 2) + 1) / (n.view(2, 2).sum(-1, keepdim=True) + 2)
        # Both components of a pair, or neither: a narrow one beside a default one would rank low
        # losses last.
        enough = (n > 10).view(2, 2).all(-1, keepdim=True)
        self.prior[t] = prior.where(enough, self.prior[t])
        self.mean[t] = mean.view(2, 2).where(enough, self.mean[t])
        self.variance[t] = variance.view(2, 2).clamp_min(1e-4).where(enough, self.variance[t])

    def log_odds(self, t: int, loss: Tensor, old: Tensor) -> Tensor:
        """log P(clean | l) - log P(noisy | l) in step t, for losses (B, U)."""
        log_p = self.prior[t].log() - 0.5 * self.variance[t].log()
        log_p = log_p - (loss[..., None, None] - self.mean[t]).square() / (2 * self.variance[t])
        odds = log_p[..., 1] - log_p[..., 0]
        return odds.gather(-1, old.long().unsqueeze(-1)).squeeze(-1)
