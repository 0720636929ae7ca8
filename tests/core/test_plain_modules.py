"""`Adapt` takes any module, unmodified, by the module's own names."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import graphfsl as gf
from graphfsl.core.adapt import Adapt, Call
from graphfsl.core.episode import Episode, Target
from graphfsl.core.objectives import support_loss
from graphfsl.core.rules import GradientDescent
from graphfsl.io.errors import InputError
from graphfsl.methods.adapt.anil import ANIL
from graphfsl.methods.adapt.maml import FOMAML, MAML
from graphfsl.methods.adapt.meta_sgd import MetaSGD
from graphfsl.methods.adapt.reptile import Reptile
from graphfsl.testing import WAY, episodes, value_episodes

LR, STEPS = 0.2, 2


def network(outputs: int = WAY) -> nn.Sequential:
    torch.manual_seed(0)
    layers = (nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 36, outputs))
    return nn.Sequential(*layers).double()


def exact() -> tuple[Episode, Target]:
    episode, target = episodes(unlabeled=0)
    return episode.to(dtype=torch.float64), target


def by_hand(module: nn.Module, episode: Episode, target: Target, names: list[str]) -> Tensor:
    losses = []
    for i in range(len(episode.x)):
        x, y = episode.x[i, episode.support], episode.w[i, episode.support].argmax(-1)
        theta: dict[str, Tensor] = {n: module.get_parameter(n) for n in names}
        for _ in range(STEPS):
            loss = F.cross_entropy(torch.func.functional_call(module, theta, (x,)), y)
            grads = torch.autograd.grad(loss, list(theta.values()), create_graph=True)
            theta = {n: p - LR * g for (n, p), g in zip(theta.items(), grads, strict=True)}
        queries = torch.func.functional_call(module, theta, (episode.x[i, episode.query],))
        losses.append(F.cross_entropy(queries, target.query[i]))
    return torch.stack(losses).mean()


@pytest.mark.parametrize("task_chunk", [1, 2])
@pytest.mark.parametrize(
    ("params", "names"),
    [
        ("*", ["0.weight", "0.bias", "3.weight", "3.bias"]),
        ("3.*", ["3.weight", "3.bias"]),
        (["*", "!*.bias"], ["0.weight", "3.weight"]),
    ],
)
def test_meta_gradient_equals_a_hand_written_loop(
    task_chunk: int, params: str | list[str], names: list[str]
) -> None:
    module, (episode, target) = network(), exact()
    wanted = torch.autograd.grad(
        by_hand(module, episode, target, names), list(module.parameters()), allow_unused=True
    )
    before = copy.deepcopy(module.state_dict())
    model = Adapt(
        module, GradientDescent(LR), STEPS, support_loss, params=params, task_chunk=task_chunk
    )
    model.loss(episode, target).backward()
    for p, g in zip(module.parameters(), wanted, strict=True):
        torch.testing.assert_close(p.grad, g, atol=1e-10, rtol=1e-8)
    model(episode)
    assert all(torch.equal(v, before[n]) for n, v in module.state_dict().items())


class Attention(nn.Module):
    """Rows of an image attend to each other, in one kernel or as the equation says."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.fused = fused
        self.q, self.out = nn.Linear(8, 8), nn.Linear(64, WAY)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(1, 2)
        q = self.q(rows)
        if self.fused:
            seen = F.scaled_dot_product_attention(q, rows, rows)
        else:
            seen = (q @ rows.mT / 8**0.5).softmax(-1) @ rows
        scores: Tensor = self.out(seen.flatten(1))
        return scores


@pytest.mark.parametrize("task_chunk", [1, 2])
@pytest.mark.parametrize("recompute", [False, True])
def test_attention_in_one_kernel_has_second_derivatives(task_chunk: int, recompute: bool) -> None:
    torch.manual_seed(0)
    fused, plain = Attention(True).double(), Attention(False).double()
    plain.load_state_dict(fused.state_dict())
    episode, target = exact()
    names = [name for name, _ in plain.named_parameters()]
    wanted = torch.autograd.grad(by_hand(plain, episode, target, names), list(plain.parameters()))
    model = Adapt(fused, GradientDescent(LR), STEPS, task_chunk=task_chunk, recompute=recompute)
    model.loss(episode, target).backward()
    for p, g in zip(fused.parameters(), wanted, strict=True):
        torch.testing.assert_close(p.grad, g, atol=1e-10, rtol=1e-8)


@pytest.mark.parametrize("method", [MAML, FOMAML, MetaSGD, Reptile])
def test_methods_take_a_module(method: type[Adapt]) -> None:
    episode, target = exact()
    model = method(network()).double()  # type: ignore[arg-type, call-arg]
    model.loss(episode, target).backward()
    assert model(episode).shape == (2, episode.n_query, WAY)
    assert model.class_order_sensitive and model.answers == "classes"


def test_more_outputs_than_classes_answer_with_the_first_of_them() -> None:
    episode, _ = exact()
    wide, narrow = network(7), network(WAY)
    with torch.no_grad():
        wide[0].load_state_dict(narrow[0].state_dict())
        wide.get_parameter("3.weight")[:WAY] = narrow.get_parameter("3.weight")
        wide.get_parameter("3.bias")[:WAY] = narrow.get_parameter("3.bias")
    answers = [MAML(net, steps=2)(episode) for net in (wide, narrow)]
    torch.testing.assert_close(*answers, atol=1e-12, rtol=0)


def test_values_are_answered_and_adapted_to() -> None:
    episode, target = value_episodes()
    episode = episode.to(dtype=torch.float64)
    module = network(1)
    model = MAML(gf.Pipeline(module, head=gf.Outputs("values")), steps=1, lr=LR, params="3.*")
    assert model.answers == "values" and not model.class_order_sensitive
    assert model.adapted == ["net.encoder.3.weight", "net.encoder.3.bias"]
    x, y = episode.x[0, episode.support], episode.values[0, episode.support]
    theta: dict[str, Tensor] = {n: module.get_parameter(n) for n in ("3.weight", "3.bias")}
    loss = (torch.func.functional_call(module, theta, (x,)) - y).square().mean()
    grads = torch.autograd.grad(loss, list(theta.values()))
    theta = {n: p - LR * g for (n, p), g in zip(theta.items(), grads, strict=True)}
    wanted = torch.func.functional_call(module, theta, (episode.x[0, episode.query],))
    torch.testing.assert_close(model(episode)[0], wanted, atol=1e-12, rtol=0)
    model.loss(episode, target).backward()


class Writes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, WAY)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.seen.add_(1)
        out: Tensor = self.linear(x.flatten(1))
        return out


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(8, 8, batch_first=True)
        self.linear = nn.Linear(8, WAY)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.gru(x.squeeze(1))
        out: Tensor = self.linear(states[:, -1])
        return out


def test_a_layer_without_a_rule_for_many_tasks_at_once_is_told_what_would_do() -> None:
    episode, target = episodes(unlabeled=0)
    MAML(Recurrent(), steps=1, task_chunk=1).loss(episode, target).backward()
    with pytest.raises(InputError, match="task_chunk=1 takes them one by one"):
        MAML(Recurrent(), steps=1, task_chunk=2)(episode)
    with pytest.raises(InputError, match="fails on samples") as caught:
        MAML(nn.Linear(3, WAY), steps=1, task_chunk=1)(episode)
    assert "task_chunk" not in str(caught.value)


def test_bad_input_is_one_line() -> None:
    rule = GradientDescent(0.1)
    episode, _ = episodes()
    values, _ = value_episodes()
    refused = {
        "no parameter matches 'head.*'; the net has 0.weight, 0.bias": lambda: ANIL(network()),
        "no parameter matches 'no.such'": lambda: Adapt(network(), rule, 1, params="no.such"),
        "patterns as 'head.*', not 3": lambda: Adapt(network(), rule, 1, params=["*", 3]),  # type: ignore[list-item]
        "patterns as 'head.*', not 4": lambda: Adapt(network(), rule, 1, params=4),
        "the module has 2 outputs, but the episode is 3-way": lambda: MAML(network(2).float())(
            episode
        ),
        "answers must be classes or values, not 'x'": lambda: gf.Outputs("x"),
        "answers with classes, but the episode is of values": lambda: MAML(network().float())(
            values
        ),
        "writes its buffer": lambda: MAML(Writes())(episode),
        "what adapts must be a Learner": lambda: Adapt(nn.Linear, rule, 1),
    }
    for message, call in refused.items():
        with pytest.raises(InputError) as caught:
            call()
        assert message in str(caught.value) and "\n" not in str(caught.value), str(caught.value)


def test_a_part_that_scores_nothing_is_refused() -> None:
    from graphfsl.methods.graph.message_passing import MessagePassing

    with pytest.raises(InputError, match="must be a Learner"):
        Adapt(MessagePassing(6), GradientDescent(0.1), 1)


class Counts(nn.Module):
    """Puts another tensor in the place of a buffer."""

    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, WAY)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.seen = self.seen + 1
        out: Tensor = self.linear(x.flatten(1))
        return out


class KeepsAverages(Counts):
    """Writes averages by a function, which PyTorch does not count."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("variance", torch.ones(64))

    def forward(self, x: Tensor) -> Tensor:
        y = F.batch_norm(x.flatten(1), torch.zeros(64), self.variance, training=self.training)
        out: Tensor = self.linear(y)
        return out


class Clips(Counts):
    """Writes a parameter."""

    def forward(self, x: Tensor) -> Tensor:
        self.linear.bias.data.clamp_(-1e-3, 1e-3)
        out: Tensor = self.linear(x.flatten(1))
        return out


class Remembers(Counts):
    """Computes once what it then keeps, which is the same whatever the task is."""

    def forward(self, x: Tensor) -> Tensor:
        self.seen = torch.zeros(())
        out: Tensor = self.linear(x.flatten(1))
        return out


def power_iteration() -> nn.Module:
    spectral = nn.utils.parametrizations.spectral_norm
    return nn.Sequential(nn.Flatten(), spectral(nn.Linear(64, WAY)))


@pytest.mark.parametrize("method", ["score", "loss"])
@pytest.mark.parametrize("task_chunk", [1, 2])
@pytest.mark.parametrize(
    ("module", "named"),
    [
        (Writes, "seen"),
        (Counts, "seen"),
        (KeepsAverages, "variance"),
        (Clips, "linear.bias"),
        (power_iteration, "1.parametrizations.weight.0._u"),
    ],
)
def test_a_module_that_writes_what_it_stores_is_refused(
    module: Callable[[], nn.Module], named: str, task_chunk: int, method: str
) -> None:
    model = MAML(module(), steps=1, lr=LR, task_chunk=task_chunk)
    arguments = episodes() if method == "loss" else episodes()[:1]
    with pytest.raises(InputError, match="the net writes ") as caught:
        getattr(model, method)(*arguments)
    said = str(caught.value)
    assert "\n" not in said
    assert named in said or (task_chunk > 1 and "writes a " in said), said


def test_a_mode_first_seen_in_a_function_transform_is_watched_afterwards() -> None:
    """A transform does not compare numbers, so that it says nothing of the mode it ran in."""
    model = MAML(KeepsAverages(), steps=1, lr=LR, task_chunk=1)
    episode, target = episodes()

    def loss(params: dict[str, Tensor]) -> Tensor:
        arguments = ("loss", episode, target)
        out: Tensor = torch.func.functional_call(Call(model), params, arguments)
        return out

    torch.func.grad(loss)({f"net.{n}": p.detach() for n, p in model.named_parameters()})
    with pytest.raises(InputError, match=r"the net writes its buffer '.*variance'"):
        model.loss(episode, target)


@pytest.mark.parametrize("task_chunk", [1, 2])
@pytest.mark.parametrize("momentum", [0.1, None])
def test_batchnorm_with_averages_leaves_them_as_they_are(
    task_chunk: int, momentum: float | None
) -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4, momentum=momentum)
    module = nn.Sequential(nn.Conv2d(1, 4, 3), norm, nn.Flatten(), nn.Linear(144, WAY)).double()
    model, (episode, target) = MAML(module, STEPS, LR, task_chunk=task_chunk), exact()
    before = copy.deepcopy(module.state_dict())
    model.train().loss(episode, target).backward()
    model.eval().score(episode)
    assert all(torch.equal(v, before[n]) for n, v in module.state_dict().items())


def test_a_module_may_keep_what_does_not_change() -> None:
    episode, target = episodes()
    MAML(Remembers(), steps=1, lr=LR).loss(episode, target).backward()
