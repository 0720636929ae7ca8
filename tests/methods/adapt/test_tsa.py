"""TSA: residuals beside convolutions of a frozen encoder."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from graphfsl.core.pipeline import Pipeline
from graphfsl.core.rules import Adadelta
from graphfsl.methods.adapt.tsa import TSA
from graphfsl.methods.heads.protonet import ProtoNet
from graphfsl.methods.heads.url import URL
from graphfsl.testing import TinyEncoder, unlike_fresh
from tests.support.inner_loops import episode
from tests.support.refusal import refused

KERNEL, MAP = "net.encoder.conv.weight", "net.head.map"


def net() -> Pipeline:
    model = Pipeline(TinyEncoder(), head=URL())
    unlike_fresh(model)
    model.encoder.requires_grad_(False)
    return model.double().eval()


def test_it_starts_where_the_frozen_encoder_is() -> None:
    e = episode()
    model = net()
    torch.testing.assert_close(TSA(model, steps=0).score(e), model.score(e))


def test_all_but_the_middle_of_kernels_stays_to_the_bit() -> None:
    model, e = net(), episode()
    found = TSA(model, steps=3).adapt(e)
    assert set(found) == {KERNEL, MAP}
    before, after = model.encoder.conv.weight, found[KERNEL]
    moved = before != after
    assert moved[:, :, 1, 1].all() and int(moved.sum()) == moved[:, :, 1, 1].numel()


def test_a_change_of_the_middle_is_a_convolution_beside_it() -> None:
    model, e = net(), episode()
    alpha = (TSA(model, steps=3).adapt(e)[KERNEL] - model.encoder.conv.weight)[:, :, 1:2, 1:2]
    x = e.x[0]
    conv: Any = model.encoder.conv
    kernel = conv.weight + F.pad(alpha, (1, 1, 1, 1))
    beside = conv(x) + F.conv2d(x, alpha, stride=conv.stride)
    torch.testing.assert_close(F.conv2d(x, kernel, conv.bias, conv.stride, 1), beside)


def test_the_loss_of_the_support_falls() -> None:
    e = episode()
    learner = TSA(net(), steps=20)
    path = learner.path(e)
    losses = [float(learner.inner_loss(p, 0, e, learner.caller)) for p in (path[0], path[-1])]
    assert losses[1] < losses[0]


def test_adadelta_is_the_one_of_torch() -> None:
    g = torch.Generator().manual_seed(0)
    start = torch.randn(5, generator=g, dtype=torch.float64)
    grads = torch.randn(4, 5, generator=g, dtype=torch.float64)
    theirs = nn.Parameter(start.clone())
    optimizer = torch.optim.Adadelta([theirs], lr=0.3)
    rule = Adadelta(0.3)
    params = {"a": start}
    state = rule.init(params)
    for step, gradient in enumerate(grads):
        theirs.grad = gradient
        optimizer.step()
        params, state = rule.update(params, {"a": gradient}, start.sum(), state, step)
    torch.testing.assert_close(params["a"], theirs.detach())


def test_a_learner_without_kernels_is_refused() -> None:
    with refused("conv4", "url"):
        TSA(Pipeline(nn.Linear(4, 3), head=ProtoNet()))
