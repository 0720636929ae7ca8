"""SimCLR against a loop."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

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


@pytest.mark.parametrize("temperature", [0.0, -0.5])
def test_simclr_refuses_a_temperature_that_is_not_positive(temperature: float) -> None:
    with pytest.raises(InputError, match=r"simclr\.temperature must be above 0, not "):
        SimCLR(DIM, temperature=temperature)
