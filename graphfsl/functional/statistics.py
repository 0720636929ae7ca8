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
