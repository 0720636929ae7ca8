"""Identities of the MAML family: what its members have in common, and where they become one."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from graphfsl.core.adapt import Adapt, Call
from graphfsl.core.objectives import mini_batch_loss
from graphfsl.core.outputs import Outputs
from graphfsl.core.pipeline import Pipeline
from graphfsl.core.rules import GradientDescent, Rule
from graphfsl.io.errors import InputError
from graphfsl.methods.adapt import maml_plus_plus
from graphfsl.methods.adapt.alfa import ALFA
from graphfsl.methods.adapt.imaml import IMAML
from graphfsl.methods.adapt.lstm_meta_learner import LSTMMetaLearner
from graphfsl.methods.adapt.maml import FOMAML, MAML
from graphfsl.methods.adapt.maml_plus_plus import MAMLPlusPlus, step_weights
from graphfsl.methods.adapt.meta_curvature import MetaCurvature
from graphfsl.methods.adapt.meta_sgd import MetaSGD
from graphfsl.methods.adapt.reptile import Reptile
from graphfsl.methods.heads.linear import Linear
from tests.support.hand_loops import (
    Params,
    expect_finite_differences,
    expect_hand_written,
    expect_same,
    gradient,
    network,
    own_parameters,
    query_loss,
    shaken,
    support_loss,
    tasks,
)

MAKERS = {
    "maml": lambda net: MAML(net, 2, 0.2),
    "fomaml": lambda net: FOMAML(net, 2, 0.2),
    "anil": lambda net: MAML(net, 2, 0.2, params="head.*"),
    "boil": lambda net: MAML(net, 2, 0.2, params="encoder.*"),
    "reptile": lambda net: Reptile(net, 3, 0.1, batch=4, rule="sgd", steps_test=4),
    "meta_sgd": lambda net: MetaSGD(net, 2),
    "maml_plus_plus": lambda net: MAMLPlusPlus(net, 2),
    "imaml": lambda net: IMAML(net, 3),
    "lstm_meta_learner": lambda net: LSTMMetaLearner(net, 3, hidden=4),
    "meta_curvature": lambda net: MetaCurvature(net, 2, 0.2),
    "alfa": lambda net: ALFA(net, 2, 0.2),
}
WITHOUT_BATCH_NORM = ["*", "!encoder.norm.*"]
every_learner = pytest.mark.parametrize("name", MAKERS)


def made(name: str) -> Adapt:
    torch.manual_seed(1)
    return MAKERS[name](network()).double()


# What all of them keep


@every_learner
def test_chunks_of_tasks_and_a_plain_graph_agree(name: str) -> None:
    """The gradient that is taken chunk by chunk, and that of one graph through everything."""
    model, (episode, target) = made(name), tasks()
    right = gradient(model.loss(episode, target), model)
    for chunk in (1, 2, 3):
        model.task_chunk = chunk
        expect_same(gradient(model.loss(episode, target), model), right)
        x = episode.x.clone().requires_grad_()  # keeps the graph
        expect_same(gradient(model.loss(episode.replace(x=x), target), model), right)


@every_learner
def test_nothing_that_is_stored_changes(name: str) -> None:
    model, (episode, target) = made(name), tasks()
    before = copy.deepcopy(model.state_dict())
    model.eval().score(episode)
    model.train().loss(episode, target).backward()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    "name", ["meta_sgd", "maml_plus_plus", "lstm_meta_learner", "meta_curvature", "alfa"]
)
def test_what_a_rule_learns_belongs_to_the_model(name: str) -> None:
    """It trains, is saved, and moves with the model; a fresh model with its weights is the same."""
    model, (episode, _) = shaken(made(name)).eval(), tasks(1)
    own = {f"rule.{key}": p for key, p in model.rule.named_parameters()}
    assert own and own.keys() <= dict(model.named_parameters()).keys()
    assert own.keys() <= model.state_dict().keys()
    other = MAKERS[name](network(seed=5)).double().eval()
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(episode), model(episode))
    moved = copy.deepcopy(model).to("meta", torch.float32)
    assert {(p.device.type, p.dtype) for p in moved.rule.parameters()} == {("meta", torch.float32)}


@pytest.mark.parametrize("method", [ALFA, MAMLPlusPlus])
def test_batch_norm_does_not_adapt_in_a_module_given_with_its_outputs(
    method: Callable[[nn.Module], Adapt],
) -> None:
    """As in the bare module, whose layers have the same names."""

    def module() -> nn.Module:
        torch.manual_seed(0)
        layers = [nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, 5)]
        return nn.Sequential(*layers).double()

    bare, given = method(module()), method(Pipeline(module(), head=Outputs()))
    names = [name.removeprefix("net.encoder.") for name in given.adapted]
    assert names == ["1.weight", "1.bias", "3.weight", "3.bias"]
    assert given.adapted == bare.adapted
    episode, target = tasks()
    found = gradient(given.double().loss(episode, target), given)
    right = gradient(bare.double().loss(episode, target), bare)
    own = {name for name in found if name.startswith("norms.")}
    assert bool(own) == (method is MAMLPlusPlus)
    assert all(found[name].abs().sum() > 0 for name in own)
    if method is MAMLPlusPlus:  # ALFA's network starts at random weights
        expect_same(found, right, 0)


def test_maml_plus_plus_without_inner_steps_costs_the_queries_loss() -> None:
    model, (episode, target) = MAMLPlusPlus(network(), steps=0), tasks()
    start = own_parameters(model)
    right = torch.stack([query_loss(start, episode, target, i) for i in range(3)]).mean()
    torch.testing.assert_close(model.train().loss(episode, target), right)


class Mutating(nn.Module):
    """Counts its calls in a buffer, as a module with running averages does."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 5)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls.add_(1)
        out: Tensor = self.linear(x.flatten(1)).tanh()
        return out


@pytest.mark.parametrize("task_chunk", [1, 2])
def test_a_module_that_writes_a_buffer_is_refused_in_one_line(task_chunk: int) -> None:
    net = Pipeline(Mutating(), head=Linear(5, 3)).double()
    model, (episode, target) = MAML(net, 1, 0.1, task_chunk=task_chunk), tasks(2)
    # function transforms do not say which
    found = r"writes its buffer 'encoder\.calls'" if task_chunk == 1 else "the net writes a buffer"
    for call in (lambda: model.score(episode), lambda: model.loss(episode, target)):
        with pytest.raises(InputError, match=found) as caught:
            call()
        assert "\n" not in str(caught.value)


class ByLoss(Rule):
    """Steps as long as the loss is high."""

    def update(self, params, grads, loss, state, step):  # type: ignore[no-untyped-def]
        return {n: p - 0.1 * loss * grads[n] for n, p in params.items()}, state


@pytest.mark.parametrize("first_order", [False, True])
def test_first_order_takes_the_loss_for_a_constant_too(first_order: bool) -> None:
    def move(p: Params, grads: Params, loss: Tensor, state: None, step: int):  # type: ignore[no-untyped-def]
        return {n: v - 0.1 * loss * grads[n] for n, v in p.items()}, None

    model = Adapt(network(), ByLoss(), 2, first_order=first_order)
    expect_hand_written(model, move, first_order=first_order)


def test_steps_of_the_test_are_taken_outside_of_training_only() -> None:
    model, (episode, _) = MAML(network(), 1, 0.1, steps_test=4), tasks(1)
    assert len(model.train().path(episode)) == 2
    assert len(model.eval().path(episode)) == 5
    right = MAML(model.net, 4, 0.1).eval()
    assert torch.equal(model(episode), right(episode))


# Differentiated twice, and under function transforms


class Smooth(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear(x.flatten(1)).tanh()
        return out


@pytest.mark.parametrize("task_chunk", [1, 2])
def test_second_derivatives_of_the_loss_are_true(task_chunk: int) -> None:
    """By autograd twice, and as the Hessian of a function."""
    torch.manual_seed(0)
    net, (episode, target) = Pipeline(Smooth(), head=Linear(2, 3)).double(), tasks(2)
    model = MAML(net, 2, 0.1, task_chunk=task_chunk)
    names = [name for name, _ in model.named_parameters()]
    tensors = [p for _, p in model.named_parameters()]
    g = torch.Generator().manual_seed(0)
    along = [torch.randn(p.shape, generator=g, dtype=p.dtype) for p in tensors]

    def slope() -> Tensor:
        grads = torch.autograd.grad(model.loss(episode, target), tensors, create_graph=True)
        return torch.stack([(a * b).sum() for a, b in zip(grads, along, strict=True)]).sum()

    found = torch.autograd.grad(slope(), tensors)
    ends = []
    for sign in (1, -1):
        with torch.no_grad():
            for p, d in zip(tensors, along, strict=True):
                p.add_(d, alpha=sign * 1e-5)
        ends.append(torch.autograd.grad(model.loss(episode, target), tensors))
        with torch.no_grad():
            for p, d in zip(tensors, along, strict=True):
                p.sub_(d, alpha=sign * 1e-5)
    for value, high, low in zip(found, *ends, strict=True):
        torch.testing.assert_close(value, (high - low) / 2e-5, atol=1e-7, rtol=1e-6)

    def loss(params: Params) -> Tensor:
        out: Tensor = torch.func.functional_call(Call(model), params, ("loss", episode, target))
        return out

    at = {f"net.{n}": p.detach() for n, p in zip(names, tensors, strict=True)}
    direction = {f"net.{n}": d for n, d in zip(names, along, strict=True)}
    _, product = torch.func.jvp(torch.func.grad(loss), (at,), (direction,))  # type: ignore[misc]
    for name, value in zip(names, found, strict=True):
        torch.testing.assert_close(product[f"net.{name}"], value, atol=1e-10, rtol=1e-10)


def test_a_loss_is_pushed_back_twice() -> None:
    model, (episode, target) = made("maml"), tasks()
    loss = model.loss(episode, target)
    loss.backward(retain_graph=True)
    once = [p.grad.clone() for p in model.parameters()]
    (2 * loss).backward()
    for p, g in zip(model.parameters(), once, strict=True):
        torch.testing.assert_close(p.grad, 3 * g)


# Meta-SGD


@pytest.mark.parametrize("task_chunk", [1, 3])
def test_meta_sgd_of_one_rate_is_maml(task_chunk: int) -> None:
    net, (episode, target) = network(), tasks()
    ours = MetaSGD(net, 2, low=0.3, high=0.3, task_chunk=task_chunk).double()
    for p in ours.rule.parameters():
        nn.init.constant_(p, 0.3)  # to the last bit
    maml = MAML(net, 2, 0.3, task_chunk=task_chunk)
    assert torch.equal(ours(episode), maml(episode))
    found = gradient(ours.loss(episode, target), ours)
    right = gradient(maml.loss(episode, target), maml)
    expect_same({name: found[name] for name in right}, right, 1e-14)


def test_meta_sgd_equals_a_loop_by_hand() -> None:
    model = shaken(MetaSGD(network(), 2).double(), 0.1)

    def move(p: Params, grads: Params, loss: Tensor, state: None, step: int):  # type: ignore[no-untyped-def]
        alpha = {n: model.rule.alpha["net/" + n.replace(".", "/")] for n in p}
        return {n: v - alpha[n] * grads[n] for n, v in p.items()}, None

    expect_hand_written(model, move, shot_sum=True)
    expect_finite_differences(model)


@every_learner
def test_more_steps_than_rates_were_learned_for_are_refused(name: str) -> None:
    model = made(name)
    if model.rule.most_steps is None:
        return
    kind: Any = type(model)
    steps = model.rule.most_steps
    refusal = f"for {steps} inner steps, not for steps_test={steps + 1}"
    with pytest.raises(InputError, match=refusal):
        kind(model.net, steps=steps, steps_test=steps + 1)
    longer = kind(model.net, steps=steps, steps_test=steps + 2, beyond="last").double().eval()
    assert len(longer.path(tasks(1)[0])) == steps + 3


# MAML++


def mean_maml(net: Pipeline, steps: int) -> Adapt:
    """MAML on the mean loss, which leaves BatchNorm to the outer loop."""
    return Adapt(net, GradientDescent(0.1), steps, params=WITHOUT_BATCH_NORM)


@pytest.mark.parametrize("by_weights", [False, True])
def test_the_loss_after_the_last_step_alone_is_maml(
    by_weights: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once the multi-step loss has ended, and with weights 0, 0, 1 while it lasts."""
    net, (episode, target) = network(), tasks()
    model = MAMLPlusPlus(net, 3, norms_per_step=False).double()
    if by_weights:
        model.progress = 0.0
        monkeypatch.setattr(maml_plus_plus, "step_weights", lambda steps, progress: [0, 0, 1])
    maml = mean_maml(net, 3)
    loss, right = model.loss(episode, target), maml.loss(episode, target)
    torch.testing.assert_close(loss, right, atol=1e-13, rtol=1e-13)
    found, expected = gradient(loss, model), gradient(right, maml)
    expect_same({name: found[name] for name in expected}, expected, 1e-13)


def test_steps_of_one_kind_are_one_computation() -> None:
    """`trainer.cuda_graph` replays a step for all others of its kind."""
    model = MAMLPlusPlus(network(), 3, multi_step=0.2, first_order_share=0.5).double()
    found: dict[object, list] = {}
    for progress in (0.0, 0.1, 0.2, 0.4, 0.5, 0.9):
        model.progress = progress
        loss = model.loss(*tasks())
        found.setdefault(model.step_kind, []).append([loss, *gradient(loss, model).values()])
    assert [len(same) for same in found.values()] == [1, 1, 2, 2]
    for same in found.values():
        for other in same[1:]:
            assert all(torch.equal(a, b) for a, b in zip(same[0], other, strict=True))


def test_multi_step_losses_and_rates_equal_a_loop_by_hand() -> None:
    """Every step has rates and norms of its own, and a query is normalised as its step was."""
    model = shaken(MAMLPlusPlus(network(), 3, multi_step=0.5).double(), 0.05)
    g = torch.Generator().manual_seed(2)
    for p in model.norms.values():
        p.data += 0.2 * torch.randn(p.shape, generator=g, dtype=p.dtype)
    model.progress = 0.2  # 0.4 of the way
    adapted = [n for n in own_parameters(model) if not n.startswith("encoder.norm")]
    episode, target = tasks()
    total = []
    for task in range(len(episode.x)):
        fast = {n: own_parameters(model)[n] for n in adapted}
        for step, weight in enumerate(step_weights(3, 0.4)):
            norms = {
                f"encoder.norm.{w}": model.norms[f"net/encoder/norm/{w}"][step]
                for w in ("weight", "bias")
            }
            loss = support_loss({**fast, **norms}, episode, task, shot_sum=False)
            grads = torch.autograd.grad(loss, list(fast.values()), create_graph=True)
            rates = [model.rule.alpha["net/" + n.replace(".", "/")][step] for n in fast]
            moves = zip(fast.items(), rates, grads, strict=True)
            fast = {n: v - rate * grad for (n, v), rate, grad in moves}
            total.append(weight * query_loss({**fast, **norms}, episode, target, task))
    expected = torch.stack(total).sum() / len(episode.x)
    right = gradient(expected, model)
    for chunk in (1, 3):
        model.task_chunk = chunk
        loss = model.loss(episode, target)
        torch.testing.assert_close(loss, expected, atol=1e-12, rtol=1e-12)
        expect_same(gradient(loss, model), right)


@pytest.mark.parametrize("steps_test", [1, 2, 3, 5])
def test_an_answer_is_normalised_as_its_last_step_was(steps_test: int) -> None:
    model = MAMLPlusPlus(network(), 3, steps_test=steps_test, beyond="last").double().eval()
    for p in model.norms.values():
        p.data += torch.arange(3).double()[:, None]
    episode, _ = tasks(1)
    row = min(steps_test, 3) - 1
    plain = copy.deepcopy(model.net)
    norm = plain.encoder.norm
    norm.weight.data = model.norms["net/encoder/norm/weight"][row].detach()
    norm.bias.data = model.norms["net/encoder/norm/bias"][row].detach()
    last = {n.removeprefix("net."): p for n, p in model.adapt(episode).items()}
    right = torch.func.functional_call(plain, last, (episode,))
    torch.testing.assert_close(model(episode), right, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("steps", [1, 3, 5])
def test_weights_of_the_steps_are_the_authors(steps: int) -> None:
    """As their loop computes them for epochs 0 to 10 of ten that have a multi-step loss."""
    for epoch in range(11):
        weights = np.ones(steps) / steps
        decay, least = 1 / steps / 10, 0.03 / steps
        for i in range(steps - 1):
            weights[i] = max(weights[i] - epoch * decay, least)
        most = 1 - (steps - 1) * least
        weights[-1] = min(weights[-1] + epoch * (steps - 1) * decay, most)
        np.testing.assert_allclose(step_weights(steps, epoch / 10), weights, atol=1e-12)


def test_the_first_share_of_a_training_drops_second_derivatives() -> None:
    net, (episode, target) = network(), tasks()
    model = MAMLPlusPlus(net, 2, multi_step=0, first_order_share=0.5, norms_per_step=False)
    model = model.double()
    for progress, first_order in ((0.4, True), (0.5, False)):
        model.progress = progress
        maml = Adapt(net, GradientDescent(0.1), 2, params=WITHOUT_BATCH_NORM)
        maml.first_order = first_order
        found = gradient(model.loss(episode, target), model)
        right = gradient(maml.loss(episode, target), maml)
        expect_same({name: found[name] for name in right}, right, 1e-12)


# Reptile and MAML


@pytest.mark.parametrize("task_chunk", [1, 3])
@pytest.mark.parametrize("rule", ["sgd", "adam"])
def test_reptile_descends_towards_the_weights_where_tasks_end(rule: str, task_chunk: int) -> None:
    """Its gradient is theta_0 - mean theta_T, and queries play no part."""
    model, (episode, target) = Reptile(network(), 3, 0.1, rule=rule, task_chunk=task_chunk), tasks()
    ends = []
    for i in range(3):
        one = episode.replace(x=episode.x[[i]], w=episode.w[[i]], mask=episode.mask[[i]])
        ends.append(model.path(one)[-1])
    found = gradient(model.loss(episode, target), model)
    for name, start in own_parameters(model).items():
        if name == "encoder.conv.bias":  # BatchNorm takes it out: what is left is rounding
            continue
        mean = torch.stack([end[f"net.{name}"] for end in ends]).mean(0)
        right = (start - mean).detach()
        torch.testing.assert_close(found[f"_call.net.{name}"], right, atol=1e-14, rtol=1e-12)
    x = episode.x.clone()
    x[:, episode.query] = 0
    other = gradient(model.loss(episode.replace(x=x), target), model)
    expect_same(other, found, 1e-8)


def trained_adam(task_chunk: int = 1) -> tuple[Reptile, torch.optim.SGD]:
    """Reptile with Adam, and the outer descent of its paper at epsilon = 1."""
    model = Reptile(network(), 3, 0.1, batch=4, task_chunk=task_chunk).train()
    return model, torch.optim.SGD(model.parameters(), lr=1.0)


@pytest.mark.parametrize("task_chunk", [1, 3])
def test_adam_of_reptile_goes_on_from_task_to_task(task_chunk: int) -> None:
    """Tasks one after the other with epsilon = 1 are one run of torch's own Adam.

    It is never reset, and its weights are those where the task before ended.
    """
    model, outer = trained_adam(task_chunk)
    own = copy.deepcopy(model.net)
    adam = torch.optim.Adam(own.parameters(), 0.1, betas=(0.0, 0.999))
    episode, target = tasks()
    for i in range(3):
        one = episode.with_tensors({n: t[[i]] for n, t in episode.tensors.items()})
        outer.zero_grad()
        model.loss(
            one, target.with_tensors({n: t[[i]] for n, t in target.tensors.items()})
        ).backward()
        outer.step()
        for step in range(3):
            adam.zero_grad()
            mini_batch_loss(own.score, one, step, 4, own).backward()
            adam.step()
        reached, right = own_parameters(model), dict(own.named_parameters())
        for name in reached.keys() - {"encoder.conv.bias"}:  # BatchNorm leaves it rounding
            torch.testing.assert_close(reached[name], right[name], atol=1e-8, rtol=1e-8)
    assert float(model.rule.mass.detach()) == pytest.approx(1 - 0.999**9)


def test_tasks_of_a_batch_leave_adam_the_mean_of_their_roots() -> None:
    model, outer = trained_adam()
    episode, target = tasks()
    starts = {n: p.detach().clone() for n, p in model.rule.root.items()}
    assert all((root == 0).all() for root in starts.values())
    ends = []
    for i in range(3):
        one = episode.with_tensors({n: t[[i]] for n, t in episode.tensors.items()})
        ends.append(model.path(one)[-1])
    model.loss(episode, target).backward()
    outer.step()
    for name, root in model.rule.root.items():
        mean = torch.stack([end[f"root of v, {name.replace('/', '.')}"] for end in ends]).mean(0)
        torch.testing.assert_close(root.detach(), mean.detach())


def test_reptile_without_a_step_would_learn_nothing() -> None:
    with pytest.raises(InputError, match=r"reptile\.steps must be 1 or more, not 0"):
        Reptile(network(), steps=0)


@pytest.mark.parametrize("first_order", [False, True])
def test_maml_equals_a_loop_by_hand_and_finite_differences(first_order: bool) -> None:
    def move(p: Params, grads: Params, loss: Tensor, state: None, step: int):  # type: ignore[no-untyped-def]
        return {n: v - 0.2 * grads[n] for n, v in p.items()}, None

    model = MAML(network(), 2, 0.2, first_order)
    expect_hand_written(model, move, shot_sum=True, first_order=first_order)
    if not first_order:
        expect_finite_differences(model)


@pytest.mark.parametrize("params", ["head.*", "encoder.*"])
def test_adapting_a_part_equals_a_loop_by_hand(params: str) -> None:
    """ANIL, which encodes an image once, and BOIL."""

    def move(p: Params, grads: Params, loss: Tensor, state: None, step: int):  # type: ignore[no-untyped-def]
        return {n: v - 0.2 * grads[n] for n, v in p.items()}, None

    model = MAML(network(), 2, 0.2, params=params)
    adapted = [n for n in own_parameters(model) if n.startswith(params[:-1])]
    expect_hand_written(model, move, shot_sum=True, adapted=adapted)


# A loss that stands for its gradient

twice_nothing = pytest.mark.parametrize("name", ["reptile", "imaml"])


def as_a_function(model: Adapt) -> tuple[Any, Params]:
    """The loss as a function of all that is learned, and where it is taken."""
    episode, target = tasks(2)

    def loss(params: Params) -> Tensor:
        out: Tensor = torch.func.functional_call(Call(model), params, ("loss", episode, target))
        return out

    return loss, {f"net.{name}": p.detach() for name, p in model.named_parameters()}


@twice_nothing
def test_its_first_derivative_is_the_same_however_it_is_taken(name: str) -> None:
    model = made(name)
    right = gradient(model.loss(*tasks(2)), model)
    loss, at = as_a_function(model)
    names, tensors = zip(*model.named_parameters(), strict=True)
    kept = torch.autograd.grad(model.loss(*tasks(2)), tensors, create_graph=True)
    expect_same(dict(zip(names, kept, strict=True)), right)
    found = torch.func.grad(loss)(at)
    expect_same({n.removeprefix("net."): g for n, g in found.items()}, right)
    ones = {n: torch.ones_like(p) for n, p in at.items()}
    _, along = torch.func.jvp(loss, (at,), (ones,))  # type: ignore[misc]
    slope = torch.stack([g.sum() for g in right.values()]).sum()
    torch.testing.assert_close(along, slope, atol=1e-10, rtol=1e-10)


@twice_nothing
def test_its_second_derivative_is_refused_in_one_line(name: str) -> None:
    model = made(name)
    loss, at = as_a_function(model)
    key, rest = "net._call.net.head.linear.bias", dict(at)
    bias = rest.pop(key)

    def of_bias(b: Tensor) -> Tensor:
        return loss({**rest, key: b})

    def by_autograd() -> None:
        p = model.get_parameter(key.removeprefix("net."))
        (g,) = torch.autograd.grad(model.loss(*tasks(2)), p, create_graph=True)
        torch.autograd.grad(g.sum(), p)

    def by_both() -> None:
        p = bias.clone().requires_grad_()
        torch.func.grad(of_bias)(p).sum().backward()

    for call in (
        by_autograd,
        by_both,
        lambda: torch.func.hessian(of_bias)(bias),
        lambda: torch.func.jacrev(torch.func.jacfwd(of_bias))(bias),
        lambda: torch.func.jacfwd(torch.func.jacfwd(of_bias))(bias),
        lambda: torch.func.jvp(torch.func.grad(of_bias), (bias,), (bias,)),
    ):
        with pytest.raises(InputError, match="stands for its gradient alone") as caught:
            call()
        assert "\n" not in str(caught.value)
