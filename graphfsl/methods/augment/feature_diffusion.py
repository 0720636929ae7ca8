"""A small diffusion model of features, given the mean of a few samples of their class.

Ho, Jain, Abbeel 2020 (DDPM), https://arxiv.org/abs/2006.11239; sampling without noise: Song, Meng,
Ermon 2021 (DDIM), https://arxiv.org/abs/2010.02502; what the network predicts: Salimans, Ho 2022,
https://arxiv.org/abs/2202.00512; guidance: Ho, Salimans 2022, https://arxiv.org/abs/2207.12598
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn

from graphfsl.core.base_classes import check_base, check_others
from graphfsl.core.generator import Generator
from graphfsl.functional.other_samples import mean_of_others
from graphfsl.io.errors import require

__all__ = ["FeatureDiffusion"]

BATCH = 256
DROPPED = 0.1  # share of conditions that training hides


class FeatureDiffusion(Generator):
    """Add support nodes whose difference from the class mean a denoiser drew out of noise.

    With c the mean of a few other samples of x's class, s the root mean square of x - c, r_0 =
    (x - c) / s, and a_t = cos^2(pi t / 2) the share of its variance that is left at level t,

        r_t = sqrt(a_t) r_0 + sqrt(1 - a_t) e,   e ~ N(0, I),   0 <= t <= 1
        v = sqrt(a_t) e - sqrt(1 - a_t) r_0,   L = E ||v - v_net(r_t, t, c)||^2
        r_0 = sqrt(a_t) r_t - sqrt(1 - a_t) v_net,   e = sqrt(1 - a_t) r_t + sqrt(a_t) v_net
        r_t' = sqrt(a_t') r_0 + sqrt(1 - a_t') e,   t' < t

    An episode's support gets `samples` nodes p_c + s r_0 of every class, from r_1 ~ N(0, I).

    Args:
        dim: d.
        samples: nodes that every class gets, 0 adds nothing.
        weight: label weight of a generated node beside 1 of a real one.
        hidden: width of the denoiser's two hidden layers.
        steps: of its training.
        levels: t' that sampling goes through.
        guidance: v_net moves by so much away from what it is without c; 0 = none.
        others: of how many other samples c is the mean, drawn anew from 1 to it for each batch.
        averaged: the mean of 64 draws in place of the draws, see `Generator`.

    Shapes:
        forward: features (B, n, d), weights (B, n, C) -> an episode with `samples` C more support
            nodes.

    Source:
        the equations above, on features.

    Deviations:
        the denoiser is a perceptron; the difference from c is diffused, not the feature; the
        network predicts v, as r_0 computed from a predicted e is wrong without bound near t = 1.
    """

    needs_fit = True
    wants_base = True

    def __init__(
        self,
        dim: int,
        samples: int = 5,
        weight: float = 0.2,
        hidden: int = 512,
        steps: int = 3000,
        levels: int = 20,
        guidance: float = 0.0,
        others: int = 5,
        averaged: bool = False,
    ) -> None:
        require(
            min(hidden, steps, levels, others) >= 1 and guidance >= 0,
            "feature_diffusion: hidden, steps, levels and others must be 1 or more, guidance 0 or "
            "more",
        )
        super().__init__((dim,), samples, weight, averaged)
        self.dim, self.steps, self.levels = dim, steps, levels
        self.guidance, self.others = guidance, others
        self.denoise = nn.Sequential(
            nn.Linear(2 * dim + 65, hidden),
            nn.SiLU(),
            nn.Linear(hidden, hidden),
            nn.SiLU(),
            nn.Linear(hidden, dim),
        )
        self.scale: Tensor
        self.register_buffer("scale", torch.ones(()))
        self.requires_grad_(False)  # nothing is left for a training to do

    def predicted(self, r: Tensor, t: Tensor, c: Tensor, shown: Tensor) -> Tensor:
        """v_net (…, d) of r (…, d) at levels t (…, 1), given c (…, d) where shown is 1.

        Args:
            r: the noisy differences.
            t: between 0 and 1.
            c: the conditions.
            shown: (…, 1) 1 or 0.
        """
        wave = t * (2 * math.pi * torch.logspace(-1, 2, 32, base=10.0).to(r))
        inputs = torch.cat([r, c * shown, shown, wave.sin(), wave.cos()], -1)
        v: Tensor = self.denoise(inputs)
        return v

    def check_base_labels(self, labels: Tensor) -> None:
        """Refuse labels (N,) of a class without `others` beside a sample."""
        check_others(labels, self.others, "feature_diffusion")

    def fit_base(self, features: Tensor, labels: Tensor) -> None:
        """Train the denoiser on base-class features (N, d) and labels (N,)."""
        check_base(features, labels, self.dim, 1, "feature_diffusion")
        self.check_base_labels(labels)

        def batch() -> tuple[Tensor, Tensor]:
            chosen = torch.randint(len(features), (BATCH,), device=features.device)
            count = int(torch.randint(1, self.others + 1, ()))
            return features[chosen], mean_of_others(features, labels, chosen, count)

        x, c = batch()
        self.scale.copy_((x - c).square().mean().sqrt().clamp_min(1e-6))
        self.requires_grad_(True)
        with torch.enable_grad():
            optimizer = torch.optim.Adam(self.denoise.parameters(), 1e-3)
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.steps)
            for _ in range(self.steps):
                x, c = batch()
                t = torch.rand(BATCH, 1).to(x)
                shown = (torch.rand(BATCH, 1) >= DROPPED).to(x)
                r_0, e = (x - c) / self.scale, torch.randn_like(x)
                signal, noise = amplitudes(t)
                v = signal * e - noise * r_0
                guess = self.predicted(signal * r_0 + noise * e, t, c, shown)
                loss = (v - guess).square().mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
        self.requires_grad_(False)
        self.set_ready()

    def draw(self, condition: Tensor, noise: Tensor) -> Tensor:
        """p_c + s r_0 (B, C, m, d) of class means (B, C, d) and r_1 (B, C, m, d)."""
        c = condition.unsqueeze(2).expand_as(noise)
        with_c, without_c = torch.ones_like(c[..., :1]), torch.zeros_like(c[..., :1])
        times = torch.linspace(1, 0, self.levels + 1, device=c.device, dtype=c.dtype)
        r = noise
        for now, then in itertools.pairwise(times):
            t = now.expand_as(with_c)
            v = self.predicted(r, t, c, with_c)
            if self.guidance:
                v = v + self.guidance * (v - self.predicted(r, t, c, without_c))
            signal, share = amplitudes(now)
            r_0, e = signal * r - share * v, share * r + signal * v
            signal, share = amplitudes(then)
            r = signal * r_0 + share * e
        return c + self.scale.to(c.dtype) * r


def amplitudes(t: Tensor) -> tuple[Tensor, Tensor]:
    """sqrt(a_t) and sqrt(1 - a_t): what is left of the difference at level t, and the noise."""
    return (t * math.pi / 2).cos(), (t * math.pi / 2).sin()
