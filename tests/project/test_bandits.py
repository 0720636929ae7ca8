"""The example of bandits: its rules win what enumeration says, its gradient is the exact one."""

from __future__ import annotations

import importlib.util
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

FILE = Path(__file__).resolve().parents[2] / "docs" / "examples" / "rl2_bandits.py"


@pytest.fixture(scope="module")
def bandits() -> Any:
    spec = importlib.util.spec_from_file_location("rl2_bandits", FILE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_rules_win_what_enumeration_of_all_outcomes_says(
    bandits: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three pulls: the reward of a deterministic rule is exact, the mean over uniform arms too."""
    monkeypatch.setattr(bandits, "PULLS", 3)
    torch.manual_seed(0)
    p = torch.rand(40_000, bandits.ARMS)
    for rule in (bandits.greedy, bandits.ucb1):
        expected = 0.0
        for outcome in itertools.product((0, 1), repeat=3):
            wins, losses, chance = torch.zeros(1, 5), torch.zeros(1, 5), 1.0
            for pull, paid in enumerate(outcome):
                arm = int(rule(wins, losses, pull))
                mean = float((1 + wins[0, arm]) / (2 + wins[0, arm] + losses[0, arm]))
                chance *= mean if paid else 1 - mean
                (wins if paid else losses)[0, arm] += 1
            expected += chance * sum(outcome)
        assert float(bandits.rewards_of(rule, p).mean()) == pytest.approx(expected, abs=0.02)
    assert float(bandits.rewards_of(bandits.random, p).mean()) == pytest.approx(1.5, abs=0.02)


def test_the_gradient_is_that_of_the_expected_reward(
    bandits: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One pull of a bandit whose first arm alone pays: d E[r] / d logits is known."""
    monkeypatch.setattr(bandits, "PULLS", 1)
    torch.manual_seed(0)
    net = bandits.RL2(width=4)
    p = torch.tensor([1.0, 0, 0, 0, 0]).expand(40_000, -1)
    net.loss(p, explore=0.0).backward()
    with torch.no_grad():
        logits = net.out(net.cell(torch.zeros(1, 6), torch.zeros(1, 4)))[0, :5]
    share = logits.softmax(0)
    wanted = share[0] * (torch.eye(5)[0] - share)  # of the reward, which is maximised
    found = -net.out.bias.grad[:5] * (share[0] * (1 - share[0])).sqrt()  # surprise has unit spread
    torch.testing.assert_close(found, wanted, atol=0.01, rtol=0)
