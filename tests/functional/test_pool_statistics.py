"""Statistics of a pool's nodes: places, moments, entropy, whatever the pool's size."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from graphfsl.functional.pool_statistics import entropy, moments, place_among


def test_a_place_is_the_share_of_the_pool_below() -> None:
    pool = torch.tensor([[3.0, 1.0, 2.0, 2.0]])
    value = torch.tensor([[0.0, 1.0, 2.0, 2.5, 4.0]])
    real = torch.ones(1, 4, dtype=torch.bool)
    assert place_among(value, pool, real)[0].tolist() == [0, 0.125, 0.5, 0.75, 1]


def test_padding_has_no_place_and_an_empty_pool_gives_zero() -> None:
    pool = torch.tensor([[3.0, 1.0, 99.0], [5.0, 6.0, 7.0]])
    real = torch.tensor([[True, True, False], [False, False, False]])
    value = torch.tensor([[2.0, math.inf], [2.0, math.inf]])
    assert place_among(value, pool, real).tolist() == [[0.5, 1.0], [0.0, 0.0]]


def test_places_and_moments_do_not_depend_on_how_often_a_pool_is_repeated() -> None:
    g = torch.Generator().manual_seed(0)
    pool = torch.randn(3, 7, generator=g, dtype=torch.float64)
    real = torch.ones(3, 7, dtype=torch.bool)
    torch.testing.assert_close(
        place_among(pool, pool.repeat(1, 10), real.repeat(1, 10)), place_among(pool, pool, real)
    )
    once, of_once = moments(pool, real)
    often, of_often = moments(pool.repeat(1, 10), real.repeat(1, 10))
    torch.testing.assert_close(often[:, :7], once)
    torch.testing.assert_close(of_often, of_once)


def test_moments_are_those_of_scipy() -> None:
    g = torch.Generator().manual_seed(1)
    value = torch.rand(1, 20, generator=g, dtype=torch.float64)
    real = torch.arange(20)[None] < 15
    standard, found = moments(value, real)
    own = value[0, :15].numpy()
    right = [own.mean(), own.std(), stats.skew(own), stats.kurtosis(own, fisher=False)]
    assert found[0].tolist() == pytest.approx(right)
    assert standard[0, :15].tolist() == pytest.approx(stats.zscore(own).tolist())
    assert not standard[0, 15:].any()


def test_moments_of_equal_numbers_and_of_an_empty_pool_are_finite() -> None:
    value = torch.full((2, 4), 5.0)
    real = torch.tensor([[True] * 4, [False] * 4])
    standard, found = moments(value, real)
    assert not standard.any() and torch.isfinite(found).all()
    assert found[0, 0] == 5 and not found[1].any()


def test_entropy_of_equal_classes_is_the_logarithm_of_their_number() -> None:
    p = torch.tensor([[0.25, 0.25, 0.25, 0.25], [1.0, 0.0, 0.0, 0.0]])
    assert entropy(p).tolist() == pytest.approx([math.log(4), 0])
