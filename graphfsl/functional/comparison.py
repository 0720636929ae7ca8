"""Two learners' accuracies over episodes: which is better, and how surely.

There are intervals of their difference, a permutation test, and Holm's correction.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy.special import stdtr, stdtrit
from torch import Tensor

from graphfsl.io.errors import require

# of the accuracies themselves: results.json keeps six decimals, a GPU gives float32
ROUNDING = 1e-6
BLOCK = 1 << 21  # numbers that one block of the permutation test holds: 16 MiB
# 3.178, the smallest constant of Bentkus and Dzindzalieta's bound: 1 / 4 P(Z >= sqrt 2)
TIGHT = 1 / (2 * math.erfc(1))


@dataclass(frozen=True)
class Contrast:
    """A difference of mean accuracies, and what backs it.

    Attributes:
        difference: in the unit of the accuracies, averaged over `matched` sets of cells.
        half: of its 95% interval.
        t: difference / standard error.
        p: of sign flips where paired, else of Welch's t.
        matched: sets of cells.
        episodes: different ones.
        paired: whether both sides are cells of the same keys.
        corrected: p after Holm's correction, where it was made.
    """

    difference: float
    half: float
    t: float
    p: float
    matched: int
    episodes: int
    paired: bool
    corrected: float | None = None


def paired_difference(
    a: Float[Tensor, "*B n"], b: Float[Tensor, "*B m"]
) -> tuple[Float[Tensor, "*B"], Float[Tensor, "*B"]]:
    """The mean difference over the same episodes, with its 95% interval.

    With d = a - b it is mean(d), and the half-width is t_{0.975, n-1} s_d / sqrt(n).

    Args:
        a: (…, n) accuracies of one learner.
        b: (…, n) those of the other on the same episodes.

    Returns:
        Difference and half-width (…), float64, in the unit of the accuracies.

    Raises:
        InputError: where episodes do not match, are fewer than two, or hold a value that is not
            finite.

    Source:
        Student 1908, https://doi.org/10.1093/biomet/6.1.1.
    """
    a, b = _same_episodes(a, b)
    d = a - b
    mean, n = d.mean(-1), d.shape[-1]
    half, _ = student(mean, d.var(-1, keepdim=True) / n, torch.tensor([n - 1.0]))
    return mean, half


def unpaired_difference(
    a: Float[Tensor, "*B n"], b: Float[Tensor, "*B m"]
) -> tuple[Float[Tensor, "*B"], Float[Tensor, "*B"]]:
    """The difference of means over different episodes, with its 95% interval.

    The half-width is t_{0.975, nu} sqrt(s_a^2/n + s_b^2/m), nu as in `student`.

    Args:
        a: (…, n) accuracies of one learner.
        b: (…, m) those of the other.

    Returns:
        Difference and half-width (…), float64, in the unit of the accuracies.

    Raises:
        InputError: where episodes are fewer than two, or hold a value that is not finite.

    Source:
        Welch 1938, https://doi.org/10.1093/biomet/29.3-4.350.
    """
    a, b = _finite(a), _finite(b)
    mean = a.mean(-1) - b.mean(-1)
    n, m = a.shape[-1], b.shape[-1]
    variance = torch.stack([a.var(-1) / n, b.var(-1) / m], -1)
    half, _ = student(mean, variance, torch.tensor([n - 1.0, m - 1.0]))
    return mean, half


def student(
    mean: Float[Tensor, "*B"], variance: Float[Tensor, "*B G"], freedom: Float[Tensor, " G"]
) -> tuple[Float[Tensor, "*B"], Float[Tensor, "*B"]]:
    """The 95% interval, and two-sided p, of a sum of independent means with unknown variances.

    The sum of G means has variance v = sum_g v_g and nu = v^2 / sum_g v_g^2 / (n_g - 1) degrees of
    freedom:

        half = t_{0.975, nu} sqrt(v),    p = P(|t_nu| >= |mean| / sqrt(v))

    Args:
        mean: (…) the sum.
        variance: (…, G) the squared standard error of each mean.
        freedom: (G,) the n - 1 of each.

    Returns:
        Half-width and p (…). Where nothing varies, p is 1 for mean 0, else 0.

    Source:
        Satterthwaite 1946, https://doi.org/10.2307/3002019.
    """
    total = variance.sum(-1)
    nu = (total.square() / (variance.square() / freedom).sum(-1)).nan_to_num(1.0)
    t = (mean.abs() / total.sqrt()).nan_to_num(0.0, posinf=torch.inf)
    quantile = torch.as_tensor(stdtrit(nu.numpy(), 0.975))
    tail = torch.as_tensor(stdtr(nu.numpy(), -t.numpy()))
    return quantile * total.sqrt(), 2 * tail


def permutation_test(
    a: Float[Tensor, "*B n"], b: Float[Tensor, "*B m"], permutations: int = 10_000, seed: int = 0
) -> Float[Tensor, "*B"]:
    """p of the paired, two-sided sign-flip test that two learners differ.

    With d = a - b, T = sum_i d_i and T* = sum_i s_i d_i for random signs s_i,

        p = (1 + #{|T*| >= |T|}) / (1 + permutations)

    which is never 0 and holds its level. Where no |T*| reaches |T| this only says that p is small,
    and Holm's correction over 500 tests makes 0.05 of it. But whatever d is, p is at most 3.178
    P(|Z| >= |T| / sqrt(sum_i d_i^2)), Z ~ N(0, 1), which is taken there if it is less; the test
    still holds its level. Where there are no more than `permutations` sign patterns (n <= 13 for
    10,000) all are visited and p is their share. Equal sums that rounding parts count as equal.

    Args:
        a: (…, n) accuracies of one learner.
        b: (…, n) those of the other on the same episodes.
        permutations: random sign patterns, the same for all rows of a batch.
        seed: of the signs, which depend on it and on n alone.

    Returns:
        (…) float64.

    Raises:
        InputError: as `paired_difference`, and for permutations < 1.

    Source:
        Fisher 1935; Pitman 1937, https://doi.org/10.2307/2984124; Phipson, Smyth 2010,
        https://doi.org/10.2202/1544-6115.1585, for the 1 that is added; Bentkus, Dzindzalieta 2015,
        https://arxiv.org/abs/1307.3451, theorem 1.1, for the bound.
    """
    require(
        permutations >= 1, f"a permutation test needs at least 1 permutation, not {permutations}"
    )
    a, b = _same_episodes(a, b)
    n = a.shape[-1]
    d = (a - b).reshape(-1, n)
    total = d.sum(-1)
    rounding = ROUNDING * (a.abs() + b.abs()).sum(-1).reshape(-1)
    least = total.abs() - rounding

    reached = torch.zeros_like(total)
    rows = max(1, BLOCK // max(n, len(d)))
    for kept in _kept_signs(n, permutations, seed, rows):
        flipped = 2 * (kept @ d.T) - total  # T*, as sum_i s_i d_i = 2 sum of those kept - sum_i d_i
        reached += (flipped.abs() >= least).sum(0)

    if _few(n, permutations):
        p = reached / 2**n
    else:
        sampled = (1 + reached) / (1 + permutations)
        p = torch.where(reached > 0, sampled, sampled.minimum(_normal_bound(least, d)))
    values: Tensor = p.reshape(a.shape[:-1])
    return values


def _normal_bound(least: Float[Tensor, " B"], d: Float[Tensor, "B n"]) -> Float[Tensor, " B"]:
    """3.178 P(|Z| >= least / sqrt(sum_i d_i^2)) of a standard normal Z, never 0."""
    tail = torch.special.erfc(least / (2 * d.square().sum(-1)).sqrt())
    bound: Tensor = TIGHT * tail.clamp_min(torch.finfo(d.dtype).tiny)
    return bound


def holm(p: Float[Tensor, "*B m"]) -> Float[Tensor, "*B m"]:
    """Adjust p of several tests so that any false rejection is at most 5% likely at 0.05.

    The k-th smallest becomes max_{j <= k} min(1, (m - j + 1) p_(j)).

    Args:
        p: (…, m) of m tests.

    Returns:
        (…, m) in the same order.

    Source:
        Holm 1979, https://www.jstor.org/stable/4615733.
    """
    ordered, order = p.double().sort(-1)
    factor = torch.arange(p.shape[-1], 0, -1, dtype=torch.float64)
    adjusted = (factor * ordered).clamp_max(1).cummax(-1).values if p.shape[-1] else ordered
    return torch.empty_like(adjusted).scatter_(-1, order, adjusted)


def contrasts(
    weights: Float[Tensor, "C cells"],
    accuracies: Float[Tensor, "cells n"],
    keys: Sequence[Hashable],
    matched: Sequence[int],
    permutations: int = 10_000,
    seed: int = 0,
) -> list[Contrast]:
    """Weighted sums of cells' mean accuracies, sum_c w_c mean_c, with intervals and tests.

    Cells of equal key are paired by episode: i gives x_gi = sum of w_c accuracies_ci over the cells
    of key g. Keys are independent: the variance is sum_g s_g^2 / n, freedom as in `student`. Where
    the weights of each key cancel this is a paired interval; where they do not, Welch's; an average
    over k keys has 1/k^2 of the sum of variances. Signs of sum_g x_gi are flipped, all keys at
    once: to flip each key's alone would test that no key has an effect rather than that their mean
    is zero, and an interaction with the axis of the keys leaves an effect in each of them.

    Args:
        weights: (C, cells) a row for each contrast, of sum zero.
        accuracies: (cells, n) over episodes.
        keys: of each cell, what its episodes are a function of.
        matched: of each contrast, over how many sets of cells it averages.
        permutations: see `permutation_test`.
        seed: see `permutation_test`.

    Raises:
        InputError: as `permutation_test`.
    """
    if not len(weights):
        return []
    w = weights.double()
    values = _finite(accuracies)
    n = values.shape[-1]

    variances, cancel, touched = [], [], []
    for key in dict.fromkeys(keys):
        own = torch.tensor([other == key for other in keys])
        variances.append((w[:, own] @ values[own]).var(-1) / n)
        cancel.append(w[:, own].sum(-1).abs() < 1e-9)
        touched.append((w[:, own] != 0).any(-1))
    variance = torch.stack(variances, -1)
    paired = torch.stack(cancel).all(0)
    episodes = n * torch.stack(touched).sum(0)

    plus, minus = w.clamp_min(0) @ values, -w.clamp_max(0) @ values
    rounding = ROUNDING * (plus.abs() + minus.abs()).mean(-1)
    difference = (plus - minus).mean(-1)
    difference = difference.where(difference.abs() > rounding, 0)
    half, p = student(difference, variance, torch.full((len(variances),), n - 1.0))
    t = (difference / variance.sum(-1).sqrt()).nan_to_num(0.0, torch.inf, -torch.inf)
    if paired.any():
        p[paired] = permutation_test(plus[paired], minus[paired], permutations, seed)

    return [
        Contrast(
            difference=float(difference[i]),
            half=float(half[i]),
            t=float(t[i]),
            p=float(p[i]),
            matched=matched[i],
            episodes=int(episodes[i]),
            paired=bool(paired[i]),
        )
        for i in range(len(w))
    ]


def _same_episodes(
    a: Float[Tensor, "*B n"], b: Float[Tensor, "*B m"]
) -> tuple[Float[Tensor, "*B n"], Float[Tensor, "*B n"]]:
    """Both as float64 on the CPU and of one shape (…, n).

    Raises:
        InputError: where they cannot be paired.
    """
    a, b = _finite(a), _finite(b)
    n, m = a.shape[-1], b.shape[-1]
    require(n == m, f"a paired comparison needs the same episodes, not {n} and {m} of them")
    return a, b


def _finite(values: Float[Tensor, "*B n"]) -> Float[Tensor, "*B n"]:
    values = values.detach().cpu().double()
    require(values.shape[-1] >= 2, "an interval needs the accuracies of at least 2 episodes")
    require(
        values.isfinite().all(),
        "accuracies hold a value that is not finite; evaluate that cell again",
    )
    return values


def _few(n: int, permutations: int) -> bool:
    return bool(2**n <= permutations)


def _kept_signs(
    n: int, permutations: int, seed: int, rows: int
) -> Iterator[Float[Tensor, "rows n"]]:
    """Blocks (<= rows, n) of ones, where a difference keeps its sign, and zeros.

    They are every pattern where there are few, else `permutations` random ones. A random row is
    whole words of Philox, a counter-based generator: no block size changes it, nor does another
    numpy.
    """
    if _few(n, permutations):
        patterns = torch.arange(2**n)[:, None] >> torch.arange(n) & 1
        yield from patterns.double().split(rows)
        return
    random = np.random.Philox(key=seed)
    words = -(-n // 64)
    for start in range(0, permutations, rows):
        raw = random.random_raw((min(rows, permutations - start), words))
        octets = raw.astype("<u8").view(np.uint8)
        yield torch.from_numpy(np.unpackbits(octets, axis=1, count=n)).double()
