"""Means, intervals and rates over episodes."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from scipy.special import stdtrit
from torch import Tensor


def accuracy(scores: Float[Tensor, "B Q C"], target: Int[Tensor, "B Q"]) -> Float[Tensor, " B"]:
    """Share of right answers per episode; targets below zero are padding. (B, Q, C), (B, Q) ->
    (B,).

    NaN for an episode in which some query is not `answered`.
    """
    real = target >= 0
    right = (scores.argmax(-1) == target) & real
    share = right.sum(-1) / real.sum(-1).clamp_min(1)
    return share.masked_fill((real & ~answered(scores)).any(-1), float("nan"))


def answered(scores: Float[Tensor, "*B C"]) -> Bool[Tensor, "*B"]:
    """Whether scores give an answer: the best of them is finite and none is NaN. (…, C) -> (…).

    Minus infinity, as of an absent class, is a score like others, unless all are; of plus infinity
    there is no softmax.
    """
    return scores.amax(-1).isfinite()


def mean_and_ci95(values: Float[Tensor, " n"]) -> tuple[float, float | None]:
    """Mean of values (n,) and half-width t_{0.975, n-1} s / sqrt(n) of its 95% interval (Student
    1908).

    One value has no interval: None.
    """
    values = values.double()
    n = len(values)
    half = float(stdtrit(n - 1, 0.975)) * float(values.std()) / n**0.5 if n > 1 else None
    return float(values.mean()), half


def class_statistics(
    features: Float[Tensor, "n d"], labels: Int[Tensor, " n"], classes: int
) -> tuple[Float[Tensor, " d"], Float[Tensor, "C d"], Float[Tensor, "C d d"]]:
    """Mean of all labeled features, mean and covariance of each class (n - 1, zero where a class
    has one sample).

    (n, d), labels (n,) with negative ones left out -> (d,), (C, d), (C, d, d).
    """
    features, labels = features[labels >= 0], labels[labels >= 0]
    order = labels.argsort(stable=True)
    counts = torch.bincount(labels, minlength=classes).tolist()
    groups = features[order].split(counts)
    means = torch.stack([g.mean(0) if len(g) else g.new_zeros(g.shape[1]) for g in groups])
    spread = [g - m for g, m in zip(groups, means, strict=True)]
    return features.mean(0), means, torch.stack([s.mT @ s / max(len(s) - 1, 1) for s in spread])


def total_or_one(weight: Float[Tensor, "*B n"]) -> Float[Tensor, "*B 1"]:
    """The sum of weights as a divisor: one where it is zero. (…, n) -> (…, 1)."""
    return or_one(weight.sum(-1, keepdim=True))


def or_one(total: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """A sum of weights as a divisor: one where it is not above zero. (…) -> (…)."""
    return total.where(total > 0, 1)
