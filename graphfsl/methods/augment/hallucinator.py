"""Imaginary data: a generator that learns from the loss of the learner that it serves.

Wang, Girshick, Hebert, Hariharan 2018, https://arxiv.org/abs/1801.05401
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graphfsl.core.generator import Generator
from graphfsl.io.errors import require

__all__ = ["Hallucinator"]


class Hallucinator(Generator):
    """Add G(x, z) of each labeled sample x, z ~ N(0, I), and train G by what the queries say.

        S' = S + {(G(x_i, z), y_i)},   L(S', Q) is minimised over G and the learner

    G is a perceptron of three layers on [x; z] that gives nearly x to begin with. There is no other
    loss: what helps the head to answer is a good sample, whether or not it looks like one.

    Args:
        dim: d, the length of the features, and of z.
        samples: nodes that every labeled sample gets; 0 adds nothing.
        weight: label weight of a generated node beside 1 of a real one.
        noise: false takes z = 0: a control, in which G can only move a sample.
        averaged: the mean of 64 draws in place of the draws, see `Generator`.

    Shapes:
        forward: features (B, n, d), weights (B, n, C) -> an episode with `samples` more support
            nodes for each that it has.

    Source:
        Wang et al. 2018, the generator trained with the classifier.

    Deviations:
        G adds to x, where the paper starts its ReLU layers as identities: features may be below 0.
        The paper draws as many samples as a class lacks to a fixed number.
    """

    of_samples = True

    def __init__(
        self,
        dim: int,
        samples: int = 5,
        weight: float = 0.2,
        noise: bool = True,
        averaged: bool = False,
    ) -> None:
        require(
            noise or not averaged,
            "hallucinator: without noise all draws are alike; set averaged=false",
        )
        super().__init__((dim,), samples, weight, averaged)
        self.noisy = noise
        last = nn.Linear(dim, dim)
        self.generate = nn.Sequential(
            nn.Linear(2 * dim, dim), nn.ReLU(), nn.Linear(dim, dim), nn.ReLU(), last
        )
        nn.init.normal_(last.weight, std=1e-3)  # G(x, z) is nearly x
        nn.init.zeros_(last.bias)

    def draw(self, condition: Tensor, noise: Tensor) -> Tensor:
        """G(x, z) (B, g, m, d) of samples x (B, g, d) and z (B, g, m, d)."""
        x = condition.unsqueeze(2).expand_as(noise)
        z = noise if self.noisy else torch.zeros_like(noise)
        drawn: Tensor = x + self.generate(torch.cat([x, z], -1))
        return drawn
