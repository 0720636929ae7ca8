"""How far probabilities can be trusted, and which classes are taken for which."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def reliability(
    probabilities: Float[Tensor, "n C"], target: Int[Tensor, " n"], bins: int = 15
) -> Float[Tensor, "bins 3"]:
    """How often answers of about the same probability are right, bin by bin.

    Args:
        probabilities: (n, C); the answer is the class of the largest.
        target: (n,) the right classes; those below zero are left out.
        bins: of equal width over [0, 1]; a bin holds its upper edge.

    Returns:
        (bins, 3) how many answers, their mean probability, their accuracy (0 where there are none).

    Source:
        Guo et al. 2017, https://arxiv.org/abs/1706.04599, section 2.
    """
    real = target >= 0
    confidence, answer = probabilities.double().max(-1)
    right = (answer == target) & real
    # A bin holds its upper edge, as in the paper: (0, 1/15], (1/15, 2/15], …
    index = ((confidence * bins).ceil().long() - 1).clamp(0, bins - 1)

    def summed(value: Float[Tensor, " n"]) -> Float[Tensor, " bins"]:
        return value.new_zeros(bins).index_add(0, index, value)

    count = summed(real.double())
    total, hits = summed(confidence * real), summed(right.double())
    some = count.clamp_min(1)
    return torch.stack([count, total / some, hits / some], -1)


def expected_calibration_error(bins: Float[Tensor, "bins 3"]) -> Float[Tensor, ""]:
    """The mean difference between probability and accuracy, over the answers of all bins.

        sum_b n_b / n |accuracy_b - confidence_b|

    Args:
        bins: (bins, 3) of `reliability`.

    Returns:
        A share in [0, 1]; 0 without answers.

    Source:
        Guo et al. 2017, https://arxiv.org/abs/1706.04599, equation 3.
    """
    count, confidence, accuracy = bins.unbind(-1)
    return (count * (accuracy - confidence).abs()).sum() / count.sum().clamp_min(1)


def accuracy_coverage(
    confidence: Float[Tensor, " n"], right: Bool[Tensor, " n"]
) -> Float[Tensor, "k 2"]:
    """The accuracy of the surest answers, for every share of them that may be given.

    Args:
        confidence: (n,) of each answer.
        right: (n,) whether it is right.

    Returns:
        (k, 2) share answered and accuracy of these, for each of k levels of confidence, the highest
        first.

    Source:
        The risk-coverage curve of El-Yaniv, Wiener 2010,
        https://jmlr.org/papers/v11/el-yaniv10a.html, upside down.
    """
    order = confidence.argsort(descending=True)
    hits = right[order].double().cumsum(0)
    count = torch.arange(1, len(hits) + 1, dtype=torch.float64, device=hits.device)
    level = confidence[order]
    # equals count at once
    ends = torch.cat([level[1:] < level[:-1], torch.ones_like(level[:1], dtype=torch.bool)])
    return torch.stack([count / max(len(hits), 1), hits / count], -1)[ends]


def confusion(
    predicted: Int[Tensor, " n"], target: Int[Tensor, " n"], classes: int
) -> Int[Tensor, "classes classes"]:
    """How often each class was answered with each.

    Args:
        predicted: (n,) the classes that were answered.
        target: (n,) the right classes; those below zero are left out.
        classes: how many there are.

    Returns:
        (classes, classes) counts, a row for each right class.
    """
    real = target >= 0
    index = target.clamp_min(0) * classes + predicted
    return (
        torch.zeros(classes**2, dtype=torch.int64, device=target.device)
        .index_add(0, index, real.long())
        .view(classes, classes)
    )
