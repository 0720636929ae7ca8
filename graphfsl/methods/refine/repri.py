"""RePRI: a classifier of pixels for each task, which learns the size of the object, too.

Boudiaf, Kervadec, Ziko, Piantanida, Ben Ayed, Dolz 2021, "Few-Shot Segmentation Without
Meta-Learning: A Good Transductive Inference Is All You Need?", https://arxiv.org/abs/2012.06166
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from graphfsl.core.episode import Episode
from graphfsl.core.learner import Head, Refine
from graphfsl.functional.background import beside_background
from graphfsl.functional.prototypes import hide_absent, prototypes
from graphfsl.functional.statistics import or_one
from graphfsl.io.errors import require

__all__ = ["REPRI"]
LEAST = 1e-10  # share, so that its logarithm is a number


class Classifiers(NamedTuple):
    """One classifier of each query image and class.

    Args:
        w: (B, Q, N, d).
        b: (B, Q, N).
    """

    w: Tensor
    b: Tensor


class REPRI(Refine):
    """Fit a classifier of each class to the support and to one unlabeled query image.

    Of features F of length one and pixels j, p_j = sigmoid(tau (cos(F_j, w) - b)). From the masked
    mean w of the support and b, the mean of cos(F_j, w) over the query, gradient descent makes

        CE(support) + lambda KL(p^ || pi) + lambda H(query)        (equation 1)

    smaller, where p^ is the mean of p_j over the query, H the mean entropy of its pixels, and
    lambda is one by the number of shots. pi is p^ at the start; after `update` steps it is p^ as it
    is then, and KL weighs 1 more (section 3.3).

    Each query image has classifiers of its own and reads no other, so that it is inductive. The
    first class is the background, which has no classifier. A query that is a single node has no
    pixels and keeps its scores.

    Args:
        steps: of gradient descent.
        lr: its rate.
        temperature: tau.
        update: the step before which pi is set anew.

    Shapes:
        forward: features (B, n, d), scores (B, n, C) -> scores (B, n, C), those of query cells
            whatever the head's are.

    Source:
        as above and the authors' code: 50 steps of rate 0.025, tau 20, update at 10; PASCAL-5i 59.1
        and 66.8 mIoU, after plain training on base classes.

    Deviations:
        several classes are each told from all the rest. The gradient is written out; how w moved is
        a constant for that of a training.
    """

    def __init__(
        self, steps: int = 50, lr: float = 0.025, temperature: float = 20.0, update: int = 10
    ) -> None:
        super().__init__()
        require(
            steps >= 0 and update >= 0 and lr > 0 and temperature > 0,
            "repri.steps and update must be 0 or more, lr and temperature above 0, not "
            f"{steps}, {update}, {lr} and {temperature}",
        )
        self.steps, self.lr, self.temperature, self.update = steps, lr, temperature, update

    def forward(self, episode: Episode, scores: Tensor, head: Head) -> Tensor:
        """Log-probabilities (B, n, C) of query cells; others as they are."""
        cells, query = episode.cells_per_image, episode.query
        if cells == 1:
            return scores
        z = F.normalize(episode.x, dim=-1)
        labels = episode.w[:, episode.support]
        total = labels.sum(-1)
        y = (labels / or_one(total).unsqueeze(-1))[..., 1:]
        of_query = z[:, query].unflatten(1, (-1, cells))
        real = episode.mask[:, query].unflatten(1, (-1, cells)).to(z)
        with torch.no_grad():
            w = prototypes(z[:, episode.support], labels)[:, 1:]
            start = self.start(w, of_query, real)
            balance = 1 / shots_of(labels, cells)
            fitted = self.fitted(start, z[:, episode.support], y, total, of_query, real, balance)
        answer = beside_background(self.logits(of_query, fitted).sigmoid()).flatten(1, 2)
        k = query.start
        whole = torch.cat([scores[:, :k], answer.to(scores), scores[:, query.stop :]], 1)
        return hide_absent(whole, episode.w)

    def logits(self, z: Tensor, of: Classifiers) -> Tensor:
        """tau (cos(F, w) - b): features (B, Q, m, d) of length one -> (B, Q, m, N)."""
        cosines = z @ F.normalize(of.w, dim=-1).mT
        return self.temperature * (cosines - of.b.unsqueeze(-2))

    def start(self, w: Tensor, query: Tensor, real: Tensor) -> Classifiers:
        """The classifiers at the start, of masked means w (B, N, d)."""
        every = w.unsqueeze(1).expand(-1, query.shape[1], -1, -1)
        cosines = query @ F.normalize(every, dim=-1).mT
        b = (cosines * real.unsqueeze(-1)).sum(2) / or_one(real.sum(2, keepdim=True))
        return Classifiers(every, b)

    def fitted(
        self,
        start: Classifiers,
        support: Tensor,
        y: Tensor,
        weight: Tensor,
        query: Tensor,
        real: Tensor,
        balance: Tensor,
    ) -> Classifiers:
        """The classifiers after gradient descent.

        Args:
            start: where it begins.
            support: (B, k, d) features of length one.
            y: (B, k, N) the share of each node that is of a class.
            weight: (B, k) of the nodes in the cross-entropy.
            query: (B, Q, m, d) features of length one.
            real: (B, Q, m) 1 for nodes that are there, else 0.
            balance: (B,) lambda.
        """
        both = torch.cat([support.unsqueeze(1).expand(-1, query.shape[1], -1, -1), query], 2)
        k = support.shape[1]
        of_support = (weight / or_one(weight.sum(1, keepdim=True)))[:, None, :, None]
        of_query = (real / or_one(real.sum(2, keepdim=True))).unsqueeze(-1)
        entropy = balance[:, None, None, None]
        size, pi = entropy, self._size(start, query, of_query)
        fitted = start
        for step in range(self.steps):
            if step == self.update:
                size, pi = entropy + 1, self._size(fitted, query, of_query)
            logits = self.logits(both, fitted)
            of_labels = logits[:, :, :k].sigmoid() - y.unsqueeze(1)
            of_size, of_entropy = slopes(logits[:, :, k:], of_query, pi)
            own = of_query * (size * of_size + entropy * of_entropy)
            fitted = self._moved(fitted, both, torch.cat([of_support * of_labels, own], 2))
        return fitted

    def _moved(self, now: Classifiers, z: Tensor, gradient: Tensor) -> Classifiers:
        """The classifiers after a step of descent.

        Args:
            now: before it.
            z: (B, Q, n, d) features of length one.
            gradient: (B, Q, n, N) of the loss, by their logits.
        """
        gradient = self.temperature * gradient
        unit = F.normalize(now.w, dim=-1)
        along = (gradient * (z @ unit.mT)).sum(2).unsqueeze(-1) * unit
        length = now.w.norm(dim=-1, keepdim=True).clamp_min(1e-12)
        w = now.w - self.lr * (gradient.mT @ z - along) / length
        return Classifiers(w, now.b + self.lr * gradient.sum(2))

    def _size(self, of: Classifiers, query: Tensor, weight: Tensor) -> Tensor:
        """p^ (B, Q, 1, N): the share of each query image that is of each class."""
        p = self.logits(query, of).sigmoid()
        return (weight * p).sum(2, keepdim=True).clamp(LEAST, 1 - LEAST)


def slopes(logits: Tensor, weight: Tensor, pi: Tensor) -> tuple[Tensor, Tensor]:
    """The derivatives of KL(p^ | pi) and of the entropy H by logits (B, Q, m, N), per weight.

    Args:
        logits: of a query image's cells.
        weight: (B, Q, m, 1) of each cell in the mean p^.
        pi: (B, Q, 1, N) the share of the image that each class shall have.
    """
    p = logits.sigmoid()
    mean = (weight * p).sum(2, keepdim=True).clamp(LEAST, 1 - LEAST)
    by_mean = (mean / pi).log() - ((1 - mean) / (1 - pi)).log()
    by_logit = p * (1 - p)
    return by_logit * by_mean, -by_logit * logits


def shots_of(labels: Tensor, cells: int) -> Tensor:
    """Support images (B,) of each class but the background, their mean; at least 1.

    Args:
        labels: (B, images * cells, C) label weights.
        cells: of an image.
    """
    shown = (labels[..., 1:].unflatten(1, (-1, cells)) > 0).any(2)  # (B, images, N)
    classes = shown.any(1).sum(-1).clamp_min(1)
    found: Tensor = (shown.sum((1, 2)) / classes).clamp_min(1)
    return found
