"""Newton's damped step."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from graphfsl.functional.newton import damping
from tests.support.tensors import normal


@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0])
def test_a_damped_newton_step_never_overshoots(scale: float) -> None:
    """On log-sum-exps less a linear function, which full steps may raise."""
    for seed in range(20):
        rows, target = scale * normal(8, 3, seed=seed), torch.full((8,), 0.125).double()

        def value(v: Tensor, rows: Tensor = rows, target: Tensor = target) -> Tensor:
            return (rows @ v).logsumexp(0) - target @ rows @ v

        v = normal(3, seed=seed + 50)
        gradient = torch.func.grad(value)(v)
        hessian = torch.func.hessian(value)(v) + 1e-12 * torch.eye(3)
        delta = -torch.linalg.solve(hessian, gradient)
        move = rows @ delta
        damped = v + damping(move.amax() - move.amin()) * delta
        assert value(damped) <= value(v) + 1e-9
    assert float(damping(torch.tensor(0.0))) == pytest.approx(1)
    assert float(damping(torch.tensor(3.0))) == pytest.approx(math.log(4) / 3)
