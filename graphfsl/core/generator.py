"""`Generator`: appends generated support nodes, each with a label weight of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from graphfsl.core.episode import Episode
from graphfsl.core.learner import Augment
from graphfsl.functional.prototypes import present, prototypes
from graphfsl.io.errors import require

AVERAGED = 64  # draws whose mean stands for what a generator gives without its noise


class Generator(Augment):
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
    needs_fit = False  # whether it adds nothing before `fit_base` has set `ready`

    def __init__(
        self, noise: Sequence[int], samples: int, weight: float, averaged: bool = False
    ) -> None:
        super().__init__()
        require(samples >= 0, f"samples must be 0 or more, not {samples}")
        require(weight >= 0, f"weight must be 0 or more, not {weight}")
        self.samples, self.weight, self.averaged = samples, weight, averaged
        draws = AVERAGED if averaged else samples
        self.noise: Tensor
        self.ready: Tensor
        self.register_buffer("noise", torch.randn(draws, *noise))
        self.register_buffer("ready", torch.tensor(float(not self.needs_fit)))

    def draw(self, condition: Tensor, noise: Tensor) -> Tensor:
        """Generated features (B, g, m, d).

        Args:
            condition: (B, g, d) features that they are drawn from.
            noise: (B, g, m, *N) standard normal.
        """
        raise NotImplementedError

    def fresh(self, noise: Tensor) -> Tensor:
        """New noise of the shape of `noise`, for training."""
        return torch.randn_like(noise)

    @property
    def note(self) -> str:
        """What a results row says of the nodes that it adds; empty where it adds none."""
        if not self.samples:
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
        if not self.samples:
            return episode
        condition, labels = self.conditions(episode)
        b, g = condition.shape[:2]
        z = self.noise.to(condition.dtype).expand(b, g, *self.noise.shape)
        if self.training:
            z = self.fresh(z)
        x, weight = self.draw(condition, z), self.weight * self.ready.to(labels.dtype)
        if self.averaged:
            x, weight = x.mean(2, keepdim=True), self.samples * weight
        w = (labels * weight).unsqueeze(2).expand(-1, -1, x.shape[2], -1)
        return episode.add_support(x.flatten(1, 2), w.flatten(1, 2), (w.sum(-1) > 0).flatten(1, 2))


class BaseMemory:
    """For a part that keeps tensors of base classes, whose number no option tells.

    `remembers` names the buffers whose first axis is that of the base classes; they are empty
    until `fit_base`, and take the size of stored ones when weights are loaded.
    """

    remembers: tuple[str, ...] = ()

    def make_room(self, stored: Mapping[str, Tensor]) -> None:
        """Give the remembered buffers as many rows as the stored ones of their names have."""
        for name in self.remembers:
            own: Tensor = getattr(self, name)
            if name in stored and stored[name].shape[1:] == own.shape[1:]:
                setattr(self, name, own.new_empty(stored[name].shape))
