"""Intervals of a share that was counted."""

from __future__ import annotations

from scipy.special import betaincinv


def binomial_interval(successes: int, trials: int, level: float = 0.95) -> tuple[float, float]:
    """The exact interval of a probability from successes in independent trials.

        low  = B^-1((1 - level) / 2; k, n - k + 1)
        high = B^-1((1 + level) / 2; k + 1, n - k)

    It covers the probability at least as often as the level says, whatever it is.

    Args:
        successes: k.
        trials: n, 1 or more.
        level: of the interval.

    Returns:
        Both ends; 0 below no success, 1 above no failure.

    Source:
        Clopper, Pearson 1934, https://doi.org/10.1093/biomet/26.4.404.
    """
    rest = (1 - level) / 2
    low = float(betaincinv(successes, trials - successes + 1, rest)) if successes else 0.0
    failures = trials - successes
    high = float(betaincinv(successes + 1, failures, 1 - rest)) if failures else 1.0
    return low, high
