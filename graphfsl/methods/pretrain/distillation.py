"""Born-again self-distillation.

Tian, Wang, Krishnan, Tenenbaum, Isola 2020, "Rethinking Few-Shot Image Classification: a Good
Embedding Is All You Need?", https://arxiv.org/abs/2003.11539
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from graphfsl.core.learner import Encode, Objective
from graphfsl.io.errors import require
from graphfsl.nn.classifier import classifier as make_classifier

__all__ = ["Distillation"]


class Distillation(Objective):
    """Pretrain generation by generation, each taught by the one before.

        L = alpha CE(student, y) + beta T^2 KL(softmax(teacher / T) || softmax(student / T))

    (equation 5). The first generation has no teacher and takes cross-entropy alone;
    `pretrain.generations: 2` trains a teacher and one student.

    `pretrain.generations: 2` trains a teacher and one student.

    Args:
        dim: d, the length of the features.
        classes: the number of base classes.
        alpha, beta, temperature: of the equation.
        classifier, scale: as in `cross_entropy`.

    Shapes:
        forward: images (B, n, *S), labels (B, n) -> scalar.

    Source:
        equation 5 and figure 3; alpha = beta = 0.5 and T = 4 are the authors'.
    """

    family = "transfer"

    def __init__(
        self,
        dim: int,
        classes: int,
        alpha: float = 0.5,
        beta: float = 0.5,
        temperature: float = 4.0,
        classifier: str = "linear",
        scale: float = 10.0,
    ) -> None:
        super().__init__()
        require(
            min(alpha, beta) >= 0 and temperature > 0,
            "distillation.alpha and beta must be 0 or more, and temperature above 0",
        )
        self.alpha, self.beta, self.temperature = alpha, beta, temperature
        self.classifier = make_classifier(classifier, dim, classes, scale)

    def forward(self, encode: Encode, x: Tensor, y: Tensor) -> Tensor:
        """The loss of a batch by its labels and the teacher's answers: a scalar.

        Args:
            encode: images (m, *S) -> vectors (m, d).
            x: (B, n, *S) images.
            y: (B, n) labels, -100 = none.
        """
        x, y = x.flatten(0, 1), y.flatten()
        student = self.classifier(encode(x))
        loss = F.cross_entropy(student, y, ignore_index=-100)
        if self.teacher is None:
            return loss
        with torch.no_grad():
            teacher = self.teacher(x)
        t = self.temperature
        log_p = (teacher / t).log_softmax(-1)
        log_q = (student / t).log_softmax(-1)
        kl = F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)
        return self.alpha * loss + self.beta * t**2 * kl
