"""Distances against loops over numbers, and their gradients."""

from __future__ import annotations

import math

import torch

from graphfsl.functional.distances import cosine, length, nearest_row, squared_euclidean
from tests.support.tensors import FLOATS, LEADS, D, M, N, normal, pairs


@FLOATS
@LEADS
def test_squared_euclidean(lead: tuple[int, ...], dtype: torch.dtype, tolerance: float) -> None:
    a, b = normal(*lead, N, D), normal(*lead, M, D, seed=1)
    expected = pairs(a, b, lambda x, y: sum((p - q) ** 2 for p, q in zip(x, y, strict=True)))
    got = squared_euclidean(a.to(dtype), b.to(dtype))
    assert got.dtype == dtype
    torch.testing.assert_close(got.double(), expected, rtol=tolerance, atol=tolerance)


def test_squared_euclidean_is_never_negative() -> None:
    a = (100 + normal(2, 50, 64) * 1e-3).float()
    for x in (a, a[None], a[0]):
        assert (squared_euclidean(x, x) >= 0).all()


@FLOATS
@LEADS
def test_cosine(lead: tuple[int, ...], dtype: torch.dtype, tolerance: float) -> None:
    a, b = normal(*lead, N, D), normal(*lead, M, D, seed=1)

    def one(x: list[float], y: list[float]) -> float:
        return sum(p * q for p, q in zip(x, y, strict=True)) / math.sqrt(
            sum(p * p for p in x) * sum(q * q for q in y)
        )

    torch.testing.assert_close(
        cosine(a.to(dtype), b.to(dtype)).double(), pairs(a, b, one), rtol=0, atol=tolerance
    )
    assert not cosine(torch.zeros(1, 2, 3), torch.ones(1, 1, 3)).any(), (
        "a zero vector is like nothing"
    )


def test_length() -> None:
    a = normal(2, N, D)
    expected = torch.tensor(
        [[[math.sqrt(sum(v * v for v in row))] for row in task] for task in a.tolist()]
    )
    torch.testing.assert_close(length(a).float(), expected)
    assert 0 < length(torch.zeros(1, D)).item() < 1e-6, "it may divide"


def test_distances_keep_their_gradient() -> None:
    a, b = (
        torch.randn(2, 5, 4).double().requires_grad_(),
        torch.randn(2, 3, 4).double().requires_grad_(),
    )
    torch.autograd.gradcheck(squared_euclidean, (a, b))
    torch.autograd.gradgradcheck(squared_euclidean, (a, b))
    with torch.no_grad():
        torch.testing.assert_close(
            squared_euclidean(a, b), (a[:, :, None] - b[:, None]).square().sum(-1)
        )
        empty = squared_euclidean(a, b[:, :0])
        assert empty.shape == (2, 5, 0)


def test_the_nearest_row_is_that_of_the_whole_table() -> None:
    torch.manual_seed(0)
    a, table = torch.randn(7, 3), torch.randn(50, 3)
    row, distance = nearest_row(a, table.split(13))
    for i in range(7):
        every = (table - a[i]).norm(dim=1)
        assert row[i] == every.argmin()
        torch.testing.assert_close(distance[i], every.min())
    exact, zero = nearest_row(table[20:22], table.split(50))
    assert exact.tolist() == [20, 21]
    assert zero.tolist() == [0, 0]
    assert nearest_row(a, [])[1].isinf().all()
