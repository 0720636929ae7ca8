"""Few-shot reinforcement learning at its smallest: a network that learns to play bandits (RL^2).

    python docs/examples/rl2_bandits.py
    python docs/examples/rl2_bandits.py --pulls 10 100 --seeds 3 --out bandits.csv

A bandit has five arms, each of which pays 1 with a probability of its own, which is uniform in
[0, 1] and not told. A player has ten pulls: they are its support, and its reward is what it makes
of them. The network is trained on bandits and never on the one that it plays.

Duan et al. 2016, "RL^2: Fast Reinforcement Learning via Slow Reinforcement Learning",
https://arxiv.org/abs/1611.02779. Deviations: an actor and a critic under Adam in place of TRPO;
training begins with games of ten pulls, which then grow longer.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ARMS = 5
FIRST_PULLS = 10  # of the games that training begins with
Rule = Callable[[Tensor, Tensor, int], Tensor]  # wins (B, K), losses (B, K), pull -> arms (B,)


def random(wins: Tensor, losses: Tensor, pull: int) -> Tensor:
    """Any arm."""
    return torch.randint(ARMS, wins.shape[:1])


def greedy(wins: Tensor, losses: Tensor, pull: int) -> Tensor:
    """The arm with the best mean of the posterior Beta(1 + wins, 1 + losses), ties at random."""
    mean = (1 + wins) / (2 + wins + losses)
    return (mean + 1e-5 * torch.rand_like(mean)).argmax(1)


def thompson(wins: Tensor, losses: Tensor, pull: int) -> Tensor:
    """The best arm of one draw from the posterior."""
    return torch.distributions.Beta(1 + wins, 1 + losses).sample().argmax(1)


def ucb1(wins: Tensor, losses: Tensor, pull: int) -> Tensor:
    """Each arm once, then the best upper confidence bound (Auer, Cesa-Bianchi, Fischer 2002)."""
    count = wins + losses
    bound = wins / count + (2 * torch.tensor(float(max(pull, 1))).log() / count).sqrt()
    return bound.masked_fill(count == 0, float("inf")).argmax(1)


RULES: dict[str, Rule] = {"random": random, "Thompson": thompson, "UCB1": ucb1, "greedy": greedy}


def rewards_of(rule: Rule, p: Tensor, pulls: int) -> Tensor:
    """What a rule wins with bandits p (B, K): (B,)."""
    wins, losses = torch.zeros_like(p), torch.zeros_like(p)
    for pull in range(pulls):
        arm = F.one_hot(rule(wins, losses, pull), ARMS)
        paid = torch.bernoulli((p * arm).sum(1, keepdim=True))
        wins, losses = wins + arm * paid, losses + arm * (1 - paid)
    return wins.sum(1)


State = tuple[tuple[int, int], ...]  # wins and losses of each arm
TIES = ("first", "random", "least pulled", "best")


def exact(pulls: int, ties: str) -> float:
    """What a player expects to win, by dynamic programming over all that it may see.

    Args:
        pulls: of a game; ten take a second.
        ties: which of the arms with the best posterior mean `greedy` takes: the "first" of them,
            one at "random", or the one "least pulled"; or "best", the best arm whatever its mean.
    """

    def mean(seen: tuple[int, int]) -> float:
        return (1 + seen[0]) / (2 + seen[0] + seen[1])

    def after(state: State, arm: int, paid: bool) -> State:
        wins, losses = state[arm]
        own = (wins + 1, losses) if paid else (wins, losses + 1)
        changed = (*state[:arm], own, *state[arm + 1 :])
        return changed if ties == "first" else tuple(sorted(changed))

    @cache
    def to_come(state: State, left: int) -> float:
        if not left:
            return 0.0
        best = max(map(mean, state))
        equal = [arm for arm in range(ARMS) if mean(state[arm]) > best - 1e-9]
        if ties == "best":
            return max(of_arm(state, arm, left) for arm in range(ARMS))
        if ties == "random":
            return sum(of_arm(state, arm, left) for arm in equal) / len(equal)
        if ties == "least pulled":
            equal.sort(key=lambda arm: sum(state[arm]))
        return of_arm(state, equal[0], left)

    def of_arm(state: State, arm: int, left: int) -> float:
        p = mean(state[arm])
        won = 1 + to_come(after(state, arm, True), left - 1)
        return p * won + (1 - p) * to_come(after(state, arm, False), left - 1)

    return to_come(((0, 0),) * ARMS, pulls)


class RL2(nn.Module):
    """A GRU that reads its last arm and reward, and answers with the next arm's logits."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.cell = nn.GRUCell(ARMS + 1, width)
        self.out = nn.Linear(width, ARMS + 1)  # the last is what it expects of each pull to come

    def forward(self, p: Tensor, pulls: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Play bandits p (B, K): log-probabilities, rewards, expectations, entropies (B, pulls).

        An expectation is of all that is still to come, this pull's reward too.
        """
        seen, hidden = p.new_zeros(len(p), ARMS + 1), p.new_zeros(len(p), self.cell.hidden_size)
        steps = []
        for pull in range(pulls):
            hidden = self.cell(seen, hidden)
            logits, of_each = self.out(hidden).split([ARMS, 1], 1)
            log_p = logits.log_softmax(1)
            arm = torch.multinomial(log_p.detach().exp(), 1)
            paid = torch.bernoulli(p.gather(1, arm))
            entropy = -(log_p.exp() * log_p).sum(1, keepdim=True)
            expected = of_each * (pulls - pull)
            steps.append(torch.stack([log_p.gather(1, arm), paid, expected, entropy]))
            seen = torch.cat([F.one_hot(arm[:, 0], ARMS).to(p), paid], 1)
        log_p, paid, expected, entropy = torch.cat(steps, 2)
        return log_p, paid, expected, entropy

    def loss(self, p: Tensor, pulls: int, explore: float, decay: float = 1.0) -> Tensor:
        """The policy's gradient by the advantages of its pulls, and the critic's error: a scalar.

        Args:
            p: bandits (B, K).
            pulls: of each game.
            explore: the weight of the entropy.
            decay: lambda of `advantages`.
        """
        log_p, paid, expected, entropy = self(p, pulls)
        advantage = advantages(paid, expected.detach(), decay)
        policy = -(log_p * advantage / advantage.std()).sum(1).mean()
        to_come = paid.flip(1).cumsum(1).flip(1)
        left = torch.arange(pulls, 0, -1)
        critic = ((to_come - expected) / left).square().sum(1).mean()
        loss: Tensor = policy + critic - explore * entropy.sum(1).mean()
        return loss


def advantages(paid: Tensor, expected: Tensor, decay: float) -> Tensor:
    """How much better than expected each pull was: rewards and expectations (B, n) -> (B, n).

    Generalised advantage estimation without discount (Schulman et al. 2016): the surprises of this
    pull and of those that follow, of which each counts `decay` times the one before it. With 1 it
    is what was still to come, less what was expected.
    """
    following = F.pad(expected[:, 1:], (0, 1))
    surprise = paid + following - expected
    number = torch.arange(paid.shape[1])
    later = number.unsqueeze(1) - number  # (n, n)
    weight = torch.tensor(decay) ** later.clamp_min(0)
    return surprise @ weight.tril()


def train(pulls: int, steps: int, bandits: int = 256, lr: float = 5e-3, decay: float = 0.95) -> RL2:
    """A network that was trained on `bandits` new ones in each step.

    Games grow from ten pulls to `pulls` in the first two thirds of the steps.
    """
    net = RL2()
    optimizer = torch.optim.Adam(net.parameters(), lr)
    for step in range(steps):
        left = 1 - step / steps
        grown = min(1.5 * step / steps, 1.0)
        length = round(FIRST_PULLS * (pulls / FIRST_PULLS) ** grown)
        for group in optimizer.param_groups:
            group["lr"] = lr * left
        loss = net.loss(torch.rand(bandits, ARMS), length, explore=0.05 * left, decay=decay)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
    return net


def of_mean(rewards: Tensor) -> tuple[float, float]:
    """The mean of rewards (B,), and half its 95% interval."""
    return float(rewards.mean()), float(1.96 * rewards.std() / len(rewards) ** 0.5)


@torch.no_grad()
def report(pulls: int, seeds: int, steps: int, bandits: int) -> list[list[str]]:
    """Lines of pulls, player, mean reward and half its 95% interval; all play the same bandits."""
    torch.manual_seed(10_000)  # of no training
    p = torch.rand(bandits, ARMS)
    lines = []

    def add(player: str, mean: float, half: str) -> None:
        lines.append([str(pulls), player, f"{mean:.2f}", half])
        print(f"{pulls:4} pulls  {player:44} {mean:6.2f} {half and '± ' + half}", flush=True)

    for name, rule in RULES.items():
        mean, half = of_mean(rewards_of(rule, p, pulls))
        add(name, mean, f"{half:.2f}")
    if pulls <= 10:
        for ties in TIES:
            player = "the best that there is" if ties == "best" else f"greedy, ties: {ties}"
            add(f"{player} (exact)", exact(pulls, ties), "")
    for seed in range(seeds):
        torch.manual_seed(seed)
        with torch.enable_grad():
            net = train(pulls, steps)
        torch.manual_seed(10_001)
        mean, half = of_mean(net(p, pulls)[1].sum(1))
        add(f"RL^2, seed {seed}", mean, f"{half:.2f}")
    return lines


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pulls", type=int, nargs="+", default=[10])
    parser.add_argument("--seeds", type=int, default=1, help="trainings")
    parser.add_argument("--steps", type=int, default=1600, help="of a training")
    parser.add_argument("--bandits", type=int, default=50_000, help="on which players are measured")
    parser.add_argument("--out", type=Path, help="a CSV of the results")
    asked = parser.parse_args(arguments)
    lines = []
    for pulls in asked.pulls:
        lines += report(pulls, asked.seeds, asked.steps, asked.bandits)
    if asked.out:
        with asked.out.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerows([["pulls", "player", "reward", "ci95"], *lines])


if __name__ == "__main__":
    main()
