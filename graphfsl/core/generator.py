"""`Generator`: appends generated support nodes, each with a label weight of its own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from graphfsl.core.base_classes import BaseMemory
from graphfsl.core.episode import Episode
from graphfsl.core.learner import Augment
from graphfsl.functional.prototypes import present, prototypes
from graphfsl.io.errors import require

AVERAGED = 64  # draws whose mean stands for what a generator gives without its noise


class Generator(BaseMemory, Augment):
    """Appends `samples` generated support nodes for each condition.

    The subclass writes `draw`. A condition is a class mean, or where `of_samples` is set a support
    node; what is drawn from it carries `weight` times its label weights (1 of a class mean's own
    class). Absent classes, padding and nodes without a label get nothing.

    In evaluation the noise is fixed: the same for every condition, whatever else is in the batch.

    Args:
        noise: the shape of the noise of one draw.
        samples: how many nodes a condition gets; 0 adds nothing.
        weight: label weight of a generated node beside 1 of a real one.
        averaged: give one node in place of all, the mean of 64 draws, with the weight of all. This
            control shows what drawing samples is worth beyond moving the class mean.

    Raises:
        InputError: for a number of samples or a weight below 0.
    """

    family = "generative"
    of_samples = False
    needs_fit = False  # whether it adds nothing before `fit_base` has called `set_ready`
    remembers: tuple[str, ...] = ("ready",)

    def __init__(
        self, noise: Sequence[int], samples: int, weight: float, averaged: bool = False
    ) -> None:
        super().__init__()
        require(samples >= 0, f"samples must be 0 or more, not {samples}")
        require(weight >= 0, f"weight must be 0 or more, not {weight}")
        self.samples, self.weight, self.averaged = samples, weight, averaged
        self.noise: Tensor
        self.ready: Tensor
        # not stored, so that a trained generator can be asked for another number of samples
        fixed = _fixed_noise(AVERAGED if averaged else samples, noise)
        self.register_buffer("noise", fixed.to(torch.get_default_device()), persistent=False)
        # empty until it may add nodes: its length is known without asking the device; what needs
        # no fit is added to a trained run, whose weights hold nothing of it
        ready = torch.ones(0 if self.needs_fit else 1)
        self.register_buffer("ready", ready, persistent=self.needs_fit)

    def set_ready(self) -> None:
        """Let it add nodes from now on, as `fit_base` has made it ready."""
        self.ready = self.ready.new_ones(1)

    def set_samples(self, samples: int) -> None:
        """Let a condition get another number of nodes from now on; training is not needed."""
        self.samples = samples
        if not self.averaged:
            self.noise = _fixed_noise(samples, self.noise.shape[1:]).to(self.noise)

    def draw(self, condition: Tensor, noise: Tensor) -> Tensor:
        """Generated features (B, g, m, d).

        Args:
            condition: (B, g, d) features that they are drawn from.
            noise: (B, g, m, *N) standard normal.
        """
        raise NotImplementedError

    def fixed(self) -> Tensor:
        """The noise (m, *N) of all answers in evaluation."""
        return self.noise

    def fresh(self, noise: Tensor) -> Tensor:
        """New noise of the shape of `noise`, for training."""
        return torch.randn_like(noise)

    @property
    def note(self) -> str:
        """What a results row says of the nodes that it adds; empty where none counts."""
        if not self.samples or not self.weight:
            return ""
        nodes = 1 if self.averaged else self.samples
        each = self.weight * self.samples / nodes
        of_what = "labeled sample" if self.of_samples else "class"
        return (
            f"{nodes} generated node{'s' * (nodes != 1)} a {of_what}, "
            f"each {each:g} times the weight of a real one"
        )

    def conditions(self, episode: Episode) -> tuple[Tensor, Tensor]:
        """Features (B, g, d) to draw from, and their label weights (B, g, C); zero for none."""
        if self.of_samples:
            support = episode.support
            real = episode.mask[:, support].unsqueeze(-1)
            return episode.x[:, support], episode.w[:, support] * real
        there = present(episode.w).to(episode.w.dtype)
        return prototypes(episode.x, episode.w), torch.diag_embed(there)

    def forward(self, episode: Episode) -> Episode:
        """The episode with generated support nodes; none before `fit_base` where it needs one."""
        if not self.samples or not self.ready.numel():
            return episode
        condition, labels = self.conditions(episode)
        b, g = condition.shape[:2]
        z = self.fixed().to(condition.dtype)
        z = z.expand(b, g, *z.shape)
        if self.training:
            z = self.fresh(z)
        x, weight = self.draw(condition, z), self.weight
        if self.averaged:
            x, weight = x.mean(2, keepdim=True), self.samples * weight
        w = (labels * weight).unsqueeze(2).expand(-1, -1, x.shape[2], -1)
        return episode.add_support(x.flatten(1, 2), w.flatten(1, 2), (w.sum(-1) > 0).flatten(1, 2))


def _fixed_noise(draws: int, shape: Sequence[int]) -> Tensor:
    """Standard normal numbers (draws, *shape), always the same."""
    same = torch.Generator().manual_seed(0)
    return torch.randn(draws, *shape, generator=same, device="cpu")
