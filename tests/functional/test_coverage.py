"""Greedy coverage equals a loop; its gains never rise."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from graphfsl.functional.coverage import EQUAL, by_diagonal, covered_by, greedy_coverage


def kernel(n: int = 12, seed: int = 0, batch: int = 3) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.rand(batch, n, n, generator=g, dtype=torch.float64) ** 3


def by_hand(k: list[list[float]], free: list[bool], count: int, covered: list[float]) -> list[int]:
    """The same choices, one candidate and one sample at a time."""
    chosen: list[int] = []
    for _ in range(count):
        best, most = -1, -1.0
        for i, row in enumerate(k):
            if free[i] and i not in chosen:
                gain = sum(max(0.0, c - b) for c, b in zip(row, covered, strict=True))
                if gain > most:
                    best, most = i, gain
        chosen.append(best)
        covered = [max(c, b) for c, b in zip(k[best], covered, strict=True)]
    return chosen


def test_it_equals_a_loop() -> None:
    k = kernel()
    free = torch.rand(3, 12) < 0.7
    before = torch.rand(3, 12, dtype=torch.float64) / 4
    found, _ = greedy_coverage(k, free, 5, before)
    for b in range(3):
        assert found[b].tolist() == by_hand(k[b].tolist(), free[b].tolist(), 5, before[b].tolist())


@given(seed=st.integers(0, 1000), count=st.integers(1, 12))
def test_gains_never_rise_and_no_choice_is_repeated(seed: int, count: int) -> None:
    k = kernel(seed=seed, batch=1)
    found, gains = greedy_coverage(
        k, torch.ones(1, 12, dtype=torch.bool), count, k.new_zeros(1, 12)
    )
    assert len(set(found[0].tolist())) == count
    assert (gains.diff(dim=-1) <= EQUAL * gains[:, :-1]).all() and (gains >= 0).all()
    total = covered_by(k, torch.zeros(1, 12, dtype=torch.bool).scatter(1, found, True)).sum()
    torch.testing.assert_close(gains.sum(), total)


def test_nothing_is_chosen_twice_where_all_is_covered() -> None:
    k = kernel()
    found, gains = greedy_coverage(
        k, torch.ones(3, 12, dtype=torch.bool), 12, torch.ones(3, 12, dtype=torch.float64)
    )
    assert (found.sort(-1).values == torch.arange(12)).all() and not gains.any()


def test_the_first_of_equal_gains_wins_and_none_of_no_candidates() -> None:
    even = torch.ones(1, 4, 4)
    free = torch.tensor([[False, True, True, False]])
    found, gains = greedy_coverage(even, free, 3, torch.zeros(1, 4))
    assert found[0, :2].tolist() == [1, 2] and gains[0].tolist() == [4, 0, 0]
    assert greedy_coverage(even, free, 0, torch.zeros(1, 4))[0].shape == (1, 0)


def test_many_columns_are_summed_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    k, free = kernel(), torch.ones(3, 12, dtype=torch.bool)
    whole = greedy_coverage(k, free, 4, k.new_zeros(3, 12))
    monkeypatch.setattr("graphfsl.functional.coverage.COLUMNS", 5)
    parts = greedy_coverage(k, free, 4, k.new_zeros(3, 12))
    assert torch.equal(whole[0], parts[0])
    torch.testing.assert_close(whole[1], parts[1])


def test_a_sample_covers_itself_wholly() -> None:
    a = torch.randn(2, 6, 6, dtype=torch.float64)
    k = by_diagonal(a @ a.mT)
    torch.testing.assert_close(k.diagonal(dim1=1, dim2=2), torch.ones(2, 6, dtype=torch.float64))
    torch.testing.assert_close(k, k.mT)
