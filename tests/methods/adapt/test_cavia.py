"""CAVIA: a context that starts at zero is all that adapts."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import graphfsl as gf
from graphfsl.core.adapt import Adapt
from graphfsl.core.objectives import support_loss
from graphfsl.core.rules import GradientDescent
from graphfsl.experiment import run as runs
from graphfsl.experiment.experiment import Experiment
from graphfsl.io.checkpoint import load_checkpoint
from graphfsl.io.errors import InputError
from graphfsl.methods.adapt.cavia import CAVIA, ContextInput, FiLM
from graphfsl.methods.heads.linear import Linear
from graphfsl.testing import DIM, WAY, TinyEncoder, episodes, value_episodes

LR, M = 0.5, 4


def net() -> gf.Pipeline:
    torch.manual_seed(0)
    return gf.Pipeline(TinyEncoder(), head=Linear(DIM, WAY)).double()


def perceptron(inputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, 8), nn.Tanh(), nn.Linear(8, 1)).double()


@pytest.mark.parametrize("task_chunk", [1, 2])
def test_meta_gradient_of_images_equals_a_hand_written_loop(task_chunk: int) -> None:
    episode, target = episodes(unlabeled=0)
    episode = episode.to(dtype=torch.float64)
    model = CAVIA(net(), at="norm", context=M, steps=2, lr=LR, task_chunk=task_chunk)
    encoder, head = model.net.encoder, model.net.head
    norm, film = encoder.norm, encoder.norm.context
    assert isinstance(film, FiLM)

    def forward(phi: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        z = F.batch_norm(encoder.conv(x), None, None, norm.weight, norm.bias, training=True)
        gamma, beta = F.linear(phi, film.linear.weight, film.linear.bias).chunk(2)
        z = gamma.view(-1, 1, 1) * z + beta.view(-1, 1, 1)
        return head.linear(F.max_pool2d(F.softplus(z), 2).mean((-1, -2)))

    losses = []
    for i in range(2):
        phi = torch.zeros(M, dtype=torch.float64, requires_grad=True)
        y = episode.w[i, episode.support].argmax(-1)
        for _ in range(2):
            loss = F.cross_entropy(forward(phi, episode.x[i, episode.support]), y)
            phi = phi - LR * torch.autograd.grad(loss, phi, create_graph=True)[0]
        losses.append(F.cross_entropy(forward(phi, episode.x[i, episode.query]), target.query[i]))
    learned = [p for p in model.parameters() if p.requires_grad]
    wanted = torch.autograd.grad(torch.stack(losses).mean(), learned)
    model.loss(episode, target).backward()
    for p, g in zip(learned, wanted, strict=True):
        torch.testing.assert_close(p.grad, g, atol=1e-10, rtol=1e-8)
    assert film.phi.grad is None and not film.phi.any()


def test_beside_a_linear_layer_it_is_further_input() -> None:
    """The same as adapting the last inputs of a wider layer, which see nothing but the context."""
    episode, target = value_episodes(unlabeled=0)
    x = episode.x.flatten(2)[..., :3].double()
    episode = gf.Episode(
        x, episode.w.double(), episode.n_support, episode.n_query, values=episode.values.double()
    )
    torch.manual_seed(0)
    narrow = perceptron(3)
    model = CAVIA(gf.Pipeline(narrow, head=gf.Outputs("values")), at="0", context=M, lr=LR)
    layer = narrow[0]
    assert isinstance(layer.context, ContextInput)
    wide = perceptron(3 + M)
    with torch.no_grad():
        wide.get_parameter("0.weight")[:, :3] = narrow.get_parameter("0.weight")
        wide.get_parameter("0.weight")[:, 3:] = layer.context.weight
        wide[0].bias.copy_(layer.bias)
        wide[2].load_state_dict(narrow[2].state_dict())
    phi = torch.zeros(M, dtype=torch.float64, requires_grad=True)

    def forward(phi: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = wide(torch.cat([x, phi.expand(len(x), M)], 1))
        return out

    for _ in range(2):
        loss = (forward(phi, x[0, episode.support]) - episode.values[0, episode.support]).square()
        phi = phi - LR * torch.autograd.grad(loss.mean(), phi)[0]
    torch.testing.assert_close(
        model(episode)[0], forward(phi, x[0, episode.query]), atol=1e-12, rtol=0
    )
    model.loss(episode, target).backward()


def test_the_meta_gradient_agrees_with_finite_differences() -> None:
    episode, target = episodes(unlabeled=0)
    episode = episode.to(dtype=torch.float64)
    model = CAVIA(net(), at="norm", context=M, steps=2, lr=LR)
    model.loss(episode, target).backward()
    p = model.net.encoder.norm.context.linear.weight
    values = []
    for side in (1e-5, -2e-5):
        with torch.no_grad():
            p[3, 1] += side
            values.append(model.loss(episode, target))
    found = (values[0] - values[1]) / 2e-5
    torch.testing.assert_close(p.grad[3, 1], found, atol=1e-7, rtol=1e-6)


def test_without_a_step_the_network_is_what_it_was() -> None:
    episode = episodes(unlabeled=0)[0].to(dtype=torch.float64)
    plain = Adapt(net(), GradientDescent(LR), 0, support_loss)
    plain.set_batch_norm("apart")
    model = CAVIA(net(), at="norm", context=M, steps=0)
    assert torch.equal(model(episode), plain(episode))


def test_it_stands_behind_the_third_block_of_conv4() -> None:
    learner = gf.build({"encoder": "conv4", "head": "linear", "adapt": "cavia"}, (1, 28, 28), way=5)
    assert learner.adapted == ["net.encoder.norms.2.context.phi"]
    assert learner.net.encoder.norms[2].context.phi.shape == (100,)


def test_weights_of_a_network_without_a_context_load() -> None:
    """All names are what they were; a context, where there is one, is loaded too, and whole."""
    plain = net()
    without = {name: p + 1 for name, p in net().state_dict().items()}
    model = CAVIA(plain, at="norm", context=M)
    reader = model.net.encoder.norm.context
    started = {name: p.clone() for name, p in reader.state_dict().items()}
    model.net.load_state_dict(without)
    found = model.net.state_dict()
    assert all(torch.equal(found[name], p) for name, p in without.items())
    assert all(torch.equal(p, started[name]) for name, p in reader.state_dict().items())
    assert found.keys() - without.keys() == {f"encoder.norm.context.{name}" for name in started}

    with_context = {name: p + 1 for name, p in found.items()}
    model.net.load_state_dict(with_context)
    assert all(torch.equal(p, started[name] + 1) for name, p in reader.state_dict().items())
    del with_context["encoder.norm.context.phi"]
    with pytest.raises(RuntimeError, match=r"Missing key.*encoder\.norm\.context\.phi"):
        model.net.load_state_dict(with_context)


def test_an_encoder_is_pretrained_before_it_reads_a_context(world: Path) -> None:
    first = "pretrain={objective: cross_entropy, trainer: {steps: 2, batch: 8}}"
    learner = ("learner.head=linear", "learner.adapt={name: cavia, context: 4}")
    run, base = runs.prepare(Experiment.read(world / "my.yaml", [first, *learner]), world / "run")
    runs.pretrain(run, base)
    (folder,) = world.glob("pretrain-*")
    pretrained = load_checkpoint(folder / "model.safetensors")[0]
    encoder: Any = run.learner.innermost.encoder
    found = {f"encoder.{name}": p for name, p in encoder.state_dict().items()}
    of_encoder = {name: p for name, p in pretrained.items() if name.startswith("encoder.")}
    assert of_encoder and all(torch.equal(found[name], p) for name, p in of_encoder.items())


def test_a_copy_has_a_context_of_its_own() -> None:
    episode = episodes(unlabeled=0)[0].to(dtype=torch.float64)
    model = CAVIA(net(), at="norm", context=M, lr=LR)
    before, other = model(episode), copy.deepcopy(model)
    with torch.no_grad():
        other.net.encoder.norm.context.linear.bias.add_(1)
    assert not torch.equal(other(episode), before)
    assert torch.equal(model(episode), before)


def test_bad_input_is_one_line() -> None:
    for message, call in {
        "the encoder has no layer 'norms.2'": lambda: CAVIA(net(), at="norms.2"),
        "not behind a Flatten": lambda: CAVIA(nn.Sequential(nn.Flatten()), at="0"),
        "reads a context already": lambda: CAVIA(CAVIA(net(), at="norm").net, at="norm"),
        "cavia.context": lambda: CAVIA(net(), at="norm", context=0),
        "has no layer None that could read a context; it has 0": lambda: CAVIA(
            nn.Sequential(nn.Flatten())
        ),
        "must be a Learner": lambda: CAVIA("gnn"),  # type: ignore[arg-type]
    }.items():
        with pytest.raises(InputError) as caught:
            call()
        assert message in str(caught.value) and "\n" not in str(caught.value), str(caught.value)
