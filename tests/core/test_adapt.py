"""The inner loop: closed forms, and what it leaves as it is."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphfsl.core.adapt import Adapt
from graphfsl.core.episode import Episode, Target
from graphfsl.core.learner import Head
from graphfsl.core.pipeline import Pipeline
from graphfsl.core.rules import GradientDescent
from graphfsl.io.errors import InputError
from graphfsl.methods.adapt.maml import MAML
from graphfsl.methods.heads.linear import Linear
from graphfsl.methods.heads.simple_shot import SimpleShot
from graphfsl.testing import WAY, TinyEncoder, episodes, learner


class Quadratic(Head):
    """score = -(1/2 theta' H theta - b' theta) in class 0: inner and outer losses are quadratics of
    theta.
    """

    def __init__(self, h: Tensor, theta: Tensor) -> None:
        super().__init__()
        self.h, self.theta = h, nn.Parameter(theta)

    def score(self, episode: Episode) -> Tensor:
        b = episode.x.mean(1)
        value = 0.5 * self.theta @ self.h @ self.theta - (b * self.theta).sum(-1)
        return -value[:, None, None].expand(*episode.w.shape)

    def criterion(self, scores: Tensor, target: Target, episode: Episode) -> Tensor:
        return -scores[:, 0, 0].mean()


@pytest.mark.parametrize("task_chunk", [1, 3])
@pytest.mark.parametrize("first_order", [False, True])
def test_outer_gradient_of_a_quadratic(task_chunk: int, first_order: bool) -> None:
    """g = (I - alpha H)^T (H theta' - b); the first-order form drops the factor."""
    g = torch.Generator().manual_seed(0)
    a = torch.randn(4, 4, generator=g, dtype=torch.float64)
    h, theta, alpha = a @ a.T, torch.randn(4, generator=g, dtype=torch.float64), 0.1
    b = torch.randn(3, 4, generator=g, dtype=torch.float64)
    x, w = b[:, None].expand(3, 2, 4), torch.ones(3, 2, 1, dtype=torch.float64)
    head = Quadratic(h, theta)

    def objective(score, episode, step):  # type: ignore[no-untyped-def]
        return -score(episode)[:, 0, 0].mean()

    model = Adapt(
        head, GradientDescent(alpha), 1, objective, first_order=first_order, task_chunk=task_chunk
    )
    columns = torch.zeros(3, 1, dtype=torch.long)
    model.loss(Episode(x, w, 1, 1), Target(columns, columns[:, :0], columns, columns)).backward()
    adapted = theta - alpha * (theta @ h - b)
    factor = torch.eye(4, dtype=torch.float64) - (0 if first_order else alpha) * h
    expected = ((adapted @ h - b) @ factor).mean(0)
    torch.testing.assert_close(head.theta.grad, expected, atol=1e-12, rtol=1e-12)


def test_no_steps_equal_plain_evaluation() -> None:
    net = learner(head="linear").net
    net.set_batch_norm("apart")
    episode, _ = episodes()
    assert torch.allclose(MAML(net, steps=0).eval()(episode), net.eval()(episode), atol=1e-6)


def test_a_net_that_learns_from_base_classes_does_so_inside_an_adaptation() -> None:
    net = Pipeline(TinyEncoder(), head=SimpleShot(6))
    features = torch.randn(20, 6)
    MAML(net).fit_base(features, torch.arange(20) % 4)
    torch.testing.assert_close(net.head.mean, features.mean(0))


def test_only_the_named_parameters_adapt() -> None:
    net = learner(head="linear").net
    episode, _ = episodes(batch=1)
    adapted = MAML(net, steps=1, params="head.*").adapt(episode)
    assert {n.removeprefix("net.") for n in adapted} == {"head.linear.weight", "head.linear.bias"}
    with pytest.raises(InputError, match="no parameter matches 'haed"):
        MAML(net, params="haed.*")


def test_a_name_of_no_parameter_is_refused_also_as_an_exclusion_and_beside_others() -> None:
    net = learner(head="linear").net
    for params in (["*", "!head.linear.biass"], ["head.*", "encoder.weigth"]):
        with pytest.raises(InputError, match=f"matches '{params[1]}'; the net has .*head.linear"):
            MAML(net, params=params)
    MAML(net, params=["*", "!encoder.norms.*"])  # a pattern may suit other encoders only
    net.encoder.requires_grad_(False)
    frozen = next(iter(dict(net.encoder.named_parameters())))
    MAML(net, params=["*", f"!encoder.{frozen}"])  # frozen is known, and adapts not at all


@pytest.mark.parametrize("task_chunk", [1, 2])
def test_adapts_under_no_grad(task_chunk: int) -> None:
    """Evaluation runs under `no_grad`; the inner loop must still move the weights."""
    net = learner(head="linear").net
    episode, _ = episodes()
    with torch.no_grad():
        moved = MAML(net, steps=3, lr=0.5, task_chunk=task_chunk)(episode)
        still = MAML(net, steps=0, task_chunk=task_chunk)(episode)
    assert not torch.allclose(moved, still, atol=1e-3)


@pytest.mark.parametrize("task_chunk", [1, 2])
def test_inference_mode_gives_the_answers_of_no_grad(task_chunk: int) -> None:
    """Autograd is blind there, for which each weight seemed to have a gradient of zero."""
    model = MAML(learner(head="linear").net, steps=2, lr=0.5, task_chunk=task_chunk).eval()
    episode, _ = episodes()
    with torch.no_grad():
        wanted = model(episode)
    with torch.inference_mode():
        from_outside = model(episode)
        from_inside = model(
            episode.with_tensors({n: t.clone() for n, t in episode.tensors.items()})
        )
    torch.testing.assert_close(from_outside, wanted)
    torch.testing.assert_close(from_inside, wanted)


def test_batchnorm_outside_the_encoder_makes_it_transductive() -> None:
    """A GNN's BatchNorm sees all queries of an adapted call, whatever the encoder's policy: the
    trait must say so.
    """
    model = learner(head="gnn", adapt="maml", batch_norm="support").eval()
    episode, _ = episodes()
    x = episode.x.clone()
    x[:, episode.n_support + 1 :] += 1.0
    moved = not torch.allclose(model(episode)[:, 0], model(episode.replace(x=x))[:, 0], atol=1e-4)
    assert moved and model.transductive
    assert not learner(head="linear", adapt="maml", batch_norm="support").transductive


def test_support_is_fitted_better_after_adaptation() -> None:
    net = learner(head="linear").net
    episode, _ = episodes(batch=8)
    truth = episode.w[:, episode.support].argmax(-1)

    def loss(steps: int) -> float:
        scores = MAML(net, steps=steps, lr=0.2).score(episode)[:, episode.support]
        return float(F.cross_entropy(scores.flatten(0, 1), truth.flatten()))

    assert loss(10) < 0.7 * loss(0)


def test_adapting_the_head_alone_leaves_the_policy_of_its_parts() -> None:
    """The head shares its module with the learner of features, and keeps its own statistics."""
    net = learner(head="linear").net
    net.set_batch_norm("apart")
    MAML(net, 1, 0.1, params="head.*").loss(*episodes())
    assert net.head.batch_norm == net.batch_norm == "apart"


class OfAllNodes(Linear):
    """Its own loss reads the scores of the support too."""

    def criterion(self, scores: Tensor, target: Target, episode: Episode) -> Tensor:
        return scores.square().mean()


def test_a_loss_that_reads_the_support_gets_the_support() -> None:
    torch.manual_seed(0)
    net = Pipeline(TinyEncoder(), head=OfAllNodes(6, WAY), batch_norm="apart").double()
    episode, target = episodes(batch=1)
    episode = episode.to(dtype=torch.float64)
    loss = MAML(net, steps=0).loss(episode, target)
    torch.testing.assert_close(loss, net.score(episode).square().mean())
