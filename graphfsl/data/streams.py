"""Random numbers of episodes: pure functions of a key, a stream, a row and a column."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from scipy.special import gammaincinv

from graphfsl.io.errors import InputError

UINT = np.uint64
# Streams of random numbers of one episode; appended to, never renumbered, or old episodes change.
(CLASSES, IMAGES, POOL, QUERY_ORDER, POOL_ORDER, SHOTS, IMBALANCE, GROUPS, LABEL_SPLIT, AUGMENT,
 POOL_IMBALANCE, FUNCTIONS, POINTS, NOISE, OUTLIERS, OPEN, QUERIES, ATTACK, SCENES,
 ABSENT, CORRUPTION, WAYS, SHARES) = range(23)  # fmt: skip


def _mix(z: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64: a bijection of 64-bit words.

    It passes the usual tests of randomness.
    """
    z = z + UINT(0x9E3779B97F4A7C15)
    z = (z ^ (z >> UINT(30))) * UINT(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> UINT(27))) * UINT(0x94D049BB133111EB)
    mixed: np.ndarray = z ^ (z >> UINT(31))
    return mixed


def keys_of(name: str, seed: int, i: np.ndarray) -> np.ndarray:
    """The 64-bit keys (B,) of the episodes i of a named split under a seed."""
    digest = hashlib.sha256(f"{name}\0{seed}".encode()).digest()
    with np.errstate(over="ignore"):
        return _mix(_mix(np.frombuffer(digest, UINT, 1) + np.asarray(i).astype(UINT)))


def episode_numbers(i: Any) -> np.ndarray:
    """The numbers of episodes as an array.

    Raises:
        InputError: where there are none, or some are no whole number of 0 or more.
    """
    try:
        numbers = np.asarray(i)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        numbers = np.empty(0)
    if numbers.dtype.kind not in "iu" or numbers.ndim > 1 or not numbers.size or numbers.min() < 0:
        raise InputError(
            f"episodes have whole numbers of 0 or more, such as [0, 1, 2], not {i!r:.60}"
        )
    return numbers


def uniform(keys: np.ndarray, stream: int, rows: int, columns: int) -> np.ndarray:
    """Uniform random numbers in (0, 1) by counting: keys (B,) -> (B, rows, columns).

    They are functions of key, stream, row and column.

    Args:
        keys: (B,) one for each episode.
        stream: what the numbers are for.
        rows: how many.
        columns: how many.
    """
    with np.errstate(over="ignore"):
        base = _mix(keys + UINT(stream) * UINT(0xD1342543DE82EF95))[:, None, None]
        row = np.arange(rows, dtype=UINT)[:, None]
        column = np.arange(columns, dtype=UINT)
        counter = (row << UINT(32)) + column
        words = _mix(base + counter) >> UINT(11)  # of 53 bits
    numbers = (words.astype(np.float64) + 0.5) * 2.0**-53
    return np.minimum(numbers, 1 - 2.0**-53)  # the largest word would round to 1


def choose(n: np.ndarray, u: np.ndarray) -> np.ndarray:
    """Choose k of range(n) without replacement, by Fisher and Yates.

    n (B, rows), uniforms u (B, rows, k) -> (B, rows, k).

    The first j choices do not depend on how many follow, so that more unlabeled images leave
    support and query as they were. Choices past the n-th are not in range(n); the caller does not
    use them.
    """
    b, rows, k = u.shape
    n, u, line = n.reshape(-1, 1), u.reshape(-1, k), np.arange(b * rows)
    left = n - np.arange(k)  # in the deck when the s-th is drawn
    place = np.minimum(u * np.maximum(left, 1), np.maximum(left - 1, 0)).astype(np.int64)
    place += np.arange(k)
    deck = np.empty((b * rows, max(int(n.max()), k)), np.int32)
    deck[:] = np.arange(deck.shape[1])
    for s in range(k):
        t = place[:, s]
        drawn = deck[line, t]
        deck[line, t] = deck[:, s]
        deck[:, s] = drawn
    return deck[:, :k].reshape(b, rows, k)


def few_of(n: int, u: np.ndarray) -> np.ndarray:
    """Choose k of range(n) without replacement, in time and memory that do not grow with n.

    Uniforms u (B, k) -> (B, k), k at most n; every set is as likely. Their order is not random.

    Source:
        Floyd's algorithm (Bentley, Floyd 1987, https://doi.org/10.1145/30401.315746).
    """
    b, k = u.shape
    chosen = np.full((b, k), -1, np.int64)
    for s in range(k):
        last = n - k + s
        drawn = (u[:, s] * (last + 1)).astype(np.int64)
        taken = (chosen[:, :s] == drawn[:, None]).any(1)
        chosen[:, s] = np.where(taken, last, drawn)
    return chosen


def unequal(u: np.ndarray, alpha: float, total: int, room: np.ndarray) -> np.ndarray:
    """Divide `total` into whole numbers (B, rows), in shares from a symmetric Dirichlet(alpha).

    What a row has no room for, the others get, the first ones first.

    Args:
        u: (B, rows) uniforms that decide.
        alpha: of the Dirichlet distribution.
        total: the sum of the rows.
        room: (B, rows) what none is above.
    """
    share = gammaincinv(alpha, u)
    # A tiny alpha may underflow for all rows: then all but the largest share are nothing beside it.
    share = np.where(share.max(1, keepdims=True) > 0, share, u == u.max(1, keepdims=True))
    exact = share / share.sum(1, keepdims=True) * total
    counts = np.floor(exact).astype(np.int64)
    rank = np.argsort(np.argsort(counts - exact, axis=1, kind="stable"), axis=1)
    counts += rank < (total - counts.sum(1, keepdims=True))
    excess = np.maximum(counts - room, 0).sum(1, keepdims=True)
    counts = np.minimum(counts, room)
    left = room - counts
    filled: np.ndarray = counts + np.clip(excess - (np.cumsum(left, 1) - left), 0, left)
    return filled
