"""NT-Xent is the loss of lightly."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from graphfsl.functional.contrastive import nt_xent


@pytest.mark.parametrize(
    ("temperature", "expected"), [(0.5, 2.2052791240394902), (0.07, 8.792860585540591)]
)
def test_nt_xent_is_that_of_lightly(temperature: float, expected: float) -> None:
    """The values of lightly 1.6.0's NTXentLoss on the same numbers."""

    def view(shift: int) -> Tensor:
        rows = [[(3 * i + 5 * j + shift) % 11 for j in range(4)] for i in range(5)]
        return torch.tensor(rows, dtype=torch.float64) / 4 - 1.25

    assert nt_xent(view(0), view(2), temperature).item() == pytest.approx(expected, rel=1e-12)
