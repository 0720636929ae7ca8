"""Rotation prediction beside classification.

Gidaris, Bursuc, Komodakis, Pérez, Cord 2019, "Boosting Few-Shot Visual Learning with
Self-Supervision", https://arxiv.org/abs/1906.05186
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphfsl.core.learner import Encode, Objective
from graphfsl.nn.classifier import classifier as make_classifier

__all__ = ["Rotation"]


class Rotation(Objective):
    """Pretrain a classifier of base classes that also tells how far an image was turned.

        L = CE(classifier(f(x)), y) + weight * (1/4) sum_r CE(h(f(x^r)), r)

    with x^r = x turned by r * 90 degrees. Not for characters whose rotations are classes of their
    own.

    It is not for characters whose rotations are classes of their own.

    Args:
        dim: d, the length of the features.
        classes: the number of base classes.
        weight: of the rotation loss.
        supervised: false leaves the labels out, for rotation prediction alone (Gidaris et al.
            2018).
        classifier, scale: as in `cross_entropy`.

    Shapes:
        forward: square images (B, n, ch, h, h), labels (B, n) -> scalar.

    Source:
        section 3.2, equation 4.

    Deviations:
        h is one linear layer on the vector; the paper's is a residual block on the maps.
    """

    family = "self-supervised"

    def __init__(
        self,
        dim: int,
        classes: int,
        weight: float = 1.0,
        supervised: bool = True,
        classifier: str = "linear",
        scale: float = 10.0,
    ) -> None:
        super().__init__()
        self.weight = weight
        self.classifier = make_classifier(classifier, dim, classes, scale) if supervised else None
        self.turn = nn.Linear(dim, 4)

    def forward(self, encode: Encode, x: Tensor, y: Tensor) -> Tensor:
        """The loss of a batch by its rotations, and its labels where these count: a scalar.

        Args:
            encode: images (m, *S) -> vectors (m, d).
            x: (B, n, *S) images.
            y: (B, n) labels, -100 = none.
        """
        x = x.flatten(0, 1)
        z = encode(torch.cat([x.rot90(r, (-2, -1)) for r in range(4)]))
        turns = torch.arange(4, device=x.device).repeat_interleave(len(x))
        loss = self.weight * F.cross_entropy(self.turn(z), turns)
        if self.classifier is not None:
            loss = loss + F.cross_entropy(
                self.classifier(z[: len(x)]), y.flatten(), ignore_index=-100
            )
        return loss
