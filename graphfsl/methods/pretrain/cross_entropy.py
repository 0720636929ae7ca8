"""Supervised pretraining on base classes.

Chen, Liu, Kira, Wang, Huang 2019, "A Closer Look at Few-shot Classification",
https://arxiv.org/abs/1904.04232
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from graphfsl.core.learner import Encode, Objective
from graphfsl.io.errors import require
from graphfsl.nn.classifier import classifier as make_classifier

__all__ = ["CrossEntropy"]


class CrossEntropy(Objective):
    """Pretrain the encoder as a classifier of all base classes.

        L = -log softmax_c(W f(x))_y over all base classes      (section 3.2)

    This is Baseline's, and with a cosine Baseline++'s.

    Args:
        dim: d, the length of the features.
        classes: the number of base classes.
        classifier: "linear", or "cosine", s g_c cos(f(x), w_c).
        scale: its s.
        labeled_fraction, label_seed: which images of each class it learns from, where others are
            kept apart, as for the queries of base classes in the task `sessions`.

    Shapes:
        forward: images (B, n, *S), labels (B, n) -> scalar.

    Source:
        section 3.2.
    """

    family = "transfer"

    def __init__(
        self,
        dim: int,
        classes: int,
        classifier: str = "linear",
        scale: float = 10.0,
        labeled_fraction: float = 1.0,
        label_seed: int = 0,
    ) -> None:
        super().__init__()
        require(
            0 < labeled_fraction <= 1,
            f"cross_entropy.labeled_fraction must lie in (0, 1], not {labeled_fraction}",
        )
        self.labeled_fraction, self.label_seed = labeled_fraction, label_seed
        self.classifier = make_classifier(classifier, dim, classes, scale)

    def forward(self, encode: Encode, x: Tensor, y: Tensor) -> Tensor:
        """The mean cross-entropy of a batch: a scalar.

        Args:
            encode: images (m, *S) -> vectors (m, d).
            x: (B, n, *S) images.
            y: (B, n) labels, -100 = none.
        """
        return F.cross_entropy(
            self.classifier(encode(x.flatten(0, 1))), y.flatten(), ignore_index=-100
        )
