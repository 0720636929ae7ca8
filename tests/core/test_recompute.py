"""Inner steps that are taken once more give the same meta-gradient in less memory."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from graphfsl.core.adapt import Adapt
from graphfsl.core.pipeline import Pipeline
from graphfsl.core.rules import Adam, GradientDescent, Rule
from graphfsl.methods.adapt.meta_sgd import ElementwiseRates
from graphfsl.methods.heads.linear import Linear
from graphfsl.testing import TinyEncoder, episodes

WAY = 3


class Momentum(Rule):
    """Heavy ball: a state that the meta-gradient passes through, and a rate that is learned."""

    def __init__(self) -> None:
        super().__init__()
        self.rate = nn.Parameter(torch.tensor(0.1))

    def init(self, params):  # type: ignore[no-untyped-def]
        return {n: torch.zeros_like(p) for n, p in params.items()}

    def update(self, params, grads, loss, state, step):  # type: ignore[no-untyped-def]
        state = {n: 0.9 * state[n] + grads[n] * (1 + loss) for n in params}
        return {n: p - self.rate * state[n] for n, p in params.items()}, state


@pytest.mark.parametrize("params", ["*", "head.*"])
@pytest.mark.parametrize(
    "rule",
    [lambda: GradientDescent(0.3), lambda: ElementwiseRates(0.1, 0.3, 3), Momentum],
    ids=["sgd", "learned", "momentum"],
)
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_steps_taken_again_give_the_same_gradient(rule, params, dropout) -> None:  # type: ignore[no-untyped-def]
    found = []
    for recompute in (False, True):
        torch.manual_seed(0)
        encoder = nn.Sequential(TinyEncoder(), nn.Flatten(), nn.Dropout(dropout))
        net = Pipeline(encoder, head=Linear(24, WAY), batch_norm="apart")
        model = Adapt(net, rule(), 3, params=params, recompute=recompute).double().train()
        episode, target = episodes(batch=2, way=WAY)
        torch.manual_seed(1)
        loss = model.loss(episode.to(dtype=torch.float64), target)
        loss.backward()
        found.append([loss.detach(), *(p.grad for p in model.parameters())])
    for once, again in zip(*found, strict=True):
        torch.testing.assert_close(again, once, atol=1e-12, rtol=1e-12)
    assert all(g is not None for g in found[0])


def test_adam_is_taken_again_from_its_moments() -> None:
    found = []
    for recompute in (False, True):
        torch.manual_seed(0)
        net = Pipeline(TinyEncoder(), head=Linear(6, WAY), batch_norm="apart")
        model = Adapt(net, Adam(0.01), 4, first_order=True, recompute=recompute).double()
        episode, target = episodes(batch=2, way=WAY)
        loss = model.loss(episode.to(dtype=torch.float64), target)
        found.append(torch.autograd.grad(loss, list(net.parameters())))
    for once, again in zip(*found, strict=True):
        torch.testing.assert_close(again, once, atol=1e-12, rtol=1e-12)
