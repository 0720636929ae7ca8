"""Pretraining on partly labeled base classes by consistency: FixMatch.

Sohn et al. 2020, https://arxiv.org/abs/2001.07685
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from graphfsl.core.learner import Encode, Objective
from graphfsl.io.errors import require
from graphfsl.nn.classifier import classifier as make_classifier
from graphfsl.nn.views import Moves

__all__ = ["Consistency"]


class Consistency(Objective):
    """Pretrain on labeled and unlabeled base images whose strong views keep their guesses.

    Over a batch's labeled images X and unlabeled images U, A being a strong augmentation on top of
    the run's own and q = p(u) a constant (equations 3, 4),

        L = mean_X H(y, p(x)) + weight * mean_U 1[max q >= tau] H(argmax q, p(A(u)))

    Args:
        dim: d, the length of the features.
        classes: the number of base classes.
        labeled_fraction, label_seed: which images of each class have a label, the same as in
            `train_episode`; those of all others never reach the loss.
        threshold: tau.
        weight: of the unlabeled images.
        rotate, translate, scale, flip: of A, in degrees and shares of the side; never mirror
            characters. Images of one channel must have paper 0, `data.mean: [0.0]`.
        classifier, scale_logits: as `classifier` and `scale` in `cross_entropy`.

    Shapes:
        forward: images (B, n, *S), labels (B, n) with -100 = unlabeled -> scalar.

    Source:
        section 2 and algorithm 1; tau 0.95, weight 1. The partly labeled classes are those of Ren
        et al. 2018.

    Deviations:
        labeled and unlabeled images come as they are mixed in the data, 9 to 1 at a fraction of
        0.1, where the paper takes 7 to 1; A is affine; no moving average of the weights.
    """

    family = "semi-supervised"

    def __init__(
        self,
        dim: int,
        classes: int,
        labeled_fraction: float = 0.1,
        label_seed: int = 0,
        threshold: float = 0.95,
        weight: float = 1.0,
        rotate: float = 15.0,
        translate: float = 0.15,
        scale: float = 0.2,
        flip: bool = False,
        classifier: str = "linear",
        scale_logits: float = 10.0,
    ) -> None:
        super().__init__()
        require(
            0 < labeled_fraction <= 1 and 0 <= threshold < 1 and weight >= 0,
            "consistency: labeled_fraction must lie in (0, 1], threshold in [0, 1) and "
            "weight be 0 or more, "
            f"not {labeled_fraction}, {threshold} and {weight}",
        )
        self.labeled_fraction, self.label_seed = labeled_fraction, label_seed
        self.threshold, self.weight = threshold, weight
        self.moves = Moves(rotate, translate, scale, flip)
        self.classifier = make_classifier(classifier, dim, classes, scale_logits)

    def forward(self, encode: Encode, x: Tensor, y: Tensor) -> Tensor:
        """The loss of a batch: of labeled images, and of sure ones without a label; a scalar.

        Args:
            encode: images (m, *S) -> vectors (m, d).
            x: (B, n, *S) images.
            y: (B, n) labels, below 0 = none.
        """
        images = x.flatten(0, 1)
        label = y.flatten()
        labeled = label >= 0
        views = torch.cat([images, self.strong(images)])
        scores, strong_scores = self.classifier(encode(views)).chunk(2)

        q, guess = scores.detach().softmax(-1).max(-1)
        sure = ~labeled & (q >= self.threshold)
        loss_x = mean_cross_entropy(scores, label.clamp_min(0), labeled, labeled.sum())
        loss_u = mean_cross_entropy(strong_scores, guess, sure, (~labeled).sum())
        return loss_x + self.weight * loss_u

    def strong(self, x: Tensor) -> Tensor:
        """Strong views A(x) of images (M, C, h, w), each by its own draw."""
        u = 2 * torch.rand(7, len(x), device=x.device, dtype=x.dtype) - 1
        return self.moves(x, u)


def mean_cross_entropy(scores: Tensor, label: Tensor, counted: Tensor, count: Tensor) -> Tensor:
    """Cross-entropy of scores (M, C) and labels (M,), summed where it is counted (M,), over count.

    It is 0 where count is.
    """
    each = F.cross_entropy(scores, label, reduction="none")
    return each.where(counted, 0).sum() / count.clamp_min(1)
