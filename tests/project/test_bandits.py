"""The example of bandits: its rules win what enumeration says, its gradient is the exact one."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.examples import example


@pytest.fixture(scope="module")
def bandits() -> Any:
    return example("rl2_bandits")


@pytest.mark.parametrize("name", ["greedy", "UCB1"])
def test_rules_win_what_enumeration_of_all_outcomes_says(bandits: Any, name: str) -> None:
    """Three pulls, where no two arms that were pulled as often are told apart by a tie."""
    rule, expected = bandits.RULES[name], 0.0
    for outcome in itertools.product((0, 1), repeat=3):
        wins, losses, chance = torch.zeros(1, 5), torch.zeros(1, 5), 1.0
        for pull, paid in enumerate(outcome):
            arm = int(rule(wins, losses, pull))
            mean = float((1 + wins[0, arm]) / (2 + wins[0, arm] + losses[0, arm]))
            chance *= mean if paid else 1 - mean
            (wins if paid else losses)[0, arm] += 1
        expected += chance * sum(outcome)
    torch.manual_seed(0)
    p = torch.rand(40_000, bandits.ARMS)
    assert float(bandits.rewards_of(rule, p, 3).mean()) == pytest.approx(expected, abs=0.02)
    assert float(bandits.rewards_of(bandits.random, p, 3).mean()) == pytest.approx(1.5, abs=0.02)


def test_what_greedy_expects_depends_on_how_it_breaks_ties(bandits: Any) -> None:
    """By dynamic programming; the rule, whose ties are random, wins the second in its games."""
    found = [bandits.exact(10, ties) for ties in bandits.TIES]
    assert found == pytest.approx([6.5686, 6.6262, 6.6575, 6.6600], abs=1e-4)
    torch.manual_seed(0)
    p = torch.rand(40_000, bandits.ARMS)
    assert float(bandits.rewards_of(bandits.greedy, p, 10).mean()) == pytest.approx(
        found[1], abs=0.03
    )


@pytest.mark.parametrize(("pulls", "wanted"), [(1, 1 / 2), (2, 13 / 12)])
def test_exact_values_by_hand(bandits: Any, pulls: int, wanted: float) -> None:
    """After a win the same arm pays 2/3, after a loss another one pays 1/2."""
    for ties in bandits.TIES:
        assert bandits.exact(pulls, ties) == pytest.approx(wanted)


def test_advantages_are_sums_of_surprises(bandits: Any) -> None:
    paid, expected = torch.rand(2, 4), torch.rand(2, 4)
    following = torch.cat([expected[:, 1:], torch.zeros(2, 1)], 1)
    found = bandits.advantages(paid, expected, 0.7)
    for t in range(4):
        each = [0.7 ** (k - t) * (paid + following - expected)[:, k] for k in range(t, 4)]
        torch.testing.assert_close(found[:, t], torch.stack(each).sum(0))
    to_come = paid.flip(1).cumsum(1).flip(1)
    torch.testing.assert_close(bandits.advantages(paid, expected, 1.0), to_come - expected)


def test_the_gradient_is_that_of_the_expected_reward(bandits: Any) -> None:
    """One pull of a bandit whose first arm alone pays: d E[r] / d logits is known."""
    torch.manual_seed(0)
    net = bandits.RL2(width=4)
    p = torch.tensor([1.0, 0, 0, 0, 0]).expand(40_000, -1)
    net.loss(p, 1, explore=0.0).backward()
    with torch.no_grad():
        logits = net.out(net.cell(torch.zeros(1, 6), torch.zeros(1, 4)))[0, :5]
    share = logits.softmax(0)
    wanted = share[0] * (torch.eye(5)[0] - share)  # of the reward, which is maximised
    found = -net.out.bias.grad[:5] * (share[0] * (1 - share[0])).sqrt()  # surprise has unit spread
    torch.testing.assert_close(found, wanted, atol=0.01, rtol=0)


def test_the_command_writes_its_table(bandits: Any, tmp_path: Path) -> None:
    file = tmp_path / "bandits.csv"
    bandits.main(["--pulls", "2", "--steps", "2", "--bandits", "50", "--out", str(file)])
    lines = file.read_text().splitlines()
    assert lines[0] == "pulls,player,reward,ci95" and len(lines) == 1 + 4 + 4 + 1
    assert lines[-1].startswith('2,"RL^2, seed 0",')
