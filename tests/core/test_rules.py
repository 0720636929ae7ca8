"""The steps of an inner loop."""

from __future__ import annotations

import torch

from graphfsl.core.rules import Adam


def test_adam_is_torchs() -> None:
    p = torch.randn(5, dtype=torch.float64)
    expected = p.clone().requires_grad_()
    optimizer, rule = torch.optim.Adam([expected], 0.01), Adam(0.01)
    params, state = {"p": p}, rule.init({"p": p})
    for step in range(4):
        expected.grad = expected.detach() ** 3 + step
        optimizer.step()
        grads = {"p": params["p"] ** 3 + step}
        params, state = rule.update(params, grads, torch.zeros(()), state, step)
    torch.testing.assert_close(params["p"], expected.detach())
