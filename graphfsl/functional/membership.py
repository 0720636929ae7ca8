"""Which of many scores come from a known source: a local false discovery rate. Efron et al. 2001,
https://doi.org/10.1198/016214501753382129, with the share of Storey 2002,
https://doi.org/10.1111/1467-9868.00346"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F


def shortfall(
    score: Float[Tensor, " n"],
    of: Int[Tensor, " n"],
    known: Float[Tensor, " h"],
    known_of: Int[Tensor, " h"],
) -> tuple[float, float]:
    """How much more often than not a known score is higher than a score, and the standard error of
    that: their ratio is the z of Wilcoxon's rank sum, ties averaged.

    of, known_of: their classes, -1 for none. The known scores of a class weigh as much as the
    class's share of the scores, so that neither its share nor how many are known of it counts as a
    shortfall; one known score of each class counts for nothing, since the others determine it. (0,
    inf) where a class of the scores has no other. (n,), (n,), (h,), (h,) -> share of pairs beyond
    one half, error. Mann & Whitney 1947, https://doi.org/10.1214/aoms/1177730491.
    """
    n, h = len(score), len(known)
    if not n or not (of >= 0).any():
        return 0.0, math.inf
    ordered = score.sort().values
    below = torch.searchsorted(ordered, known)
    upto = torch.searchsorted(ordered, known, right=True)
    rank = (below + upto).double() / 2 / n
    excess = variance = 0.0
    for c in of[of >= 0].unique():
        mine = rank[known_of == c]
        if len(mine) < 2:
            return 0.0, math.inf
        share = float((of == c).sum() / (of >= 0).sum())
        excess += share * float(mine.mean() - 0.5)
        variance += share**2 / 12 / (len(mine) - 1)
    return excess, math.sqrt(variance * (n + h + 1) / n)


def belonging(
    score: Float[Tensor, " n"], known: Float[Tensor, " h"], bins: int = 20
) -> Float[Tensor, " n"]:
    """The probability of each score to come from the source of the known ones; what else there is
    scores lower.

    Bins between quantiles of `known` hold a share f0 of them each, and f of all scores. Above the
    median of `known` nothing is foreign, so that pi = f / f0 there is the share of scores from the
    source; pi f0 / f of a bin, at most 1, is the answer, bins being joined where it would fall. f0
    counts as a standard error more than it is: what so few known scores leave in doubt belongs. No
    more bins than the square root of h; all are 1 where nothing is known. (n,), (h,) -> (n,).
    """
    if not len(known) or not len(score):
        return torch.ones_like(score)
    bins = min(bins, max(2, math.isqrt(len(known))))
    # in ranks 1 .. h + 1
    edges = (torch.arange(bins + 1, device=score.device) * (len(known) + 1) / bins).round()
    rank = 1 + torch.searchsorted(known.sort().values, score, right=True)
    of = (torch.bucketize(rank, edges) - 1).clamp(0, bins - 1)
    f0, f = edges.diff() / (len(known) + 1), torch.bincount(of, minlength=bins) / len(score)
    pi = (f[bins // 2 :].sum() / f0[bins // 2 :].sum()).clamp_max(1)
    # Isotonic regression: of bin i the largest over a <= i of the smallest over b >= i of the ratio
    # in bins a .. b.
    doubt = (f0 * (1 - f0) / len(known)).sqrt()
    own, all_ = (
        F.pad(v.cumsum(0), (1, 0)) for v in (pi * (f0 + doubt), f.clamp_min(1 / len(score)))
    )
    ratio = (own - own[:-1, None])[:, 1:] / (all_ - all_[:-1, None])[:, 1:]
    lower = torch.ones(bins, bins, dtype=torch.bool, device=score.device).tril(-1)
    smallest = ratio.masked_fill(lower, float("inf")).flip(1).cummin(1).values.flip(1)
    p = smallest.masked_fill(lower, float("-inf")).amax(0).clamp_max(1)
    p[bins // 2 :] = 1
    return p.to(score.dtype)[of]
