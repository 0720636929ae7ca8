"""Adam's steps against torch."""

from __future__ import annotations

import torch

from graphfsl.functional.adam import adam, adam_step
from tests.support.tensors import normal


def test_adam_is_that_of_torch() -> None:
    target = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    x = torch.zeros(3, 4, requires_grad=True)
    optimizer = torch.optim.Adam([x], lr=0.1)
    for _ in range(50):
        optimizer.zero_grad()
        (x - target).pow(4).sum().backward()
        optimizer.step()
    torch.testing.assert_close(
        adam(lambda x: 4 * (x - target) ** 3, torch.zeros(3, 4), 0.1, 50), x.detach()
    )


def test_adam_steps_are_torchs() -> None:
    parameter = torch.nn.Parameter(normal(4, 3))
    optimizer = torch.optim.Adam([parameter], 0.1)
    x = parameter.detach().clone()
    first = second = torch.zeros_like(x)
    for step in range(1, 12):
        gradient = (3 * x).sin() + x
        parameter.grad = gradient.clone()
        optimizer.step()
        x, first, second = adam_step(x, gradient, first, second, step, 0.1)
        torch.testing.assert_close(x, parameter.detach())
