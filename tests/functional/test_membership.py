"""Which samples belong to a class at all."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.stats import mannwhitneyu, norm

from graphfsl.functional.membership import membership, non_decreasing, shortfall


def test_belonging_is_the_share_of_a_mixture() -> None:
    g = torch.Generator().manual_seed(0)
    known, own, foreign = (
        torch.randn(n, generator=g) + m for n, m in ((4000, 3), (3000, 3), (3000, 0))
    )
    p = membership(torch.cat([own, foreign]), known)
    score = torch.cat([own, foreign])
    assert (p[score.argsort()].diff() >= 0).all(), "a higher score never belongs less"
    edges = known.quantile(torch.tensor([0.05, 0.25, 0.5])).tolist()
    for low, high in zip([-9, *edges], [*edges, 9], strict=True):
        inside = (score > low) & (score <= high)
        share = (inside[:3000].sum() / inside.sum()).item()
        assert p[inside].mean().item() == pytest.approx(share, abs=0.1), (low, high)
    assert membership(own, known).mean() > 0.95, "where nothing is foreign"
    assert (membership(own, known[:0]) == 1).all() and len(membership(own[:0], known)) == 0


def test_belonging_equals_a_loop() -> None:
    """pi (f0 + its standard error) / f of each bin, joined with its neighbours where it would fall;
    1 above the median.

    What so few known scores leave in doubt belongs: the standard error is a sixth of f0 and more
    here.
    """
    g = torch.Generator().manual_seed(3)
    known, score = torch.randn(99, generator=g) + 1.5, torch.randn(150, generator=g)
    score[80:] += 1.5
    bins, h, n = 4, len(known), len(score)
    edges = [round(i * (h + 1) / bins) for i in range(bins + 1)]  # in ranks
    rank = [1 + sum(float(k) <= float(s) for k in known) for s in score]
    of = [max(i for i in range(bins) if r > edges[i]) for r in rank]
    f0 = [(b - a) / (h + 1) for a, b in itertools.pairwise(edges)]
    f = [max(of.count(i), 1) / n for i in range(bins)]
    pi = min(1.0, sum(of.count(i) for i in range(bins // 2, bins)) / n / sum(f0[bins // 2 :]))
    most = [pi * (v + math.sqrt(v * (1 - v) / h)) for v in f0]

    def ratio(a: int, b: int) -> float:
        return sum(most[a : b + 1]) / sum(f[a : b + 1])

    p = [max(min(ratio(a, b) for b in range(i, bins)) for a in range(i + 1)) for i in range(bins)]
    p = [1.0 if i >= bins // 2 else min(v, 1.0) for i, v in enumerate(p)]
    assert p[0] < 0.9
    torch.testing.assert_close(membership(score, known, bins), torch.tensor([p[i] for i in of]))


def test_values_that_fall_become_their_weighted_mean() -> None:
    value, weight = torch.tensor([1.0, 5.0, 2.0, 3.0, 9.0]), torch.tensor([1.0, 1.0, 2.0, 1.0, 1.0])
    expected = torch.tensor([1.0, 3.0, 3.0, 3.0, 9.0], dtype=torch.float64)
    torch.testing.assert_close(non_decreasing(value, weight), expected)
    assert non_decreasing(value.sort().values, weight).tolist() == [1, 2, 3, 5, 9]


def test_shortfall_is_the_rank_sum_test_of_scipy() -> None:
    rng = np.random.default_rng(0)
    score, known = torch.from_numpy(rng.random(60)), torch.from_numpy(0.2 + rng.random(15))
    of, known_of = torch.zeros(60, dtype=torch.int64), torch.zeros(15, dtype=torch.int64)
    expected = mannwhitneyu(
        known, score, alternative="greater", use_continuity=False, method="asymptotic"
    ).pvalue
    lower, error = shortfall(score, of, known, known_of)
    z = lower / error
    assert lower == pytest.approx((score[:, None] < known).float().mean().item() - 0.5)
    assert norm.sf(z * math.sqrt(15 / 14)) == pytest.approx(expected, rel=1e-6), (
        "one of them counts for nothing"
    )
    three = shortfall(score, torch.arange(60) % 3, known, torch.arange(15) % 3)
    assert three == pytest.approx((lower, error * math.sqrt(14 / 12)))
    assert (
        shortfall(score, of, known[:1], known_of[:1])
        == shortfall(score, of - 1, known, known_of)
        == (0, math.inf)
    )


def test_shortfall_counts_neither_shares_nor_numbers_of_labels() -> None:
    rng = np.random.default_rng(0)
    of, known_of = torch.tensor([0] * 20 + [1] * 200), torch.tensor([0] * 40 + [1] * 5)
    # class 1 scores lower
    score, known = (torch.from_numpy(rng.random(len(c))) * 10.0**-c for c in (of, known_of))
    assert mannwhitneyu(known, score, alternative="greater").pvalue < 1e-6
    lower, error = shortfall(score, of, known, known_of)
    assert abs(lower) < 2 * error
    lower, error = shortfall(score / 100, of, known, known_of)
    assert lower > 3 * error
    nothing = shortfall(score, of, known[known_of == 0], known_of[known_of == 0])
    assert nothing == (0, math.inf), "of class 1 nothing is known"
