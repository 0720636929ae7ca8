"""Which of many scores come from a known source: a local false discovery rate.

Efron et al. 2001, https://doi.org/10.1198/016214501753382129, with the share of Storey 2002,
https://doi.org/10.1111/1467-9868.00346
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from scipy.optimize import isotonic_regression
from torch import Tensor


def shortfall(
    score: Float[Tensor, " n"],
    score_class: Int[Tensor, " n"],
    known: Float[Tensor, " h"],
    known_class: Int[Tensor, " h"],
) -> tuple[float, float]:
    """How far scores lie below scores of known source: a rank-sum test.

    Of all pairs of a score and a known score the known one is the higher in a share, a tie counting
    half; the share is 1/2 where both come from one source. The known scores of a class weigh as
    much as the class's share of the scores, so that neither this share nor how many are known of it
    counts. Scores of no class are in the pairs and have no share. Of the known scores of a class
    one less counts than there are, since the others determine it.

    Args:
        score: (n,) of which it is asked whether they are lower.
        score_class: (n,) their classes, -1 for none.
        known: (h,) scores of known source.
        known_class: (h,) their classes.

    Returns:
        The share less 1/2, and its standard error, whose ratio is the z of Mann and Whitney; (0,
        inf) where a class of the scores has no second known score.

    Source:
        Mann, Whitney 1947, https://doi.org/10.1214/aoms/1177730491.
    """
    n, h = len(score), len(known)
    if not n or not (score_class >= 0).any():
        return 0.0, math.inf
    ordered = score.sort().values
    below = torch.searchsorted(ordered, known)
    upto = torch.searchsorted(ordered, known, right=True)
    share_below = (below + upto).double() / 2 / n  # of the scores, for each known one
    excess = variance = 0.0
    for c in score_class[score_class >= 0].unique():
        mine = share_below[known_class == c]
        if len(mine) < 2:
            return 0.0, math.inf
        share = float((score_class == c).sum() / (score_class >= 0).sum())
        excess += share * float(mine.mean() - 0.5)
        variance += share**2 / 12 / (len(mine) - 1)  # a uniform rank has variance 1/12
    return excess, math.sqrt(variance * (n + h + 1) / n)  # the scores are a sample, too


def membership(
    score: Float[Tensor, " n"], known: Float[Tensor, " h"], bins: int = 20
) -> Float[Tensor, " n"]:
    """The probability of each score to come from the source of the known ones.

    Other sources are assumed to have lower scores. Scores are counted in bins between quantiles of
    `known`: each holds a share f0 of the known and f of all scores. Above the median of `known`
    nothing is foreign, so that pi = f / f0 there is the share of scores that come from the source.
    The answer in a bin is pi f0 / f, at most 1, made non-decreasing from the lowest bin to the
    highest. f0 counts as a standard error more than it is: what so few known scores leave in doubt
    is taken for a member.

    Args:
        score: (n,) of which the source is asked; the higher, the more like the known ones.
        known: (h,) scores from the source.
        bins: at the most; never more than the square root of h.

    Returns:
        (n,) probabilities in [0, 1]; all 1 where nothing is known.
    """
    n, h = len(score), len(known)
    if not n or not h:
        return torch.ones_like(score)
    bins = min(bins, max(2, math.isqrt(h)))
    edges = (torch.arange(bins + 1, device=score.device) * (h + 1) / bins).round()
    rank = 1 + torch.searchsorted(known.sort().values, score, right=True)  # in 1 .. h + 1
    bin_of = (torch.bucketize(rank, edges) - 1).clamp(0, bins - 1)

    f0 = edges.diff() / (h + 1)
    f = torch.bincount(bin_of, minlength=bins) / n
    upper = slice(bins // 2, None)  # the bins above the median of `known`
    pi = (f[upper].sum() / f0[upper].sum()).clamp_max(1)
    doubt = (f0 * (1 - f0) / h).sqrt()
    own = pi * (f0 + doubt)
    every = f.clamp_min(1 / n)

    p = non_decreasing(own / every, every).clamp_max(1)
    p[upper] = 1
    return p.to(score.dtype)[bin_of]


def non_decreasing(value: Float[Tensor, " n"], weight: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """The non-decreasing sequence that is nearest to values by weighted squares.

    Args:
        value: (n,) in order.
        weight: (n,) above zero.

    Returns:
        (n,), float64: where values fall, all of them become their weighted mean.

    Source:
        Isotonic regression by pooling adjacent violators, Ayer et al. 1955,
        https://doi.org/10.1214/aoms/1177728423; `scipy.optimize.isotonic_regression`.
    """
    fitted = isotonic_regression(value.double().cpu().numpy(), weights=weight.cpu().numpy())
    return torch.from_numpy(fitted.x).to(value.device)
