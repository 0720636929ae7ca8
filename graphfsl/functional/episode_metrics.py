"""How well the queries of each episode were answered, beside their accuracy."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

BINS = 15  # of the top probability


def macro_f1(scores: Float[Tensor, "B Q C"], target: Int[Tensor, "B Q"]) -> Float[Tensor, " B"]:
    """Mean over classes of the harmonic mean of precision and recall: (B, Q, C), (B, Q) -> (B,).

    F1_c = 2 TP_c / (2 TP_c + FP_c + FN_c), over the classes that some query of the episode has or
    was answered with. Targets below zero are padding.
    """
    way = scores.shape[-1]
    real = (target >= 0).unsqueeze(-1)
    truth = F.one_hot(target.clamp_min(0), way) * real
    answer = F.one_hot(scores.argmax(-1), way) * real
    hits = (truth * answer).sum(1).double()
    named = (truth + answer).sum(1).double()  # 2 TP + FP + FN
    f1 = 2 * hits / named.clamp_min(1)
    return f1.sum(-1) / (named > 0).sum(-1).clamp_min(1)


def calibration_sums(
    probabilities: Float[Tensor, "B Q C"], target: Int[Tensor, "B Q"]
) -> Float[Tensor, "B k"]:
    """What the calibration error is made of: (B, Q, C), (B, Q) -> (B, 3 * BINS).

    For equal bins of the top probability the number of answers, the sum of their probabilities and
    the number of right ones. A bin holds its upper edge. Targets below zero are padding.
    """
    real = (target >= 0).double()
    top, answer = probabilities.double().max(-1)
    index = ((top * BINS).ceil().long() - 1).clamp(0, BINS - 1)
    right = (answer == target).double()
    empty = torch.zeros(len(target), BINS, dtype=torch.float64, device=target.device)
    terms = (real, real * top.nan_to_num(), real * right)
    return torch.cat([empty.scatter_add(1, index, term) for term in terms], 1)


def calibration_error(sums: Float[Tensor, "*B k"]) -> Float[Tensor, "*B"]:
    """sum_b n_b / n |accuracy_b - confidence_b| of `calibration_sums` that were added up.

    Source: Guo et al. 2017, https://arxiv.org/abs/1706.04599, equation 3.
    """
    count, confidence, hits = sums.unflatten(-1, (3, BINS)).unbind(-2)
    error: Tensor = (hits - confidence).abs().sum(-1) / count.sum(-1).clamp_min(1)
    return error
