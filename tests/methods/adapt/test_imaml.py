"""iMAML: the closed form of a quadratic, unrolled proximal steps, and the limits of its pull."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from graphfsl.core.adapt import Adapt, Call
from graphfsl.core.episode import Episode, Target
from graphfsl.core.inner_gradient import inner_curvature
from graphfsl.core.learner import Head
from graphfsl.core.pipeline import Pipeline
from graphfsl.io.errors import InputError
from graphfsl.methods.adapt.imaml import IMAML, ProximalDescent
from graphfsl.methods.heads.linear import Linear
from graphfsl.testing import WAY
from tests.support.hand_loops import expect_same, gradient, network, tasks

D = 4


class Quadratics(Head):
    """L_S = theta' H theta / 2 - b' theta + s' theta and L_Q = |theta - q|^2 / 2.

    b and q are what the support and the query of a task hold, s is a parameter that need not adapt.
    """

    def __init__(self, h: Tensor, theta: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.h, self.theta, self.shift = h, nn.Parameter(theta), nn.Parameter(shift)

    def inner(self, episode: Episode) -> Tensor:
        b = episode.x[0, 0]
        return 0.5 * self.theta @ self.h @ self.theta + (self.shift - b) @ self.theta

    def score(self, episode: Episode) -> Tensor:
        if not episode.n_query:
            return self.inner(episode).expand(episode.w.shape)
        loss = 0.5 * (self.theta - episode.x[0, 1]).square().sum()
        return loss.expand(episode.w.shape)

    def criterion(self, scores: Tensor, target: Target, episode: Episode) -> Tensor:
        return scores.mean()


@pytest.fixture
def quadratic() -> Iterator[tuple[Quadratics, Episode, Target]]:
    g = torch.Generator().manual_seed(0)
    a = torch.randn(D, D, generator=g, dtype=torch.float64)
    head = Quadratics(a @ a.T, *torch.randn(2, D, generator=g, dtype=torch.float64))
    x = torch.randn(3, 2, D, generator=g, dtype=torch.float64)
    columns = torch.zeros(3, 1, dtype=torch.long)
    episode = Episode(x, torch.ones(3, 2, 1, dtype=torch.float64), 1, 1)
    yield head, episode, Target(columns, columns[:, :0], columns, columns)


def of_quadratic(head: Quadratics, lam: float, task_chunk: int, **options) -> IMAML:  # type: ignore[no-untyped-def]
    lr = 1 / (torch.linalg.matrix_norm(head.h, 2).item() + lam)
    given = {"steps": 500, "cg_steps": D, "params": "theta", **options}
    model = IMAML(head, lr=lr, lam=lam, task_chunk=task_chunk, **given)
    model.objective = lambda score, e, step: score(e.parts(query=False, unlabeled=False)).mean()
    return model


@pytest.mark.parametrize("task_chunk", [1, 2, 3])
def test_closed_form_of_a_quadratic(quadratic, task_chunk: int) -> None:  # type: ignore[no-untyped-def]
    """phi = (H + lambda)^-1 (lambda theta + b - s), so that the gradients are known."""
    head, episode, target = quadratic
    lam = 0.7
    model = of_quadratic(head, lam, task_chunk)
    loss = model.loss(episode, target)
    found = gradient(loss, model)
    system = head.h + lam * torch.eye(D, dtype=torch.float64)
    b, q = episode.x[:, 0], episode.x[:, 1]
    phi = torch.linalg.solve(system, (lam * head.theta + b - head.shift).T).T
    towards = (phi - q).detach()
    torch.testing.assert_close(loss, 0.5 * (phi - q).square().sum(1).mean(), atol=1e-10, rtol=0)
    solved = torch.linalg.solve(system, towards.T).T
    right = {
        "_call.net.theta": lam * solved.mean(0),
        "_call.net.shift": -solved.mean(0),
    }
    expect_same(found, right)


def test_the_steps_come_to_the_inner_optimum(quadratic) -> None:  # type: ignore[no-untyped-def]
    head, episode, _ = quadratic
    one = episode.replace(x=episode.x[:1], w=episode.w[:1], mask=episode.mask[:1])
    phi = of_quadratic(head, 0.7, 1).adapt(one)["net.theta"]
    slope = head.h @ phi - one.x[0, 0] + head.shift + 0.7 * (phi - head.theta)
    assert slope.abs().max() < 1e-12


@pytest.mark.parametrize("task_chunk", [1, 3])
def test_the_authors_damped_system(quadratic, task_chunk: int) -> None:  # type: ignore[no-untyped-def]
    """(2 I + H / (lambda + 10)) x = grad L_Q."""
    head, episode, target = quadratic
    model = of_quadratic(head, 0.7, task_chunk, solver="damped")
    found = gradient(model.loss(episode, target), model)["_call.net.theta"]
    system = head.h + 0.7 * torch.eye(D, dtype=torch.float64)
    phi = torch.linalg.solve(system, (0.7 * head.theta + episode.x[:, 0] - head.shift).T).T
    damped = 2 * torch.eye(D, dtype=torch.float64) + head.h / 10.7
    right = torch.linalg.solve(damped, (phi - episode.x[:, 1]).T).T.mean(0)
    torch.testing.assert_close(found, right.detach(), atol=1e-10, rtol=1e-10)


def test_fewer_steps_of_conjugate_gradients_come_close(quadratic) -> None:  # type: ignore[no-untyped-def]
    head, episode, target = quadratic
    exact = of_quadratic(head, 2.0, 1, steps=9)
    right = gradient(exact.loss(episode, target), exact)["_call.net.theta"]
    errors = []
    for count in (1, 2, 3):
        model = of_quadratic(head, 2.0, 1, steps=9, cg_steps=count)
        found = gradient(model.loss(episode, target), model)["_call.net.theta"]
        errors.append((found - right).norm().item())
    assert errors[0] > errors[1] > errors[2] > 0


@pytest.mark.parametrize("task_chunk", [1, 2, 3])
@pytest.mark.parametrize(("params", "lam", "lr"), [("head.*", 1.0, 0.4), ("*", 20.0, 0.02)])
def test_equals_proximal_steps_that_are_unrolled(
    params: str, lam: float, lr: float, task_chunk: int
) -> None:
    """For the encoder below an adapted head too, which only the implicit gradient reaches.

    The network is smooth: at a kink, gradient descent would not come to rest.
    """
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.Tanh())
    net = Pipeline(encoder, head=Linear(5, WAY)).double()
    episode, target = tasks()
    unrolled = Adapt(net, ProximalDescent(lr, lam), 80, params=params)
    right = gradient(unrolled.loss(episode, target), unrolled)
    model = IMAML(net, 80, lr, lam, cg_steps=60, params=params, task_chunk=task_chunk)
    loss = model.loss(episode, target)
    torch.testing.assert_close(loss, unrolled.loss(episode, target), atol=1e-12, rtol=1e-12)
    expect_same(gradient(loss, model), right)


@pytest.mark.parametrize("task_chunk", [1, 2])
def test_the_plain_loss_has_the_same_gradient(task_chunk: int) -> None:
    """Inside `torch.func.grad`, and where the images are differentiated for."""
    net, (episode, target) = network(), tasks(2)
    model = IMAML(net, 8, 0.2, 1.0, params="head.*", task_chunk=task_chunk)
    right = gradient(model.loss(episode, target), model)

    def loss(params):  # type: ignore[no-untyped-def]
        return torch.func.functional_call(Call(model), params, ("loss", episode, target))

    found = torch.func.grad(loss)({f"net.{n}": p.detach() for n, p in model.named_parameters()})
    expect_same({n.removeprefix("net."): g for n, g in found.items()}, right, 1e-12)
    x = episode.x.clone().requires_grad_()
    expect_same(gradient(model.loss(episode.replace(x=x), target), model), right, 1e-12)


def test_a_strong_pull_leaves_the_gradient_of_the_queries() -> None:
    """lambda -> infinity: phi = theta, and x is the gradient there."""
    net, (episode, target) = network(), tasks()
    model = IMAML(net, 2, 1e-9, 1e9)
    still = Adapt(net, ProximalDescent(1.0, 1.0), 0)
    right = gradient(still.loss(episode, target), still)
    expect_same(gradient(model.loss(episode, target), model), right, 1e-7)


def test_without_gradients_the_loss_is_the_same() -> None:
    net, (episode, target) = network(), tasks()
    model = IMAML(net, 4, 0.1, 1.0)
    with torch.no_grad():
        plain = model.loss(episode, target)
    torch.testing.assert_close(plain, model.loss(episode, target), atol=1e-13, rtol=1e-13)


@pytest.mark.parametrize("vmapped", [False, True])
def test_curvature_is_that_of_the_hessian(vmapped: bool) -> None:
    g = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(shape, generator=g, dtype=torch.float64)
    at, v, data = {"w": draw(3), "b": draw()}, {"w": draw(3), "b": draw()}, draw(2, 3)

    def loss(p, x):  # type: ignore[no-untyped-def]
        return torch.sin(p["w"] @ x) * p["b"].exp()

    def product(x):  # type: ignore[no-untyped-def]
        grads, curvature = inner_curvature(lambda p: loss(p, x), at)
        return grads, curvature(v)

    if vmapped:
        grads, found = torch.func.vmap(product)(data)
    else:
        pairs = [product(x) for x in data]
        grads, found = ({n: torch.stack([p[i][n] for p in pairs]) for n in at} for i in (0, 1))
    for i, x in enumerate(data):
        hessian = torch.func.hessian(loss)(at, x)
        right = hessian["w"]["w"] @ v["w"] + hessian["w"]["b"] * v["b"]
        torch.testing.assert_close(found["w"][i], right, atol=1e-12, rtol=1e-12)
        torch.testing.assert_close(grads["b"][i], torch.func.grad(loss)(at, x)["b"])


def test_a_linear_loss_has_no_curvature() -> None:
    at = {"w": torch.ones(3)}
    grads, curvature = inner_curvature(lambda p: 2 * p["w"].sum(), at)
    assert torch.equal(grads["w"], torch.full((3,), 2.0))
    assert torch.equal(curvature(at)["w"], torch.zeros(3))


def test_refusals() -> None:
    net = network()
    with pytest.raises(InputError, match=r"imaml\.lr and imaml\.lam must be above 0, not 0 and 2"):
        IMAML(net, lr=0)
    with pytest.raises(InputError, match=r"must be above 0, not 0\.1 and 0"):
        IMAML(net, lam=0)
    with pytest.raises(InputError, match=r"is 2, and from 2 on the pull .* lower lr below 0\.02"):
        IMAML(net, lr=0.02, lam=100)
    with pytest.raises(InputError, match="solver must be exact or damped, not 'cg'"):
        IMAML(net, solver="cg")
    with pytest.raises(InputError, match="cg_steps must be 1 or more, not 0"):
        IMAML(net, cg_steps=0)


def test_the_loss_is_the_same_with_and_without_a_gradient_under_autocast() -> None:
    """Training and validation would differ by the precision of their queries."""
    torch.manual_seed(0)
    model, (episode, target) = IMAML(network().float(), 2), tasks()
    episode = episode.to(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        trained = model.loss(episode, target)
        with torch.no_grad():
            validated = model.loss(episode, target)
    torch.testing.assert_close(trained.detach(), validated, atol=1e-6, rtol=1e-6)
