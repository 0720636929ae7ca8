"""clone, adapt(loss) and a call: the habits of learn2learn, for any module, loss and rule."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import graphfsl as gf
from graphfsl.core.adapt import Adapt
from graphfsl.core.objectives import sum_over_shot
from graphfsl.core.rules import Adam, GradientDescent, Rule
from graphfsl.io.errors import InputError
from graphfsl.methods.adapt.alfa import ALFA
from graphfsl.methods.adapt.imaml import IMAML
from graphfsl.methods.adapt.maml import FOMAML, MAML
from graphfsl.methods.adapt.maml_plus_plus import MAMLPlusPlus
from graphfsl.methods.adapt.meta_curvature import MetaCurvature
from graphfsl.methods.adapt.meta_sgd import MetaSGD
from graphfsl.methods.heads.proto_maml import ProtoMAML
from graphfsl.testing import TinyEncoder, episodes
from tests.support import ROOT

LR = 0.1


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2)).double()


def task(seed: int = 1) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    shapes = ((6, 3), (6, 2), (5, 3), (5, 2))
    x, y, queries, truth = (torch.randn(s, generator=g, dtype=torch.float64) for s in shapes)
    return x, y, queries, truth


def huber(out: Tensor, y: Tensor) -> Tensor:
    """A loss that no learner of ours has."""
    return F.smooth_l1_loss(out, y)


def outer_loss(loop: Adapt, steps: int = 3) -> Tensor:
    """As learn2learn's users write it: the mean of two tasks."""
    losses = []
    for seed in (1, 2):
        x, y, queries, truth = task(seed)
        learner = loop.clone()
        for _ in range(steps):
            learner.adapt(huber(learner(x), y))
        losses.append(huber(learner(queries), truth))
    return torch.stack(losses).mean()


def by_hand(module: nn.Module, first_order: bool, names: list[str], steps: int = 3) -> Tensor:
    losses = []
    for seed in (1, 2):
        x, y, queries, truth = task(seed)
        theta: dict[str, Tensor] = {n: module.get_parameter(n) for n in names}
        for _ in range(steps):
            loss = huber(torch.func.functional_call(module, theta, (x,)), y)
            grads = torch.autograd.grad(loss, list(theta.values()), create_graph=not first_order)
            theta = {n: p - LR * g for (n, p), g in zip(theta.items(), grads, strict=True)}
        losses.append(huber(torch.func.functional_call(module, theta, (queries,)), truth))
    return torch.stack(losses).mean()


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("params", ["*", "2.*"])
def test_it_equals_a_hand_written_loop(first_order: bool, params: str) -> None:
    module = network()
    names = [n for n, _ in module.named_parameters() if params == "*" or n.startswith("2.")]
    wanted = torch.autograd.grad(by_hand(module, first_order, names), list(module.parameters()))
    before = copy.deepcopy(module.state_dict())
    loop = Adapt(module, GradientDescent(LR), 1, params=params, first_order=first_order)
    outer_loss(loop).backward()
    for p, g in zip(module.parameters(), wanted, strict=True):
        torch.testing.assert_close(p.grad, g, atol=1e-10, rtol=1e-10)
    assert all(torch.equal(v, before[n]) for n, v in module.state_dict().items())


class Attention(nn.Module):
    """Samples attend to each other, in one kernel or as the equation says."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.fused, self.q, self.out = fused, nn.Linear(3, 3), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        q = self.q(x)
        if self.fused:
            seen = F.scaled_dot_product_attention(q[None], x[None], x[None])[0]
        else:
            seen = (q @ x.mT / 3**0.5).softmax(-1) @ x
        out: Tensor = self.out(seen)
        return out


def test_attention_in_one_kernel_has_second_derivatives() -> None:
    torch.manual_seed(0)
    fused, plain = Attention(True).double(), Attention(False).double()
    plain.load_state_dict(fused.state_dict())
    names = [name for name, _ in plain.named_parameters()]
    wanted = torch.autograd.grad(by_hand(plain, False, names), list(plain.parameters()))
    outer_loss(Adapt(fused, GradientDescent(LR), 1)).backward()
    for p, g in zip(fused.parameters(), wanted, strict=True):
        torch.testing.assert_close(p.grad, g, atol=1e-10, rtol=1e-10)


def test_a_second_order_step_of_a_first_order_loop_goes_through_attention() -> None:
    torch.manual_seed(0)
    fused, plain = Attention(True).double(), Attention(False).double()
    plain.load_state_dict(fused.state_dict())
    x = task()[0]
    found = []
    for module in (fused, plain):
        learner = FOMAML(module, lr=LR).clone()
        learner.adapt(learner(x).square().mean(), first_order=False)
        loss = learner(x).square().mean()
        found.append(torch.autograd.grad(loss, list(module.parameters())))
    for ours, wanted in zip(*found, strict=True):
        torch.testing.assert_close(ours, wanted, atol=1e-10, rtol=1e-10)


def test_a_step_may_be_first_order_by_itself() -> None:
    module, x = network(), task()[0]
    loop = Adapt(module, GradientDescent(LR), 1)
    found = []
    for first_order in (False, True):
        learner = loop.clone()
        learner.adapt(learner(x).square().mean(), first_order=first_order)
        found.append(torch.autograd.grad(learner(x).square().mean(), module[0].weight)[0])
    other = Adapt(module, GradientDescent(LR), 1, first_order=True).clone()
    other.adapt(other(x).square().mean())
    wanted = torch.autograd.grad(other(x).square().mean(), module[0].weight)[0]
    assert torch.equal(found[1], wanted) and not torch.allclose(found[0], wanted)


RULES: dict[str, Callable[[nn.Module], Adapt]] = {
    "sgd": lambda net: MAML(net, lr=LR),
    "first order": lambda net: FOMAML(net, lr=LR),
    "adam": lambda net: Adapt(net, Adam(LR), 1, first_order=True),
    "meta_sgd": lambda net: MetaSGD(net, steps=3),
    "maml++": lambda net: MAMLPlusPlus(net, steps=3),
    "meta_curvature": lambda net: MetaCurvature(net, steps=3),
    "alfa": lambda net: ALFA(net, steps=3),
    "imaml": lambda net: IMAML(net, steps=3),
}


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_takes_the_steps_of_the_inner_loop(rule: str) -> None:
    """A clone that is given the inner loop's own losses ends at the weights that it ends at."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).double()
    loop = RULES[rule](module).double()
    loop.steps = loop.steps_test = 3
    episode = episodes(batch=1, unlabeled=0)[0].to(dtype=torch.float64)
    x, y = episode.x[0, episode.support], episode.w[0, episode.support].argmax(-1)
    scale = 3 if loop.objective is sum_over_shot else 1  # of the mean, in classes
    learner = loop.clone()
    for _ in range(3):
        learner.adapt(scale * F.cross_entropy(learner(x), y))
    wanted = loop.path(episode)
    assert len(learner.path) == len(wanted) == 4
    for mine, theirs in zip(learner.path, wanted, strict=True):
        for name, p in mine.items():
            torch.testing.assert_close(p, theirs[f"net.encoder.{name}"], atol=1e-11, rtol=0)


def test_gradients_reach_what_a_rule_learns() -> None:
    loop = MetaSGD(network(), steps=3).double()
    outer_loss(loop).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in loop.parameters())
    with pytest.raises(InputError, match="was trained for 3 inner steps"):
        outer_loss(loop, steps=4)


def test_the_meta_gradient_agrees_with_finite_differences() -> None:
    module = network()
    loop = MetaSGD(module, steps=3).double()
    outer_loss(loop).backward()
    p = module[0].weight
    with torch.no_grad():
        values = []
        for side in (1e-6, -2e-6):
            p[1, 2] += side
            with torch.enable_grad():
                values.append(outer_loss(loop).detach())
    torch.testing.assert_close(p.grad[1, 2], (values[0] - values[1]) / 2e-6, atol=1e-8, rtol=1e-6)


def test_a_clone_of_a_clone_goes_on_from_there_apart() -> None:
    x, y, _, _ = task()
    first = Adapt(network(), GradientDescent(LR), 1).clone()
    first.adapt(huber(first(x), y))
    second = first.clone()
    assert torch.equal(first(x), second(x))
    second.adapt(huber(second(x), y))
    assert (len(first.path), len(second.path)) == (2, 3) and not torch.equal(first(x), second(x))


def test_other_weights_may_be_given_as_higher_does() -> None:
    """fmodel(x, params=...) and fmodel.parameters(time=0)."""
    module, (x, y, _, _) = network(), task()
    learner = Adapt(module, GradientDescent(LR), 1).clone()
    before = learner(x)
    learner.adapt(huber(learner(x), y))
    assert torch.equal(learner(x, params=learner.path[0]), before)
    assert torch.equal(learner(x, params=learner.path[1]), learner(x))
    names = [n for n, _ in learner.named_parameters()]
    assert names == [n for n, _ in module.named_parameters()]
    moved = dict(learner.named_parameters())["0.weight"]
    assert moved is learner.path[1]["0.weight"] and len(list(learner.parameters())) == 4


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.other = nn.Linear(3, 2), nn.Linear(3, 2)

    def forward(self, x: Tensor, *, twice: bool = False) -> Tensor:
        out: Tensor = self.used(x)
        return 2 * out if twice else out


def test_unused_weights_stay_or_are_refused() -> None:
    module, x = TwoHeads().double(), task()[0]
    learner = Adapt(module, GradientDescent(LR), 1).clone()
    learner.adapt(learner(x).square().mean())
    assert torch.equal(learner.path[1]["other.weight"], module.other.weight)
    with pytest.raises(InputError, match=r"does not depend on other\.weight, other\.bias"):
        learner.adapt(learner(x).square().mean(), allow_unused=False)
    assert torch.equal(learner(x, twice=True), 2 * learner(x))


@pytest.mark.parametrize("policy", ["running", "apart"])
def test_averages_of_batchnorm_stay_and_its_policy_is_kept(policy: str) -> None:
    torch.manual_seed(0)
    x = 3 + torch.randn(6, 4)
    module = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5))
    of_batch = copy.deepcopy(module).train()(x)
    of_averages = copy.deepcopy(module).eval()(x)
    loop = Adapt(module, GradientDescent(LR), 1)
    loop.set_batch_norm(policy)
    torch.testing.assert_close(loop.clone()(x), of_batch)
    assert not module[1].running_mean.any()
    wanted = of_batch if policy == "apart" else of_averages
    torch.testing.assert_close(loop.eval().clone()(x), wanted)


def test_a_learner_of_ours_is_called_on_episodes() -> None:
    episode, target = episodes()
    loop = MAML(gf.Pipeline(TinyEncoder(), head=gf.get("head", "linear")(6, 3)), params="head.*")
    learner = loop.clone()
    loss = F.cross_entropy(learner(episode).flatten(0, 1), target.query.flatten())
    learner.adapt(loss)
    again = F.cross_entropy(learner(episode).flatten(0, 1), target.query.flatten())
    assert again < loss


class SignDescent(Rule):
    def update(self, params, grads, loss, state, step):  # type: ignore[no-untyped-def]
        return {n: p - 0.01 * grads[n].sign() for n, p in params.items()}, state


def test_a_rule_of_ones_own_takes_part() -> None:
    x, y, _, _ = task()
    learner = Adapt(network(), SignDescent(), 1).clone()
    learner.adapt(huber(learner(x), y))
    moved = learner.path[1]["0.weight"] - learner.path[0]["0.weight"]
    torch.testing.assert_close(moved.abs(), torch.full_like(moved, 0.01))


def test_bad_input_is_one_line() -> None:
    x, y, _, _ = task()
    module = network()
    learner = Adapt(module, GradientDescent(LR), 1).clone()
    norm = Adapt(nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5)), GradientDescent(LR), 1)
    norm.set_batch_norm("support")

    def without_graph() -> None:
        with torch.no_grad():
            learner.adapt(huber(learner(x), y))

    refused: dict[str, Callable[[], object]] = {
        "the loss must be a scalar tensor, not a Tensor of float64 (6, 2)": lambda: learner.adapt(
            learner(x)
        ),
        "the loss must be a scalar tensor, not 1.0": lambda: learner.adapt(1.0),  # type: ignore[arg-type]
        "depends on none of the weights that adapt": without_graph,
        "which samples are the support, as batch_norm=support": norm.clone,
        "start at the support of an episode": MAML(
            gf.Pipeline(TinyEncoder(), head=ProtoMAML())
        ).clone,
    }
    for message, call in refused.items():
        with pytest.raises(InputError) as caught:
            call()
        assert message in str(caught.value) and "\n" not in str(caught.value), str(caught.value)
    assert len(learner.path) == 1


def test_a_rule_of_ones_own_is_registered_by_a_file(tmp_path: Path) -> None:
    """As the page on inner loops has it: a plugin's file, and its name in a configuration."""
    folder = tmp_path / "inner_loops_of_mine" / "adapt"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").write_text("")
    (folder / "__init__.py").write_text("")
    (folder / "sign_descent.py").write_text(
        "import graphfsl as gf\n\n__all__ = ['SignMAML']\n\n\n"
        "class SignDescent(gf.Rule):\n"
        "    def update(self, params, grads, loss, state, step):\n"
        "        return {n: p - 0.01 * grads[n].sign() for n, p in params.items()}, state\n\n\n"
        "class SignMAML(gf.Adapt):\n"
        "    def __init__(self, net, steps=3):\n"
        "        super().__init__(net, SignDescent(), steps)\n"
    )
    program = (
        "import graphfsl as gf\n"
        "from graphfsl.core.plugins import give\n"
        "give(['inner_loops_of_mine'])\n"
        "parts = {'encoder': 'conv4', 'head': 'linear', 'adapt': 'sign_descent'}\n"
        "learner = gf.build(parts, (1, 28, 28), way=5)\n"
        "print(type(learner).__name__, learner.steps)\n"
    )
    found_in = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    run = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **found_in},
        capture_output=True,
        text=True,
    )
    assert run.stdout.split() == ["SignMAML", "3"], run.stderr
