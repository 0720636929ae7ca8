"""Conditional neural processes: their equations, their loss, and how sure they are."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

import graphfsl as gf
from graphfsl.core.episode import Episode, ValueTarget
from graphfsl.core.pipeline import Pipeline
from graphfsl.io.errors import InputError
from graphfsl.methods.heads.anp import ANP
from graphfsl.methods.heads.cnp import CNP


def task(known: int = 3) -> tuple[Episode, ValueTarget]:
    """Two functions of five points of one number, three of which may be known, and four queries."""
    g = torch.Generator().manual_seed(1)
    x, y = torch.randn(2, 9, 1, generator=g), torch.randn(2, 9, 2, generator=g)
    w = torch.zeros(2, 9, 1)
    w[:, :known] = 1
    return Episode(x, w, 5, 4, values=y * w), ValueTarget(y[:, 5:])


def head(cls: type[CNP] = CNP, **options: Any) -> CNP:
    torch.manual_seed(0)
    return cls(1, outputs=2, width=8, layers=3, **options).eval()


def test_scores_are_the_equations_point_by_point() -> None:
    model, (episode, _) = head(), task()
    sigma, mu = model.score(episode)
    assert episode.values is not None
    for b in range(2):
        pairs = [torch.cat([episode.x[b, i], episode.values[b, i]]) for i in range(3)]
        r = torch.stack([model.h(pair) for pair in pairs]).mean(0)
        for i in range(9):
            told = model.g(torch.cat([episode.x[b, i], r]))
            torch.testing.assert_close(mu[b, i], told[:2])
            spread = 0.1 + 0.9 * (1 + told[2:].exp()).log()
            torch.testing.assert_close(sigma[b, i], spread)


def test_the_loss_is_of_queries_and_known_points_and_of_no_others() -> None:
    model, (episode, target) = head(), task()
    sigma, mu = model.score(episode)
    assert episode.values is not None
    nats = []
    for b in range(2):
        for i in (0, 1, 2, 5, 6, 7, 8):
            y = episode.values[b, i] if i < 5 else target.query[b, i - 5]
            z = (y - mu[b, i]) / sigma[b, i]
            each = -0.5 * z.square() - sigma[b, i].log() - 0.5 * math.log(2 * math.pi)
            nats.append(each.sum())
    torch.testing.assert_close(model.loss(episode, target), -torch.stack(nats).mean())


@pytest.mark.parametrize("cls", [CNP, ANP])
def test_known_points_in_any_order_and_none_at_all(cls: type[CNP]) -> None:
    options = {"heads": 2} if cls is ANP else {}
    model, (episode, _) = head(cls, **options), task()
    order = torch.tensor([2, 0, 1, 3, 4, 5, 6, 7, 8])
    assert episode.values is not None
    moved = Episode(episode.x[:, order], episode.w, 5, 4, values=episode.values[:, order])
    torch.testing.assert_close(model.score(moved)[:, :, 5:], model.score(episode)[:, :, 5:])
    # where nothing is known all functions are the same one
    nothing, _ = task(known=0)
    nothing = nothing.with_tensors({"x": nothing.x[:1].expand(2, -1, -1)})
    first, second = model.score(nothing).unbind(1)
    assert first.isfinite().all() and torch.equal(first, second)
    assert (model.score(episode)[0] >= 0.1).all()


def test_a_learner_that_tells_scale_is_measured_by_log_likelihood() -> None:
    waves = gf.load_data("sinusoid", "test")
    asked = {"task": "functions", "shot": 4, "query": 6}
    torch.manual_seed(0)
    model = Pipeline(head=CNP(1, width=8)).eval()
    result = gf.evaluate(model, waves, asked, episodes=5, block=2)
    episode, target = gf.Episodes(waves, asked).batch(range(5))
    with torch.no_grad():
        sigma, mu = model.score(episode)[:, :, episode.query]
    error = (mu - target.query).square().mean((1, 2))
    torch.testing.assert_close(result.measured["MSE"], error)
    density = torch.exp(-0.5 * ((target.query - mu) / sigma) ** 2) / (sigma * math.tau**0.5)
    torch.testing.assert_close(result.measured["log-likelihood"], density.log().mean((1, 2)))
    assert "log-likelihood" in result.row().metrics
    plain = gf.evaluate(gf.build({"head": "kernel_ridge"}, (1,), 1), waves, asked, episodes=2)
    assert "log-likelihood" not in plain.row().metrics


def lines(seed: int, tasks: int = 64) -> tuple[Episode, ValueTarget]:
    """Straight lines of any slope and height, of which five points are known."""
    g = torch.Generator().manual_seed(seed)
    x = 2 * torch.rand(tasks, 10, 1, generator=g) - 1
    slope, height = torch.randn(2, tasks, 1, 1, generator=g)
    y = slope * x + height
    w = torch.zeros(tasks, 10, 1)
    w[:, :5] = 1
    return Episode(x, w, 5, 5, relabeled=False, values=y * w), ValueTarget(y[:, 5:])


@pytest.mark.parametrize(
    ("cls", "layers", "lr", "steps", "error"), [(CNP, 3, 5e-3, 300, 0.6), (ANP, 2, 1e-2, 100, 0.3)]
)
def test_it_learns_lines_better_than_the_mean_of_known_points(
    cls: type[CNP], layers: int, lr: float, steps: int, error: float
) -> None:
    """Attention in a third of the steps, and its answer is near to the known points."""
    torch.manual_seed(0)
    model = cls(1, width=32, layers=layers)
    optimizer = torch.optim.Adam(model.parameters(), lr)
    for step in range(steps):
        loss = model.loss(*lines(step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    episode, target = lines(10_000, 500)
    assert episode.values is not None
    mean = episode.values[:, :5].mean(1, keepdim=True).expand_as(target.query)
    with torch.no_grad():
        sigma, mu = model.score(episode)
    guess = target.squared_errors(mean, episode).mean()
    found = target.squared_errors(mu[:, 5:], episode).mean()
    assert found < error * guess
    known = (mu[:, :5] - episode.values[:, :5]).square().mean()
    assert known < error / 2 * guess
    # it is surer where it is nearer
    wrong = (mu[:, 5:] - target.query).abs()
    sure = sigma[:, 5:] < sigma[:, 5:].median()
    assert wrong[sure].mean() < wrong[~sure].mean()


def test_mistakes_are_one_line() -> None:
    with pytest.raises(InputError, match="cnp: outputs and width must be 1 or more, layers 2"):
        CNP(1, layers=1)
    with pytest.raises(InputError, match=r"anp\.heads must divide anp\.width 8, not be 3"):
        ANP(1, width=8, heads=3)
    with pytest.raises(InputError, match=r"cnp\.outputs is 1, but values are of 2 numbers; set"):
        CNP(1).score(task()[0])
