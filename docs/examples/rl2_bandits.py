"""Few-shot reinforcement learning at its smallest: a network that learns to play bandits (RL^2).

    python docs/examples/rl2_bandits.py

A bandit has five arms, each of which pays 1 with a probability of its own, which is uniform in
[0, 1] and not told. A player has ten pulls: they are its support, and its reward is what it makes
of them. The network is trained on bandits and never on the one that it plays.

Duan et al. 2016, "RL^2: Fast Reinforcement Learning via Slow Reinforcement Learning",
https://arxiv.org/abs/1611.02779. Deviations: REINFORCE with a learned baseline in place of TRPO.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ARMS, PULLS = 5, 10
Rule = Callable[[Tensor, Tensor, int], Tensor]  # wins (B, K), losses (B, K), pull -> arms (B,)


def random(wins: Tensor, losses: Tensor, pull: int) -> Tensor:
    """Any arm."""
    return torch.randint(ARMS, wins.shape[:1])


def greedy(wins: Tensor, losses: Tensor, pull: int) -> Tensor:
    """The arm with the best mean of the posterior Beta(1 + wins, 1 + losses)."""
    return ((1 + wins) / (2 + wins + losses)).argmax(1)


def thompson(wins: Tensor, losses: Tensor, pull: int) -> Tensor:
    """The best arm of one draw from the posterior."""
    return torch.distributions.Beta(1 + wins, 1 + losses).sample().argmax(1)


def ucb1(wins: Tensor, losses: Tensor, pull: int) -> Tensor:
    """Each arm once, then the best upper confidence bound (Auer, Cesa-Bianchi, Fischer 2002)."""
    count = wins + losses
    bound = wins / count + (2 * torch.tensor(float(max(pull, 1))).log() / count).sqrt()
    return bound.masked_fill(count == 0, float("inf")).argmax(1)


def rewards_of(rule: Rule, p: Tensor) -> Tensor:
    """What a rule wins with bandits p (B, K): (B,)."""
    wins, losses = torch.zeros_like(p), torch.zeros_like(p)
    for pull in range(PULLS):
        arm = F.one_hot(rule(wins, losses, pull), ARMS)
        paid = torch.bernoulli((p * arm).sum(1, keepdim=True))
        wins, losses = wins + arm * paid, losses + arm * (1 - paid)
    return wins.sum(1)


class RL2(nn.Module):
    """A GRU that reads its last arm and reward, and answers with the next arm's logits."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.cell = nn.GRUCell(ARMS + 1, width)
        self.out = nn.Linear(width, ARMS + 1)  # the last is what it expects still to win

    def forward(self, p: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Play bandits p (B, K): log-probabilities, rewards, expectations, entropies (B, pulls)."""
        seen, hidden = p.new_zeros(len(p), ARMS + 1), p.new_zeros(len(p), self.cell.hidden_size)
        steps = []
        for _ in range(PULLS):
            hidden = self.cell(seen, hidden)
            logits, expected = self.out(hidden).split([ARMS, 1], 1)
            log_p = logits.log_softmax(1)
            arm = torch.multinomial(log_p.exp(), 1)
            paid = torch.bernoulli(p.gather(1, arm))
            entropy = -(log_p.exp() * log_p).sum(1, keepdim=True)
            steps.append(torch.stack([log_p.gather(1, arm), paid, expected, entropy]))
            seen = torch.cat([F.one_hot(arm[:, 0], ARMS).to(p), paid], 1)
        log_p, paid, expected, entropy = torch.cat(steps, 2)
        return log_p, paid, expected, entropy

    def loss(self, p: Tensor, explore: float) -> Tensor:
        """REINFORCE on what is still to come of each pull, less what was expected: a scalar."""
        log_p, paid, expected, entropy = self(p)
        to_come = paid.flip(1).cumsum(1).flip(1)
        surprise = (to_come - expected).detach()
        policy = -(log_p * surprise / surprise.std()).sum(1).mean()
        critic = (to_come - expected).square().mean() / 2
        loss: Tensor = policy + critic - explore * entropy.sum(1).mean()
        return loss


def train(steps: int, bandits: int = 512, lr: float = 5e-3) -> RL2:
    """A network that was trained on `bandits` new ones in each step."""
    net = RL2()
    optimizer = torch.optim.Adam(net.parameters(), lr)
    for step in range(steps):
        left = 1 - step / steps
        for group in optimizer.param_groups:
            group["lr"] = lr * left
        loss = net.loss(torch.rand(bandits, ARMS), explore=0.05 * left)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
    return net


@torch.no_grad()
def report(net: RL2, bandits: int) -> dict[str, tuple[float, float]]:
    """Name -> mean reward of a player on the same bandits, and half its 95% interval."""
    p = torch.rand(bandits, ARMS)
    rules: dict[str, Rule] = {"random": random, "Thompson": thompson, "UCB1": ucb1}
    rules["greedy on the posterior mean"] = greedy
    won = {name: rewards_of(rule, p) for name, rule in rules.items()}
    won["RL^2"] = net(p)[1].sum(1)
    return {
        name: (float(r.mean()), float(1.96 * r.std() / bandits**0.5)) for name, r in won.items()
    }


if __name__ == "__main__":
    torch.manual_seed(0)
    for name, (mean, half) in report(train(steps=1500), bandits=100_000).items():
        print(f"{name:30} {mean:.2f} ± {half:.2f}")
