"""The meta-learner LSTM: gradient descent where its gates stand still, PyTorch's own cell, a loop
by hand.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from graphfsl.core.adapt import Adapt
from graphfsl.core.rules import GradientDescent
from graphfsl.io.errors import InputError
from graphfsl.methods.adapt.lstm_meta_learner import Cell, LSTMMetaLearner, preprocess
from tests.support.hand_loops import (
    Params,
    expect_hand_written,
    expect_same,
    gradient,
    network,
    shaken,
    tasks,
)


def test_gates_that_stand_still_are_first_order_gradient_descent() -> None:
    """f = 1 and i = alpha."""
    net, (episode, target) = network(), tasks()
    model = LSTMMetaLearner(net, 4).double()
    with torch.no_grad():
        for gate, bias in ((model.rule.forget, 60.0), (model.rule.input, math.log(0.3 / 0.7))):
            gate.weight.zero_()
            gate.bias.fill_(bias)
    descent = Adapt(net, GradientDescent(0.3), 4, first_order=True)
    torch.testing.assert_close(model(episode), descent(episode), atol=1e-12, rtol=1e-12)
    found = gradient(model.loss(episode, target), model)
    right = gradient(descent.loss(episode, target), descent)
    expect_same({name: found[name] for name in right}, right)


def test_starts_close_to_gradient_descent() -> None:
    rule = Cell(20, 12)
    assert 4 <= rule.forget.bias.item() <= 6 and -5 <= rule.input.bias.item() <= -4
    others = [rule.lstm.weight, rule.lstm.bias, rule.forget.weight, rule.input.weight]
    assert all(p.abs().max() <= 0.01 for p in others)


def test_preprocessing() -> None:
    """Of numbers of every size, against the formula of appendix A."""
    x = torch.tensor([0.0, 1e-7, -1e-7, math.exp(-10), 1e-3, -1e-3, 1.0, -50.0]).double()
    found = preprocess(x.unsqueeze(1))
    for value, (size, sign) in zip(x.tolist(), found.tolist(), strict=True):
        if abs(value) >= math.exp(-10):
            assert math.isclose(size, math.log(abs(value)) / 10, abs_tol=1e-12)
            assert sign == math.copysign(1, value)
        else:
            assert size == -1 and math.isclose(sign, math.exp(10) * value)


def by_hand(rule: Cell):  # type: ignore[no-untyped-def]
    """With PyTorch's own cell, for all coordinates at once."""
    w = dict(rule.named_parameters())

    def gate(name: str, h: Tensor, theta: Tensor, before: Tensor) -> Tensor:
        weight = w[f"{name}.weight"]
        logit = h @ weight[0, :-2] + weight[0, -2] * theta + weight[0, -1] * before
        return torch.sigmoid(logit + w[f"{name}.bias"])

    def move(p: Params, grads: Params, loss: Tensor, state, step: int):  # type: ignore[no-untyped-def]
        theta = torch.cat([v.flatten() for v in p.values()])
        g = torch.cat([v.flatten() for v in grads.values()])
        if state is None:
            zero = theta.new_zeros(len(theta))
            state = (theta.new_zeros(len(theta), rule.hidden),) * 2, zero, zero
        cells, f, i = state
        seen = torch.cat([preprocess(g[:, None]), preprocess(loss.repeat(len(g), 1))], 1)
        own = nn.LSTMCell(4, rule.hidden).double()
        weights = {
            "weight_ih": w["lstm.weight"][:, :4],
            "weight_hh": w["lstm.weight"][:, 4:],
            "bias_ih": w["lstm.bias"],
            "bias_hh": torch.zeros_like(w["lstm.bias"]),
        }
        h, c = torch.func.functional_call(own, weights, (seen, cells))
        f, i = gate("forget", h, theta, f), gate("input", h, theta, i)
        theta = f * theta - i * g
        parts = theta.split([v.numel() for v in p.values()])
        moved = {n: part.view_as(p[n]) for n, part in zip(p, parts, strict=True)}
        return moved, ((h, c), f, i)

    return move


def test_meta_gradient_equals_a_loop_by_hand() -> None:
    model = shaken(LSTMMetaLearner(network(), 3, hidden=5).double(), 0.2)
    expect_hand_written(model, by_hand(model.rule), first_order=True)


def test_steps_may_be_taken_again() -> None:
    episode, target = tasks()
    model = shaken(LSTMMetaLearner(network(), 3, hidden=5).double())
    once = gradient(model.loss(episode, target), model)
    model.recompute = True
    expect_same(gradient(model.loss(episode, target), model), once, 1e-12)


def test_support_nodes_have_their_turn() -> None:
    """Every node is seen before one is seen again, three times in three rounds."""
    episode, _ = tasks(1)
    model = LSTMMetaLearner(network(), 9, batch=2).double()
    seen = []
    model.net.encoder.register_forward_hook(lambda _, images, out: seen.append(images[0]))
    model.path(episode)
    support = episode.x[0, episode.support].flatten(1)
    rounds = [torch.cat(seen[r : r + 3]).flatten(1) for r in (0, 3, 6)]
    orders = [torch.cdist(shown, support).argmin(1).tolist() for shown in rounds]
    assert [sorted(order) for order in orders] == [list(range(6))] * 3
    assert orders[0] != orders[1] != orders[2]


def test_turns_span_two_rounds() -> None:
    """Batches of four of six nodes: the second begins in one round and ends in the next."""
    episode, _ = tasks(1)
    model = LSTMMetaLearner(network(), 3, batch=4).double()
    seen = []
    model.net.encoder.register_forward_hook(lambda _, images, out: seen.append(images[0]))
    model.path(episode)
    support = episode.x[0, episode.support].flatten(1)
    order = torch.cdist(torch.cat(seen).flatten(1), support).argmin(1).tolist()
    assert sorted(order[:6]) == sorted(order[6:]) == list(range(6))


def test_refusals() -> None:
    net = network()
    with pytest.raises(InputError, match=r"lstm_meta_learner\.batch must be 1 or more, or null"):
        LSTMMetaLearner(net, batch=0)
    with pytest.raises(InputError, match=r"lstm_meta_learner\.hidden must be 1 or more, not 0"):
        LSTMMetaLearner(net, hidden=0)
    with pytest.raises(InputError, match="for 12 inner steps, not for steps_test=20"):
        LSTMMetaLearner(net, steps_test=20)
