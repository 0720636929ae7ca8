"""Interventional few-shot learning: an answer adjusted for what pretraining knows.

Yue, Zhang, Sun, Hua 2020, https://arxiv.org/abs/2009.13000
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from graphfsl.core.base_classes import BaseMemory, check_base
from graphfsl.core.episode import Episode
from graphfsl.core.learner import Head
from graphfsl.functional.distances import squared_euclidean
from graphfsl.functional.prototypes import hide_absent, prototypes
from graphfsl.functional.within_class import class_means
from graphfsl.io.errors import require, unknown

__all__ = ["IFSL"]

ADJUSTMENTS = ("feature", "class", "both")


class IFSL(BaseMemory, Head):
    """Classifiers of pieces of a feature, and of what the base classes say of it.

    Knowledge from pretraining confounds a feature and its label; P(y | do(x)) sums over it. With
    F_1 ... F_n the pieces of the d features, mu_b the means of the base classes and P(b | x) their
    probabilities,

        feature  log P(y | do(x)) = 1/n sum_i log P(y | [x]_Fi)
        class    P(y | do(x)) = P(y | x + xbar),  xbar = sum_b P(b | x) mu_b
        both     1/n sum_i log P(y | [x]_Fi + [xbar]_Fi)

    where + puts one behind the other, and of what each classifier reads, r, with class means p_c,

        P(c | r) = softmax_c(-scale ||r - p_c||^2)

    Args:
        dim: d, the length of the features.
        adjustment: "feature", "class" or "both".
        chunks: n, pieces of equal length; the last may be shorter, of few features there are fewer.
        temperature: of P(b | x) = softmax_b(temperature cos(x, mu_b)).
        scale: of the squared distances.

    Shapes:
        score: features (B, n, d), label weights (B, n, C) -> log-probabilities (B, n, C), up to
            what all classes share.

    Source:
        section 3 and the authors' code: features are scaled to length 1, centred by the mean of
        the base means and scaled again, so is each piece; xbar is not.

    Deviations:
        P(b | x) is of cosines to base means, where the paper keeps the classifier of pretraining;
        class means in place of a linear classifier that is trained on each support; mu_b are
        centred as x is, which changes no distance; the mean of logarithms is the authors' code.
    """

    family = "transfer"
    wants_base = True
    remembers = ("means",)

    def __init__(
        self,
        dim: int,
        adjustment: str = "both",
        chunks: int = 8,
        temperature: float = 8.0,
        scale: float = 10.0,
    ) -> None:
        super().__init__()
        if adjustment not in ADJUSTMENTS:
            raise unknown("adjustment", adjustment, ADJUSTMENTS)
        require(
            temperature > 0 and scale > 0,
            f"ifsl.temperature and scale must be above 0, not {temperature} and {scale}",
        )
        require(chunks >= 1, f"ifsl.chunks must be 1 or more, not {chunks}")
        self.adjustment, self.temperature, self.scale = adjustment, temperature, scale
        # of a piece; a single feature that is scaled to length 1 is but its sign
        self.length = dim if adjustment == "class" else max(2, -(-dim // chunks))
        self.mean: Tensor
        self.means: Tensor
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("means", torch.zeros(0, dim))

    def fit_base(self, features: Tensor, labels: Tensor) -> None:
        """Learn base means, and their mean, from features (N, d) and labels (N,)."""
        check_base(features, labels, len(self.mean), 1, "ifsl")
        means, _ = class_means(F.normalize(features, dim=-1), labels)
        self.mean.copy_(means.mean(0))
        self.means = means - self.mean

    def adjustment_of(self, x: Tensor) -> Tensor:
        """xbar (..., d) of features (..., d) that are centred; zero before `fit_base`."""
        if not len(self.means):
            return torch.zeros_like(x)
        means = self.means.to(x.dtype)
        cosine = x @ F.normalize(means, dim=-1).mT
        xbar: Tensor = (self.temperature * cosine).softmax(-1) @ means
        return xbar

    def pieces_of(self, x: Tensor) -> Tensor:
        """Features (B, n, d) -> pieces (B, n, pieces, length), zeros behind a shorter one."""
        missing = -x.shape[-1] % self.length
        pieces: Tensor = F.pad(x, (0, missing)).unflatten(-1, (-1, self.length))
        return pieces

    def score(self, episode: Episode) -> Tensor:
        """The mean of the pieces' log-probabilities: (B, n, C)."""
        x = F.normalize(F.normalize(episode.x, dim=-1) - self.mean.to(episode.x.dtype), dim=-1)
        read = F.normalize(self.pieces_of(x), dim=-1)
        if self.adjustment != "feature":
            read = torch.cat([read, self.pieces_of(self.adjustment_of(x))], -1)
        count = read.shape[2]
        pieces = read.permute(2, 0, 1, 3).flatten(0, 1)  # each a task of its own
        w = episode.w.repeat(count, 1, 1)
        labeled = episode.labeled
        means = prototypes(pieces[:, labeled], w[:, labeled])
        logits = hide_absent(-self.scale * squared_euclidean(pieces, means), w)
        log_p: Tensor = logits.log_softmax(-1).unflatten(0, (count, -1)).mean(0)
        return log_p
