"""Sinkhorn's potentials: any columns are met."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from graphfsl.functional.sinkhorn import balance, potentials
from tests.support.sinkhorn import sinkhorn


def logits(scale: float, n: int = 12, way: int = 4) -> Tensor:
    return scale * torch.randn(
        3, n, way, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )


@pytest.mark.parametrize("scale", [0.1, 2.0, 30.0, 1e3, 1e5])
def test_potentials_meet_any_columns(scale: float) -> None:
    log_p, rows = (
        logits(scale),
        torch.rand(3, 12, generator=torch.Generator().manual_seed(1)).double(),
    )
    columns = torch.tensor([[1.0, 2, 3, 4], [5, 1, 0, 3], [1, 1, 1, 1]]).double()
    columns = columns / columns.sum(1, keepdim=True) * rows.sum(1, keepdim=True)
    log_p[1, :, 2] = float("-inf")
    v = potentials(log_p, rows, columns)
    p = rows.unsqueeze(-1) * (log_p + v.unsqueeze(1)).softmax(-1)
    torch.testing.assert_close(p.sum(1), columns, atol=1e-6, rtol=0)
    torch.testing.assert_close(v.sum(1) / scale, torch.zeros(3).double(), atol=1e-9, rtol=0)
    assert v[1, 2] == 0
    torch.testing.assert_close(potentials(log_p, rows, columns, 12, v + 3.0), v, atol=1e-4, rtol=0)


def test_potentials_are_the_limit_of_sinkhorn() -> None:
    log_p, rows, columns = logits(2.0), torch.ones(3, 12).double(), torch.full((3, 4), 3.0).double()
    v = potentials(log_p, rows, columns, 20)
    torch.testing.assert_close(
        (log_p + v.unsqueeze(1)).softmax(-1),
        sinkhorn(log_p, rows, columns, 2000),
        atol=1e-5,
        rtol=0,
    )
    single = potentials(log_p.float(), rows.float(), columns.float(), 20)
    torch.testing.assert_close(single.double(), v, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "columns", [[75.0, 0, 0], [25, 25, 25], [1e-3, 1e-3, 75 - 2e-3], [74, 0.5, 0.5]], ids=str
)
@pytest.mark.parametrize("margin", [1.0, 50.0, 800.0])
def test_rows_that_are_all_sure_of_one_column_are_spread(
    columns: list[float], margin: float
) -> None:
    log_p = torch.zeros(1, 75, 3, dtype=torch.float64)
    log_p[..., 0] = margin
    log_p += torch.rand(1, 75, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    sums = torch.tensor([columns], dtype=torch.float64)
    v = potentials(log_p, torch.ones(1, 75).double(), sums)
    p = (log_p + v.unsqueeze(1)).masked_fill((sums == 0).unsqueeze(1), -1e30).softmax(-1)
    torch.testing.assert_close(p.sum(1), sums, atol=1e-6, rtol=0)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_share_leads_from_the_own_columns_to_equal_ones(share: float) -> None:
    log_p, rows = logits(2.0), torch.ones(3, 12).double()
    rows[2, 1:] = 0
    log_p[1, :, 0] = float("-inf")
    v = balance(log_p, rows, share, 20)
    p = rows.unsqueeze(-1) * log_p.softmax(-1)
    found = rows.unsqueeze(-1) * (log_p + v.unsqueeze(1)).softmax(-1)
    equal = torch.tensor([[3.0, 3, 3, 3], [0, 4, 4, 4]]).double()
    torch.testing.assert_close(
        found[:2].sum(1), (1 - share) * p[:2].sum(1) + share * equal, atol=1e-5, rtol=0
    )
    torch.testing.assert_close(found[2], p[2])  # one row alone
    if share == 0:
        torch.testing.assert_close(found, p, atol=1e-5, rtol=0)
