"""PLCM: pseudo-loss confidence metric.

Huang, Geng, Jiang, Deng, Xu 2021,
https://openaccess.thecvf.com/content/ICCV2021/html/Huang_Pseudo-Loss_Confidence_Metric_for_Semi-Supervised_Few-Shot_Learning_ICCV_2021_paper.html
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from graphfsl.core.episode import Episode
from graphfsl.core.learner import Head, Refine
from graphfsl.functional.base_episodes import base_episodes, smallest_class
from graphfsl.functional.layers import last_layer
from graphfsl.functional.logistic_regression import logistic_regression
from graphfsl.functional.prototypes import present
from graphfsl.functional.selection import quota, top_per_class
from graphfsl.functional.statistics import or_one
from graphfsl.io.errors import require

__all__ = ["PLCM"]

EPISODES = 64  # of base classes, which the mixtures are fitted on
TOO_FEW = 10  # members of a component, and it is not fitted
LEAST_VARIANCE = 1e-4  # of a component
NEWTON, CONJUGATE = 6, 8  # steps of the regression's solver, outer and inner


class PLCM(Refine):
    """Take first those pseudo-labels whose loss is small as it is for right ones on base classes.

    Step by step, logistic regression on support and chosen pool gives each node its pseudo-loss,
    and a mixture of normal densities over it, whose components are clean and noisy, its confidence:

        l_j = -max_c log p(c | x_j) / log N
        P(clean | l_j) = pi_1 N(l_j; m_1, v_1) / sum_k pi_k N(l_j; m_k, v_k)

    The next regression sees the most confident nodes of each class, more of them each step. Then
    the head is called on these labels.

    `fit_base` runs the same steps on episodes of base classes, where it is known which
    pseudo-labels are right, and keeps the mixture of every step; nodes chosen in the step before
    have one of their own, as they have been fitted. Until then a smaller loss is more confident.

    Args:
        way, shot, unlabeled: of these episodes, the latter two for each class, and fewer unlabeled
            where classes are small.
        steps: as above.
        share: of the pool that is labeled in the last step, an equal part for each class.
        C: of the regression, as in scikit-learn.

    Shapes:
        forward: features (B, n, d), scores (B, n, C) -> scores (B, n, C).

    Source:
        section 3 and iLPC's implementation of it: logistic regression of C 10 with balanced classes
        on features of length 1, four components.

    Deviations:
        the components are fitted where their members are known, without EM on the new task; five
        steps in place of ten; losses are divided by log N in place of the range of base losses; the
        head may be any.
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
        require(
            min(way, steps, shot, unlabeled) >= 1 and 0 < share <= 1 and C > 0,
            "plcm.way, steps, shot and unlabeled must be 1 or more, share in (0, 1] and C above 0, "
            f"not {way}, {steps}, {shot}, {unlabeled}, {share} and {C}",
        )
        self.steps, self.share, self.C = steps, share, C
        self.base_task = (way, shot, unlabeled)
        # Of each step, for nodes that were not or were chosen, the noisy and the clean component.
        self.prior: Tensor
        self.mean: Tensor
        self.variance: Tensor
        self.register_buffer("prior", torch.full((steps, 2, 2), 0.5))
        self.register_buffer("mean", torch.tensor([0.6, 0.3]).expand(steps, 2, 2).clone())
        self.register_buffer("variance", torch.full((steps, 2, 2), 0.05))

    def check_base_labels(self, labels: Tensor) -> None:
        """Refuse labels (N,) of a class that has no more images than `shot`."""
        shot = self.base_task[1]
        require(
            smallest_class(labels) > shot,
            f"plcm.shot={shot} leaves a base class without another labeled image to calibrate on",
        )

    def fit_base(self, features: Tensor, labels: Tensor) -> None:
        """Calibrate the confidence on episodes of base-class features (N, d) and labels (N,).

        Raises:
            InputError: where a base class has no more images than `shot`.
        """
        self.check_base_labels(labels)
        way, shot, unlabeled = self.base_task
        classes = len(labels.unique())
        unlabeled = min(unlabeled, smallest_class(labels) - shot)
        ids, truth = base_episodes(labels, min(way, classes), shot, unlabeled, EPISODES)

        n_support = min(way, classes) * shot
        w = F.one_hot(truth).to(features.dtype)
        w[n_support:] = 0
        episode = Episode(features[ids], w.expand(EPISODES, -1, -1), n_support, 0)
        self.labels(episode, truth[n_support:])

    def forward(self, episode: Episode, scores: Tensor, head: Head) -> Tensor:
        """The head's scores (B, n, C) after the most confident pool nodes were labeled."""
        if episode.n_unlabeled == 0:
            return scores
        labels = self.labels(episode.parts(query=False))
        return last_layer(head.score(episode.label_pool(labels)))

    @torch.no_grad()
    def labels(self, episode: Episode, truth: Tensor | None = None) -> Tensor:
        """One-hot labels (B, U, C) of the chosen pool nodes, zero for the others.

        Args:
            episode: of support and pool alone, without queries.
            truth: (U,) the pool's classes, on which each step is calibrated; None does not
                calibrate.
        """
        pool, classes = episode.unlabeled, present(episode.w)
        z = F.normalize(episode.x, dim=-1)
        real = episode.mask[:, pool]
        chosen = torch.zeros_like(episode.w[:, pool])
        for step in range(self.steps):
            before = chosen.any(-1)  # chosen in the step before, so that it has been fitted
            most_chosen = math.ceil(self.share * step / self.steps * episode.n_unlabeled)
            labeled = episode.n_support + (most_chosen + episode.way if step else 0)
            log_p = self.log_probabilities(z, episode.label_pool(chosen).w, labeled)[:, pool]
            best = log_p.max(-1)
            loss = -best.values / classes.sum(-1, keepdim=True).clamp_min(2).log()
            if truth is not None:
                self.calibrate(step, loss, before, best.indices == truth)
            confidence = self.log_odds(step, loss, before)
            label = F.one_hot(best.indices, episode.way).bool() & real.unsqueeze(-1)
            most = quota(real, classes, self.share * (step + 1) / self.steps)
            chosen = top_per_class(confidence, label, most).to(z.dtype)
        return chosen

    def log_probabilities(self, z: Tensor, w: Tensor, labeled: int) -> Tensor:
        """log p(c | x) by a regression in which the classes of a task weigh the same.

        Args:
            z: (B, n, d) nodes.
            w: (B, n, C) label weights.
            labeled: as many nodes, or fewer, have weight.

        Returns:
            (B, n, C)
        """
        classes = present(w)
        total = w.sum(1, keepdim=True)
        equal = (total.sum(-1) / classes.sum(-1, keepdim=True).clamp_min(1)).unsqueeze(-1)
        w = w / or_one(total) * equal
        # The regression takes the cube of its nodes, and reads those with weight.
        known = w.sum(-1).topk(min(labeled, w.shape[1])).indices.unsqueeze(-1)
        read, given = z.take_along_dim(known, 1), w.take_along_dim(known, 1)
        weight, bias = logistic_regression(read, given, self.C, NEWTON, CONJUGATE)
        logits = z @ weight.mT + bias.unsqueeze(1)
        return logits.masked_fill(~classes.unsqueeze(1), float("-inf")).log_softmax(-1)

    def calibrate(self, step: int, loss: Tensor, before: Tensor, clean: Tensor) -> None:
        """Fit the components of a step to the losses of nodes that are known to be right or wrong.

        Args:
            step: its number.
            loss: (B, U) the pseudo-losses.
            before: (B, U) which nodes were chosen in the step before.
            clean: (B, U) whose pseudo-label is right.
        """
        for chosen in (0, 1):
            of_pair = before == bool(chosen)
            pair = loss[of_pair & ~clean], loss[of_pair & clean]
            total = len(pair[0]) + len(pair[1])
            # Both components of a pair, or neither: a narrow one beside a default one would rank
            # low losses last.
            if min(len(losses) for losses in pair) <= TOO_FEW:
                continue
            for component, losses in enumerate(pair):
                self.prior[step, chosen, component] = (len(losses) + 1) / (total + 2)
                self.mean[step, chosen, component] = losses.mean()
                variance = losses.var(correction=0)
                self.variance[step, chosen, component] = variance.clamp_min(LEAST_VARIANCE)

    def log_odds(self, step: int, loss: Tensor, before: Tensor) -> Tensor:
        """How probably labels of losses (B, U) are right: log P(clean | l) - log P(noisy | l)."""
        distance = (loss[..., None, None] - self.mean[step]).square()
        log_p = self.prior[step].log() - 0.5 * self.variance[step].log()
        log_p = log_p - distance / (2 * self.variance[step])
        odds = log_p[..., 1] - log_p[..., 0]  # (B, U, 2): as if not, and as if chosen before
        return odds.gather(-1, before.long().unsqueeze(-1)).squeeze(-1)
