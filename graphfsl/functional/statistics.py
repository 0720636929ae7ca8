"""Means, intervals and rates over episodes."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from scipy.special import stdtrit
from torch import Tensor


def accuracy(scores: Float[Tensor, "B Q C"], target: Int[Tensor, "B Q"]) -> Float[Tensor, " B"]:
    """The share of right answers of each episode.

    Args:
        scores: (B, Q, C) of the queries.
        target: (B, Q) their classes; those below zero are padding.

    Returns:
        (B,) in [0, 1]; NaN for an episode in which some query is not `answered`.
    """
    real = target >= 0
    right = (scores.argmax(-1) == target) & real
    share = right.sum(-1) / real.sum(-1).clamp_min(1)
    return share.masked_fill((real & ~answered(scores)).any(-1), float("nan"))


def answered(scores: Float[Tensor, "*B C"]) -> Bool[Tensor, "*B"]:
    """Whether scores give an answer: the best of them is finite and none is NaN.

    Minus infinity, as of an absent class, is a score like others, unless all are; of plus infinity
    there is no softmax.

    Args:
        scores: (…, C).

    Returns:
        (…) bool.
    """
    return scores.amax(-1).isfinite()


def mean_and_ci95(values: Float[Tensor, " n"]) -> tuple[float, float | None]:
    """The mean of values and the half-width of its 95% interval.

    Args:
        values: (n,).

    Returns:
        The mean, and t_{0.975, n-1} s / sqrt(n); None of one value, which has no interval.

    Source:
        Student 1908, https://doi.org/10.1093/biomet/6.1.1.
    """
    values = values.double()
    n = len(values)
    half = float(stdtrit(n - 1, 0.975)) * float(values.std()) / n**0.5 if n > 1 else None
    return float(values.mean()), half


def class_statistics(
    features: Float[Tensor, "n d"], labels: Int[Tensor, " n"], classes: int
) -> tuple[Float[Tensor, " d"], Float[Tensor, "C d"], Float[Tensor, "C d d"]]:
    """The mean of all labeled features, and mean and covariance of each class.

    Args:
        features: (n, d).
        labels: (n,) the class of each; those below zero are left out.
        classes: C.

    Returns:
        (d,), (C, d) and (C, d, d); covariances are over n - 1, and zero where a class has one
        sample.
    """
    known, known_labels = features[labels >= 0], labels[labels >= 0]
    means, covariances = [], []
    for c in range(classes):
        own = known[known_labels == c]
        mean = own.mean(0) if len(own) else own.new_zeros(own.shape[1])
        spread = own - mean
        means.append(mean)
        covariances.append(spread.mT @ spread / max(len(own) - 1, 1))
    return known.mean(0), torch.stack(means), torch.stack(covariances)


def total_or_one(weight: Float[Tensor, "*B n"]) -> Float[Tensor, "*B 1"]:
    """The sum of weights as a divisor: one where it is zero.

    Args:
        weight: (…, n), not negative.

    Returns:
        (…, 1).
    """
    return or_one(weight.sum(-1, keepdim=True))


def or_one(total: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """A sum of weights as a divisor: one where it is not above zero.

    Args:
        total: (…).

    Returns:
        (…), above zero.
    """
    return total.where(total > 0, 1)
