"""Means, intervals and rates over episodes."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def accuracy(scores: Float[Tensor, "B Q C"], target: Int[Tensor, "B Q"]) -> Float[Tensor, " B"]:
    """Share of right answers per episode; targets below zero are padding. (B, Q, C), (B, Q) -> (B,)."""
    real = target >= 0
    right = (scores.argmax(-1) == target) & real
    return right.sum(-1) / real.sum(-1).clamp_min(1)


def mean_and_ci95(values: Float[Tensor, " n"]) -> tuple[float, float]:
    """Mean and half-width 1.96 s / sqrt(n) of the 95% interval of values (n,); the half-width is NaN for n = 1."""
    values = values.double()
    half = 1.96 * values.std(unbiased=True) / len(values) ** 0.5 if len(values) > 1 else torch.tensor(float("nan"))
    return float(values.mean()), float(half)


def class_statistics(
    features: Float[Tensor, "n d"], labels: Int[Tensor, " n"], classes: int
) -> tuple[Float[Tensor, " d"], Float[Tensor, "C d"], Float[Tensor, "C d d"]]:
    """Mean of all labeled features, mean and covariance of each class (n - 1, zero where a class has one sample).

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
