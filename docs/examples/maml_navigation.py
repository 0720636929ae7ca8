"""Meta-reinforcement learning by MAML: a point that learns in one step where its goal is.

    python docs/examples/maml_navigation.py
    python docs/examples/maml_navigation.py --seeds 3 --out navigation.csv

A point starts at (0, 0); its goal lies in [-0.5, 0.5]^2 and is not told. It moves by up to 0.1 in
each of 100 steps and is paid minus its distance to the goal, until it is within 0.01 of it. Twenty
walks are its support: an inner step of policy gradient on them adapts its policy to the goal.
Beside MAML stands a policy that was trained on all goals together and takes the same steps.

Finn, Abbeel, Levine 2017, "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks",
section 5.3, https://arxiv.org/abs/1703.03400. Deviations: Adam on the policy gradient in place of
TRPO; the mean return of a goal's walks at each step as the baseline; few steps.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.distributions import Normal

GOALS, WALKS, HORIZON = 20, 20, 100
REACH, ARRIVED, DISCOUNT = 0.1, 0.01, 0.99
Weights = dict[str, Tensor]  # of T policies at once: name -> (T, ...)


class Policy(nn.Module):
    """Where to go from a place: a Gaussian whose mean is a perceptron's."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        sizes = (2, width, width, 2)
        for i, (inputs, outputs) in enumerate(pairwise(sizes)):
            linear = nn.Linear(inputs, outputs)
            self.register_parameter(f"w{i}", nn.Parameter(linear.weight.detach().mT.clone()))
            self.register_parameter(f"b{i}", nn.Parameter(linear.bias.detach()[None].clone()))
        self.log_std = nn.Parameter(torch.full((1, 2), -1.0))

    def copies(self, number: int) -> Weights:
        """Its weights, for each of `number` goals."""
        return {k: w.expand(number, *w.shape) for k, w in self.named_parameters()}


def moves(weights: Weights, place: Tensor) -> Normal:
    """The moves of T policies from places (T, n, 2)."""
    h = place
    for i in range(3):
        h = torch.baddbmm(weights[f"b{i}"], h, weights[f"w{i}"])
        h = h.tanh() if i < 2 else h
    return Normal(h, weights["log_std"].exp(), validate_args=False)


@dataclass
class Walked:
    """Walks of T policies: places and moves (T, walks, steps, 2), rewards and whether they went on.

    `reward` and `going` are (T, walks, steps).
    """

    place: Tensor
    move: Tensor
    reward: Tensor
    going: Tensor

    @property
    def returns(self) -> Tensor:
        """(T,) the mean of the walks' undiscounted returns."""
        return self.reward.sum(2).mean(1)

    @property
    def advantage(self) -> Tensor:
        """What was still to come, discounted, less the mean of the goal's walks; in its spread."""
        to_come, later = [], torch.zeros_like(self.reward[..., 0])
        for reward in reversed(self.reward.unbind(-1)):
            later = reward + DISCOUNT * later
            to_come.append(later)
        found = torch.stack(to_come[::-1], -1)
        found = (found - found.mean(1, keepdim=True)) * self.going
        spread: Tensor = found.flatten(1).std(1).clamp_min(1e-6)
        return found / spread[:, None, None]


@torch.no_grad()
def walk(weights: Weights, goal: Tensor, walks: int = WALKS) -> Walked:
    """Walks of T policies, each to its goal (T, 2)."""
    place = torch.zeros(len(goal), walks, 2)
    going = torch.ones(len(goal), walks)
    places, made, rewards, on = [], [], [], []
    for _ in range(HORIZON):
        move = moves(weights, place).sample()
        places.append(place)
        made.append(move)
        on.append(going)
        place = place + move.clamp(-REACH, REACH) * going.unsqueeze(-1)
        away = place - goal.unsqueeze(1)
        rewards.append(-away.norm(dim=-1) * going)
        going = going * (away.abs() >= ARRIVED).any(-1)
    return Walked(*(torch.stack(kept, 2) for kept in (places, made, rewards, on)))


def surrogate(weights: Weights, walked: Walked) -> Tensor:
    """(T,) what has minus the policy gradient of each policy as its gradient."""
    moved = moves(weights, walked.place.flatten(1, 2))
    log_p = moved.log_prob(walked.move.flatten(1, 2)).sum(-1)
    weighted = log_p * walked.advantage.flatten(1)
    loss: Tensor = -weighted.sum(1) / walked.going.flatten(1).sum(1)
    return loss


def inner_step(weights: Weights, goal: Tensor, lr: float, differentiable: bool) -> Weights:
    """The weights after a step on walks of their own."""
    loss = surrogate(weights, walk(weights, goal)).sum()
    slopes = torch.autograd.grad(loss, list(weights.values()), create_graph=differentiable)
    return {k: w - lr * g for (k, w), g in zip(weights.items(), slopes, strict=True)}


def goals(number: int) -> Tensor:
    """(number, 2) in the square."""
    return torch.rand(number, 2) - 0.5


def train(steps: int, inner_steps: int, lr: float, inner_lr: float) -> Policy:
    """A policy from which `inner_steps` lead to any goal; with 0 it is trained on all together."""
    policy = Policy()
    optimizer = torch.optim.Adam(policy.parameters(), lr)
    for _ in range(steps):
        goal = goals(GOALS)
        weights = policy.copies(GOALS)
        for _ in range(inner_steps):
            weights = inner_step(weights, goal, inner_lr, differentiable=True)
        loss = surrogate(weights, walk(weights, goal)).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
    return policy


def adapted(policy: Policy, goal: Tensor, inner_lr: float, steps: int = 3) -> list[Tensor]:
    """The returns (T,) after 0, 1, … inner steps to each goal (T, 2); the rate halves after one."""
    weights = policy.copies(len(goal))
    found = [walk(weights, goal).returns]
    for step in range(steps):
        rate = inner_lr if step == 0 else inner_lr / 2
        weights = inner_step(weights, goal, rate, differentiable=False)
        weights = {k: w.detach().requires_grad_() for k, w in weights.items()}
        found.append(walk(weights, goal).returns)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=1, help="trainings of each kind")
    parser.add_argument("--steps", type=int, default=300, help="of a training")
    parser.add_argument("--goals", type=int, default=200, help="on which policies are measured")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--inner-lr", type=float, default=0.1)
    parser.add_argument("--out", type=Path, help="a CSV of the results")
    asked = parser.parse_args(arguments)
    lines: list[list[str]] = []
    for name, inner_steps in (("untrained", 0), ("all goals together", 0), ("MAML", 1)):
        for seed in range(asked.seeds):
            torch.manual_seed(seed)
            steps = 0 if name == "untrained" else asked.steps
            policy = train(steps, inner_steps, asked.lr, asked.inner_lr)
            torch.manual_seed(10_000)  # the same goals for all
            line = [name, str(seed)]
            for found in adapted(policy, goals(asked.goals), asked.inner_lr):
                half = 1.96 * float(found.std()) / len(found) ** 0.5
                line.append(f"{float(found.mean()):.1f} ± {half:.1f}")
            lines.append(line)
            print("".join(f"{cell:20}" for cell in line), flush=True)
    if asked.out:
        with asked.out.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            steps_told = (f"after {step} inner steps" for step in range(len(lines[0]) - 2))
            writer.writerows([["training", "seed", *steps_told], *lines])


if __name__ == "__main__":
    main()
