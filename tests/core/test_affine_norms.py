"""Second derivatives through normalisations with a scale, under vmap as in a loop."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import graphfsl as gf
from graphfsl.core.adapt import Adapt, Call
from graphfsl.core.learner import Learner
from graphfsl.core.rules import GradientDescent
from graphfsl.methods.heads.feat import FEAT
from graphfsl.methods.heads.linear import Linear
from graphfsl.testing import DIM, WAY, TinyEncoder, episodes
from tests.support.hand_loops import expect_same, gradient


class Functional(nn.Module):
    """A batch normalisation that is no layer, as networks written for MAML often have it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.rand(4) + 0.5), nn.Parameter(torch.randn(4))

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, None, None, self.weight, self.bias, training=True)


NORMS: dict[str, Callable[[], nn.Module]] = {
    "layer": lambda: nn.LayerNorm((4, 6, 6)),
    "layer, no shift": lambda: nn.LayerNorm((4, 6, 6), bias=False),
    "instance": lambda: nn.InstanceNorm2d(4, affine=True),
    "batch": lambda: nn.BatchNorm2d(4, track_running_stats=False),
    "batch, a function": Functional,
    "group": lambda: nn.GroupNorm(2, 4),
}


def network(norm: str) -> Learner:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(1, 4, 3), NORMS[norm](), nn.Tanh(), nn.Flatten())
    return gf.Pipeline(body, head=Linear(144, WAY), batch_norm="apart")


def with_layer_norm_in_its_head() -> Learner:
    torch.manual_seed(0)
    head = FEAT(DIM, dropout=0, attention_dropout=0)
    return gf.Pipeline(TinyEncoder(), head=head, batch_norm="apart")


NETS: dict[str, Callable[[], Learner]] = {name: partial(network, name) for name in NORMS}
NETS["feat"] = with_layer_norm_in_its_head


@pytest.mark.parametrize("name", NETS)
def test_tasks_at_once_have_the_meta_gradient_of_tasks_in_a_loop(name: str) -> None:
    model = Adapt(NETS[name](), GradientDescent(0.3), 2, task_chunk=1).double()
    with torch.no_grad():
        for p in model.parameters():  # scales that are not 1
            p.add_(0.3 * torch.randn_like(p))
    episode, target = episodes(batch=3, unlabeled=0)
    episode = episode.to(dtype=torch.float64)
    right = gradient(model.loss(episode, target), model)
    model.task_chunk = 3
    expect_same(gradient(model.loss(episode, target), model), right)
    assert any(g.abs().max() > 1e-4 for g in right.values())


@pytest.mark.parametrize("name", ["layer", "instance", "batch, a function"])
def test_curvature_of_the_meta_loss_is_that_of_autograd(name: str) -> None:
    """The Hessian, for which PyTorch maps over directions: its block of scale and kernel."""
    model = Adapt(network(name), GradientDescent(0.3), 1, params="head.*", task_chunk=1).double()
    episode, target = episodes(batch=1, unlabeled=0)
    episode = episode.to(dtype=torch.float64)
    names = ["encoder.1.weight", "encoder.0.weight"]
    scale, kernel = (model.net.get_parameter(n) for n in names)

    def loss(*weights: Tensor) -> Tensor:
        given = {f"net._call.net.{n}": w for n, w in zip(names, weights, strict=True)}
        out: Tensor = torch.func.functional_call(Call(model), given, ("loss", episode, target))
        return out

    hessian = torch.func.hessian(loss, argnums=(0, 1))(scale.detach(), kernel.detach())
    found = hessian[0][1].reshape(scale.numel(), *kernel.shape)
    (slope,) = torch.autograd.grad(model.loss(episode, target), scale, create_graph=True)
    for i in (0, 3):
        (row,) = torch.autograd.grad(slope.flatten()[i], kernel, retain_graph=True)
        torch.testing.assert_close(found[i], row, atol=1e-10, rtol=1e-10)
