"""The example of navigation: walks, returns and inner steps by hand."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.examples import example


@pytest.fixture(scope="module")
def navigation() -> Any:
    return example("maml_navigation")


def test_a_walk_stops_at_its_goal_and_is_paid_its_distance(navigation: Any) -> None:
    """A policy without chance that goes right by 0.07 in each step, and one that goes too fast."""
    policy = navigation.Policy(4)
    with torch.no_grad():
        for name, weight in policy.named_parameters():
            weight.fill_(-30.0 if name == "log_std" else 0.0)
    weights = {k: w.detach().clone() for k, w in policy.copies(2).items()}
    weights["b2"][:, 0, 0] = torch.tensor([0.07, 5.0])
    goal = torch.tensor([[0.21, 0.005], [0.35, 0.0]])
    walked = navigation.walk(weights, goal, walks=3)
    slow = [-(((0.21 - 0.07 * t) ** 2 + 0.005**2) ** 0.5) for t in (1, 2, 3)]
    torch.testing.assert_close(walked.reward[0, 0, :3], torch.tensor(slow), atol=1e-5, rtol=0)
    assert not walked.reward[0, :, 3:].any() and walked.going[0].sum(1).tolist() == [3.0] * 3
    fast = -sum(abs(0.35 - 0.1 * t) for t in range(1, 101))  # 0.1 is as far as a step reaches
    assert float(walked.returns[1]) == pytest.approx(fast, rel=1e-4)


def test_advantages_are_discounted_and_beside_those_of_the_same_goal(navigation: Any) -> None:
    reward = torch.tensor([[[1.0, 2.0], [3.0, 5.0]]])
    empty = torch.zeros(1, 2, 2, 2)
    walked = navigation.Walked(empty, empty, reward, torch.ones(1, 2, 2))
    to_come = torch.tensor([[1 + 0.99 * 2, 2.0], [3 + 0.99 * 5, 5.0]])
    wanted = to_come - to_come.mean(0)
    torch.testing.assert_close(walked.advantage[0], wanted / wanted.std())


def test_the_surrogate_of_each_goal_is_that_of_its_own_walks(navigation: Any) -> None:
    """So that goals adapt each for itself, though they are computed together."""
    torch.manual_seed(0)
    policy = navigation.Policy(5)
    weights = policy.copies(3)
    walked = navigation.walk(weights, navigation.goals(3), walks=4)
    together = navigation.surrogate(weights, walked)
    slopes = torch.autograd.grad(together.sum(), list(policy.parameters()))
    total = [torch.zeros_like(p) for p in policy.parameters()]
    for t in range(3):
        parts = (walked.place, walked.move, walked.reward, walked.going)
        one = navigation.Walked(*(part[t, None] for part in parts))
        own = navigation.surrogate(policy.copies(1), one)
        torch.testing.assert_close(own[0], together[t])
        for into, slope in zip(
            total, torch.autograd.grad(own, list(policy.parameters())), strict=True
        ):
            into += slope
    torch.testing.assert_close(list(slopes), total, atol=1e-5, rtol=1e-4)


def test_the_outer_gradient_goes_through_the_inner_step(
    navigation: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """d L(w - lr dl(w)) / dw by finite differences, on walks that are held fixed."""
    torch.manual_seed(0)
    policy = navigation.Policy(3).double()
    goal = navigation.goals(1)
    monkeypatch.setattr(navigation, "HORIZON", 5)
    fixed = navigation.walk({k: w.float() for k, w in policy.copies(1).items()}, goal, walks=3)
    parts = (fixed.place, fixed.move, fixed.reward, fixed.going)
    fixed = navigation.Walked(*(part.double() for part in parts))
    monkeypatch.setattr(navigation, "walk", lambda weights, goal, walks=0: fixed)

    def outer() -> torch.Tensor:
        weights = navigation.inner_step(policy.copies(1), goal, 0.5, differentiable=True)
        return navigation.surrogate(weights, fixed).sum()

    (slope,) = torch.autograd.grad(outer(), policy.b1)
    for i in range(3):
        values = []
        for shift in (1e-5, -1e-5):
            with torch.no_grad():
                policy.b1[0, i] += shift
            values.append(float(outer()))
            with torch.no_grad():
                policy.b1[0, i] -= shift
        assert float(slope[0, i]) == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-4)


def test_a_table_has_a_line_for_each_training_and_a_column_for_each_step(
    navigation: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "navigation.csv"
    navigation.main(["--steps", "1", "--goals", "3", "--seeds", "2", "--out", str(file)])
    with file.open(encoding="utf-8") as lines:
        heads, *told = csv.reader(lines)
    assert heads[:3] == ["training", "seed", "after 0 inner steps"] and len(heads) == 6
    names = ("untrained", "all goals together", "MAML")
    assert [line[:2] for line in told] == [[name, seed] for name in names for seed in "01"]
    printed = capsys.readouterr().out
    assert all(cell in printed for line in told for cell in line)
