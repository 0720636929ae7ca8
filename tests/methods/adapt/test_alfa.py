"""ALFA: gradient descent where its network answers one and zero, and a loop by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from graphfsl.core.adapt import Adapt
from graphfsl.core.rules import GradientDescent
from graphfsl.io.errors import InputError
from graphfsl.methods.adapt.alfa import ALFA, GeneratedRates
from tests.support.hand_loops import (
    Params,
    expect_finite_differences,
    expect_hand_written,
    network,
    shaken,
    tasks,
)

ADAPTED = ["encoder.conv.weight", "encoder.conv.bias", "head.linear.weight", "head.linear.bias"]


def answers(model: ALFA, rate: float, decay: float) -> ALFA:
    """The model whose network always gives this rate and this decay."""
    last = model.rule.generator[2]
    with torch.no_grad():
        last.weight.zero_()
        last.bias.copy_(torch.tensor([rate, decay]).repeat_interleave(len(ADAPTED)))
    return model


def test_one_and_zero_are_gradient_descent() -> None:
    net, (episode, _) = network(), tasks()
    model = answers(ALFA(net, 3, 0.2).double(), rate=1.0, decay=0.0)
    descent = Adapt(net, GradientDescent(0.2), 3, params=["*", "!encoder.norm.*"])
    torch.testing.assert_close(model(episode), descent(episode), atol=1e-13, rtol=1e-13)


def test_zero_and_one_shrink_the_weights() -> None:
    net, (episode, _) = network(), tasks(1)
    model = answers(ALFA(net, 2, 0.2).double(), rate=0.0, decay=1.0)
    first, last = (model.path(episode)[i]["net.head.linear.weight"] for i in (0, -1))
    torch.testing.assert_close(last, (1 - 0.2 * 5e-4) ** 2 * first, atol=1e-14, rtol=1e-8)


def by_hand(rule: GeneratedRates):  # type: ignore[no-untyped-def]
    def move(p: Params, grads: Params, loss: Tensor, state: None, step: int):  # type: ignore[no-untyped-def]
        assert list(p) == ADAPTED
        means = [p[n].mean() for n in ADAPTED] + [grads[n].mean() for n in ADAPTED]
        first, _, second = rule.generator
        hidden = (first.weight @ torch.stack(means) + first.bias).clamp_min(0)
        generated = second.weight @ hidden + second.bias
        moved = {}
        for layer, name in enumerate(ADAPTED):
            key = "net/" + name.replace(".", "/")
            alpha = generated[layer] * rule.alpha[key][step]
            beta = 1 - generated[len(ADAPTED) + layer] * rule.beta[key][step]
            moved[name] = beta * p[name] - alpha * grads[name]
        return moved, None

    return move


def test_meta_gradient_equals_a_loop_by_hand() -> None:
    model = shaken(ALFA(network(), 3, 0.2).double())
    expect_hand_written(model, by_hand(model.rule), adapted=ADAPTED)


def test_meta_gradient_is_what_the_loss_rises_by() -> None:
    expect_finite_differences(shaken(ALFA(network(), 2, 0.2).double()))


def test_first_order_takes_gradients_for_constants() -> None:
    model = shaken(ALFA(network(), 3, 0.2, first_order=True).double())
    expect_hand_written(model, by_hand(model.rule), adapted=ADAPTED, first_order=True)


def test_refuses_no_rate_and_goes_on_with_the_last_factors() -> None:
    net, (episode, _) = network(), tasks(1)
    with pytest.raises(InputError, match=r"alfa\.lr must be above 0, not 0"):
        ALFA(net, lr=0)
    with pytest.raises(InputError, match="for 2 inner steps, not for steps_test=4"):
        ALFA(net, steps=2, steps_test=4)
    model = shaken(ALFA(net, 2, 0.2, steps_test=3, beyond="last").double()).eval()
    path = model.path(episode)
    grads = {name: torch.ones_like(p) for name, p in path[1].items()}
    second, _ = model.rule.update(path[1], grads, torch.zeros(()), None, 1)
    third, _ = model.rule.update(path[1], grads, torch.zeros(()), None, 2)
    assert all(torch.equal(second[name], third[name]) for name in second)
