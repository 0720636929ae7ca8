"""A GAN that draws another image of the class of a given one.

Antoniou, Storkey, Edwards 2018 (DAGAN), https://arxiv.org/abs/1711.04340
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from graphfsl.core.image_generator import LearnedImageGenerator
from graphfsl.functional.base_episodes import base_episodes, smallest_class
from graphfsl.functional.gradient_penalty import gradient_penalty
from graphfsl.io.errors import require
from graphfsl.nn.image_coder import Cut, Doubled, halved, image_encoder

__all__ = ["DAGAN"]

BATCH = 32
CRITIC_STEPS = 5
PENALTY = 10.0


class DAGAN(LearnedImageGenerator):
    """Add G(x, z) of each labeled image x, an image that a critic took for another of x's class.

    With x_i, x_j two images of one class, x~ = G(x_i, z), and x^ between x_j and x~,

        L = E D(x_i, x_j) - E D(x_i, x~) - 10 E (||grad_x^ D(x_i, x^)||_2 - 1)^2
        min_G max_D L

    D sees pairs, so that a copy of x_i does not pass for another image. An episode's support gets
    `samples` images G(x, z), z ~ N(0, I), of every labeled image x.

    Args:
        shape: (C, H, W) of an image.
        samples: images that every labeled image gets, 0 adds nothing.
        weight: label weight of a generated image beside 1 of a real one.
        latent: length of z.
        width: channels of the first convolution of G and D.
        steps: of the generator; each follows five of the critic.
        rate: of both Adam optimizers.
        averaged: the mean of 64 draws in place of the draws, see `Generator`.

    Shapes:
        forward: images (B, n, C, H, W), weights (B, n, W) -> an episode with `samples` more support
            images for each that it has.

    Source:
        section 3 of the paper.

    Deviations:
        three convolutions down and three up in place of the paper's residual blocks, no
        normalisation layers, z enters at the bottom alone, and widths of 32 and 64; Adam's rate is
        five times that of the paper, and the first drawings are as bright as base images are.
    """

    of_samples = True

    def __init__(
        self,
        shape: Sequence[int],
        samples: int = 5,
        weight: float = 0.2,
        latent: int = 32,
        width: int = 32,
        steps: int = 1500,
        rate: float = 5e-4,
        averaged: bool = False,
    ) -> None:
        require(
            min(latent, width, steps) >= 1 and rate > 0,
            "dagan: latent, width and steps must be 1 or more, rate above 0",
        )
        super().__init__(shape, (latent,), samples, weight, averaged)
        self.latent, self.width, self.steps, self.rate = latent, width, steps, rate
        self.generate = UNet(self.shape, width, latent)
        self.requires_grad_(False)  # nothing is left for a training to do

    def draw(self, condition: Tensor, noise: Tensor) -> Tensor:
        """G(x, z) (B, g, m, *shape) of images x (B, g, *shape) and z (B, g, m, latent)."""
        x = condition.unsqueeze(2).expand(*noise.shape[:3], *condition.shape[2:])
        drawn = self.from_noise(self.scaled(x.flatten(0, 2)), noise.flatten(0, 2))
        images: Tensor = self.unscaled(drawn).unflatten(0, noise.shape[:3])
        return images

    def from_noise(self, x: Tensor, z: Tensor) -> Tensor:
        """G(x, z) (M, *shape) of images (M, *shape) between 0 and 1, and z (M, latent)."""
        generated: Tensor = self.generate(x, z).sigmoid()
        return generated

    def check_base_labels(self, labels: Tensor) -> None:
        """Refuse labels (N,) of a class that has no pair of images."""
        require(
            smallest_class(labels) >= 2,
            "dagan learns from pairs of a class, but a base class has 1 image; leave it out by "
            "data.min_samples=2",
        )

    def fit_base(self, images: Tensor, labels: Tensor) -> None:
        """Train generator and critic on base-class images (N, *shape) and labels (N,)."""
        self.see_range(images, labels)
        self.check_base_labels(labels)
        with torch.enable_grad():
            self._compete(images, labels)
        self.set_ready()

    def _compete(self, images: Tensor, labels: Tensor) -> None:
        channels, height, side = self.shape
        pair = (2 * channels, height, side)
        critic = nn.Sequential(image_encoder(pair, self.width, 128), nn.Linear(128, 1)).to(images)
        self.generate.start_at(self.scaled(images.mean((0, 2, 3))[:, None, None]))
        self.requires_grad_(True)
        of_critic = torch.optim.Adam(critic.parameters(), self.rate, (0.0, 0.9))
        of_generator = torch.optim.Adam(self.generate.parameters(), self.rate, (0.0, 0.9))

        def judged(given: Tensor, other: Tensor) -> Tensor:
            value: Tensor = critic(torch.cat([given, other], 1))
            return value

        def batch() -> tuple[Tensor, Tensor, Tensor]:
            rows, _ = base_episodes(labels, 1, 2, 0, BATCH)
            given, other = (self.scaled(images[of]) for of in rows.unbind(1))
            return given, other, self.from_noise(given, torch.randn(BATCH, self.latent).to(given))

        for _ in range(self.steps):
            for _ in range(CRITIC_STEPS):
                given, other, drawn = batch()
                drawn = drawn.detach()
                gain = judged(given, other).mean() - judged(given, drawn).mean()
                steep = gradient_penalty(partial(judged, given), other, drawn)
                of_critic.zero_grad()
                (PENALTY * steep - gain).backward()
                of_critic.step()
            given, _, drawn = batch()
            loss = -judged(given, drawn).mean()
            of_generator.zero_grad()
            loss.backward()
            of_generator.step()
        self.requires_grad_(False)


class UNet(nn.Module):
    """Images (M, C, H, W) and z (M, latent) -> images (M, C, H, W) of any values.

    Each level on the way up sees what the same level saw on the way down.
    """

    def __init__(self, shape: Sequence[int], width: int, latent: int) -> None:
        super().__init__()
        channels, height, side = shape
        sizes = [(math.ceil(height / n), math.ceil(side / n)) for n in (1, 2, 4, 8)]
        widths = [channels, width, 2 * width, 2 * width]
        self.down = nn.ModuleList(halved(a, b) for a, b in itertools.pairwise(widths))
        bottom = (2 * width, *sizes[3])
        self.noise = nn.Sequential(nn.Linear(latent, math.prod(bottom)), nn.Unflatten(1, bottom))
        self.up = nn.ModuleList(
            nn.Sequential(Doubled(inputs, outputs), Cut(*size))
            for inputs, outputs, size in (
                (4 * width, 2 * width, sizes[2]),
                (4 * width, width, sizes[1]),
                (2 * width, width, sizes[0]),
            )
        )
        self.last = nn.Conv2d(width + channels, channels, 3, padding=1)

    @torch.no_grad()
    def start_at(self, brightness: Tensor) -> None:
        """Draw images about as bright as (C, 1, 1) brightness between 0 and 1 in the beginning.

        Starting from grey, images of strokes have the critic ask for ever less ink, until the
        sigmoid is saturated and has no gradient left.
        """
        self.last.bias.copy_(brightness.flatten().clamp(0.01, 0.99).logit())  # type: ignore[union-attr]

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """(M, C, H, W) of images and noise."""
        seen = [x]
        for layer in self.down:
            seen.append(layer(seen[-1]))
        y = torch.cat([self.noise(z), seen.pop()], 1)
        for layer in self.up:
            y = torch.cat([layer(y), seen.pop()], 1)
        out: Tensor = self.last(y)
        return out
