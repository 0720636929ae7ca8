"""SimCLR and its loss NT-Xent."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from graphfsl.functional.contrastive import nt_xent
from graphfsl.io.errors import InputError
from graphfsl.methods.pretrain.simclr import SimCLR
from graphfsl.testing import DIM
from tests.support.pretraining import encode


def test_simclr_equals_a_loop() -> None:
    objective = SimCLR(DIM, temperature=0.3)
    x = torch.randn(2, 5, 1, 4, 4)
    z = F.normalize(objective.project(encode(x.flatten(0, 1))), dim=-1)
    total = torch.zeros(())
    for i in range(10):
        e = [torch.exp(z[i] @ z[k] / 0.3) for k in range(10)]
        total = total - torch.log(e[(i + 5) % 10] / sum(e[k] for k in range(10) if k != i))
    torch.testing.assert_close(objective(encode, x, torch.zeros(2, 5).long()), total / 10)


@pytest.mark.parametrize(
    ("temperature", "expected"), [(0.5, 2.2052791240394902), (0.07, 8.792860585540591)]
)
def test_nt_xent_is_that_of_lightly(temperature: float, expected: float) -> None:
    """The values of lightly 1.6.0's NTXentLoss on the same numbers."""

    def view(shift: int) -> Tensor:
        rows = [[(3 * i + 5 * j + shift) % 11 for j in range(4)] for i in range(5)]
        return torch.tensor(rows, dtype=torch.float64) / 4 - 1.25

    assert nt_xent(view(0), view(2), temperature).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("temperature", [0.0, -0.5])
def test_simclr_refuses_a_temperature_that_is_not_positive(temperature: float) -> None:
    with pytest.raises(InputError, match=r"simclr\.temperature must be above 0, not "):
        SimCLR(DIM, temperature=temperature)
