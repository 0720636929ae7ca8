"""How foreign answers are to all classes, and how well that tells known from unknown queries."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def max_probability(scores: Float[Tensor, "*B n C"]) -> Float[Tensor, "*B n"]:
    """Minus the largest probability, -max_c softmax_c(scores): the larger, the more foreign.

    Args:
        scores: (…, n, C).

    Returns:
        (…, n) in [-1, 0).

    Source:
        Hendrycks, Gimpel 2017, https://arxiv.org/abs/1610.02136.
    """
    return -scores.softmax(-1).amax(-1)


def auroc(
    novelty: Float[Tensor, "B Q"], known: Bool[Tensor, "B Q"], unknown: Bool[Tensor, "B Q"]
) -> Float[Tensor, " B"]:
    """The share of pairs of an unknown and a known query in which the unknown is the more novel.

    A tie counts half, so that a constant novelty has 1/2.

    Args:
        novelty: (B, Q).
        known: (B, Q) the queries of a class.
        unknown: (B, Q) the queries of none; what is neither is padding.

    Returns:
        (B,) in [0, 1]; NaN for an episode without both kinds.
    """
    below, equal = _beside(novelty, known)
    share = (below + equal / 2) / known.sum(-1, keepdim=True)
    return _mean(share, unknown)


def average_precision(
    novelty: Float[Tensor, "B Q"], known: Bool[Tensor, "B Q"], unknown: Bool[Tensor, "B Q"]
) -> Float[Tensor, " B"]:
    """The area below precision against recall where unknown queries are what is looked for.

    It is the mean over unknown queries of the share of unknown ones among all queries that are at
    least as novel.

    Args:
        novelty: (B, Q).
        known: (B, Q) the queries of a class.
        unknown: (B, Q) the queries of none.

    Returns:
        (B,) in [0, 1]; NaN for an episode without unknown queries.
    """
    below_known, _ = _beside(novelty, known)
    below_unknown, _ = _beside(novelty, unknown)
    found = unknown.sum(-1, keepdim=True) - below_unknown
    wrong = known.sum(-1, keepdim=True) - below_known
    return _mean(found / (found + wrong).clamp_min(1), unknown)


def accepted_at(
    novelty: Float[Tensor, "B Q"],
    known: Bool[Tensor, "B Q"],
    unknown: Bool[Tensor, "B Q"],
    share: float = 0.95,
) -> Float[Tensor, " B"]:
    """The share of unknown queries that pass where `share` of the known ones do (FPR@95).

    The bound is the smallest novelty of a known query up to which at least that share of them lies.

    Args:
        novelty: (B, Q).
        known: (B, Q) the queries of a class.
        unknown: (B, Q) the queries of none.
        share: of the known queries.

    Returns:
        (B,) in [0, 1], less is better; NaN for an episode without both kinds.
    """
    ordered = novelty.masked_fill(~known, math.inf).sort(-1).values
    # a rounding error of the product must not take one query more
    place = (known.sum(-1, keepdim=True) * share - 1e-6).ceil().long() - 1
    bound = ordered.gather(-1, place.clamp_min(0))
    passed = (novelty <= bound).to(novelty.dtype)
    return _mean(passed, unknown).masked_fill(~known.any(-1), math.nan)


def open_accuracy(
    scores: Float[Tensor, "B Q C"], novelty: Float[Tensor, "B Q"], target: Int[Tensor, "B Q"]
) -> Float[Tensor, " B"]:
    """The share of queries that are answered right where "none of the classes" is an answer.

    Args:
        scores: (B, Q, C).
        novelty: (B, Q), above 0 where a query is said to be of no class.
        target: (B, Q) the class of each query, -1 for none; below that padding.

    Returns:
        (B,) in [0, 1].
    """
    answer = scores.argmax(-1).masked_fill(novelty > 0, -1)
    real = target >= -1
    return ((answer == target) & real).sum(-1) / real.sum(-1).clamp_min(1)


def best_threshold(
    scores: Float[Tensor, "B Q C"], novelty: Float[Tensor, "B Q"], target: Int[Tensor, "B Q"]
) -> float:
    """The novelty above which "none of the classes" makes most answers right.

    Args:
        scores: (B, Q, C) of many episodes.
        novelty: (B, Q).
        target: (B, Q) as in `open_accuracy`.

    Returns:
        The middle between two neighbouring novelties; of equally good ones the largest.
    """
    real = target >= -1
    value, order = novelty[real].double().sort()
    truth = target[real][order]
    right = (scores.argmax(-1)[real][order] == truth) & (truth >= 0)

    accepted = torch.cat([right.new_zeros(1, dtype=torch.long), right.long().cumsum(0)])
    unknown = (truth < 0).long()
    rejected = torch.cat([unknown.flip(0).cumsum(0).flip(0), unknown.new_zeros(1)])
    hits = accepted + rejected  # where the first i of them are accepted, i = 0 .. n
    apart = torch.ones_like(hits, dtype=torch.bool)
    apart[1:-1] = value[1:] > value[:-1]  # no bound lies between equal novelties

    hits = hits.masked_fill(~apart, -1)
    best = int((hits == hits.max()).nonzero().max())
    if best in (0, len(value)):
        step = 1e-6 + abs(float(value[min(best, len(value) - 1)])) * 1e-6
        return float(value[0]) - step if best == 0 else float(value[-1]) + step
    return float(value[best - 1] + value[best]) / 2


def _beside(
    novelty: Float[Tensor, "B Q"], of: Bool[Tensor, "B Q"]
) -> tuple[Int[Tensor, "B Q"], Int[Tensor, "B Q"]]:
    """How many queries of a kind are less novel than each query, and how many as novel: (B, Q)."""
    ordered = novelty.masked_fill(~of, math.inf).sort(-1).values.contiguous()
    mine = novelty.contiguous()
    below = torch.searchsorted(ordered, mine)
    upto = torch.searchsorted(ordered, mine, right=True)
    # what is not of the kind stands at infinity, where no finite novelty counts it
    return below, upto - below


def _mean(value: Float[Tensor, "B Q"], of: Bool[Tensor, "B Q"]) -> Float[Tensor, " B"]:
    """The mean over some of the queries; NaN where there are none."""
    return value.where(of, 0).sum(-1) / of.sum(-1)
