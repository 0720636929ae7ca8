"""Features from a conditional Wasserstein GAN.

Xian, Lorenz, Schiele, Akata 2018 (f-CLSWGAN), https://arxiv.org/abs/1712.00981
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphfsl.core.base_classes import check_base, check_count, check_others
from graphfsl.core.generator import Generator
from graphfsl.functional.gradient_penalty import gradient_penalty
from graphfsl.functional.other_samples import mean_of_others
from graphfsl.functional.within_class import class_means
from graphfsl.io.errors import require

__all__ = ["FCLSWGAN"]

BATCH = 256
CRITIC_STEPS = 5
PENALTY = 10.0


class FCLSWGAN(Generator):
    """Add support nodes from a generator that a critic and a classifier of base classes taught.

    With c the mean of a few other samples of x's class, x~ = c + g(z, c) and x^ between x and x~,

        L_WGAN = E D(x, c) - E D(x~, c) - 10 E (||grad_x^ D(x^, c)||_2 - 1)^2      (equation 2)
        min_g max_D L_WGAN - classify E log p(y | x~)                               (equation 4)

    where p is a linear classifier of base classes, trained before and frozen. An episode's support
    gets `samples` nodes p_c + g(z, p_c) of every class, z ~ N(0, I) and p_c its class mean.

    Args:
        dim: d.
        samples: nodes that every class gets, 0 adds nothing.
        weight: label weight of a generated node beside 1 of a real one.
        latent, hidden: sizes of z and of the one hidden layer of g and of D.
        steps: of the generator; each follows five of the critic.
        rate: of both Adam optimizers.
        classify: weight of the classifier's loss.
        others: of how many other samples c is the mean, drawn anew from 1 to it for each batch.
        averaged: the mean of 64 draws in place of the draws, see `Generator`.

    Shapes:
        forward: features (B, n, d), weights (B, n, C) -> an episode with `samples` C more support
            nodes.

    Source:
        equations 2 to 4.

    Deviations:
        the condition is a class mean, the paper's an attribute vector; g adds to it and has no
        ReLU at the end, as features may be below 0; 512 hidden units for 4,096.
    """

    needs_fit = True
    wants_base = True

    def __init__(
        self,
        dim: int,
        samples: int = 5,
        weight: float = 0.2,
        latent: int = 64,
        hidden: int = 512,
        steps: int = 1000,
        rate: float = 1e-4,
        classify: float = 0.01,
        others: int = 5,
        averaged: bool = False,
    ) -> None:
        require(
            min(steps, others, latent, hidden) >= 1 and classify >= 0 and rate > 0,
            "f_clswgan: steps, others, latent and hidden must be 1 or more, classify 0 or more, "
            "rate above 0",
        )
        super().__init__((latent,), samples, weight, averaged)
        self.dim, self.latent, self.hidden = dim, latent, hidden
        self.steps, self.rate, self.classify, self.others = steps, rate, classify, others
        self.generate = _layers(latent + dim, hidden, dim)
        self.requires_grad_(False)  # nothing is left for a training to do

    def draw(self, condition: Tensor, noise: Tensor) -> Tensor:
        """p_c + g(z, p_c) (B, C, m, d) of class means (B, C, d) and z (B, C, m, latent)."""
        return self.from_noise(condition.unsqueeze(2).expand(*noise.shape[:3], -1), noise)

    def from_noise(self, c: Tensor, z: Tensor) -> Tensor:
        """x~ (…, d) of conditions (…, d) and noise (…, latent)."""
        generated: Tensor = c + self.generate(torch.cat([z, c], -1))
        return generated

    def check_base_labels(self, labels: Tensor) -> None:
        """Refuse labels (N,) of one class, and of a class without `others` beside a sample."""
        check_count(labels, 2, "f_clswgan")
        check_others(labels, self.others, "f_clswgan")

    def fit_base(self, features: Tensor, labels: Tensor) -> None:
        """Train generator and critic on base-class features (N, d) and labels (N,)."""
        check_base(features, labels, self.dim, 1, "f_clswgan")
        self.check_base_labels(labels)
        means, row = class_means(features, labels)
        with torch.enable_grad():
            classifier = _classifier(features, row, len(means))
            self._compete(features, row, classifier)
        self.set_ready()

    def _compete(self, features: Tensor, row: Tensor, classifier: nn.Module) -> None:
        critic = _layers(2 * self.dim, self.hidden, 1).to(features)
        self.requires_grad_(True)
        of_critic = torch.optim.Adam(critic.parameters(), self.rate, (0.5, 0.999))
        of_generator = torch.optim.Adam(self.generate.parameters(), self.rate, (0.5, 0.999))

        def batch() -> tuple[Tensor, Tensor, Tensor, Tensor]:
            chosen = torch.randint(len(features), (BATCH,), device=features.device)
            count = int(torch.randint(1, self.others + 1, ()))
            c = mean_of_others(features, row, chosen, count)
            return features[chosen], c, row[chosen], torch.randn(BATCH, self.latent).to(features)

        def judged(c: Tensor, x: Tensor) -> Tensor:
            value: Tensor = critic(torch.cat([x, c], -1))
            return value

        for _ in range(self.steps):
            for _ in range(CRITIC_STEPS):
                x, c, _, z = batch()
                fake = self.from_noise(c, z).detach()
                steep = gradient_penalty(partial(judged, c), x, fake)
                loss = PENALTY * steep - wasserstein(critic, x, fake, c)
                of_critic.zero_grad()
                loss.backward()
                of_critic.step()
            x, c, y, z = batch()
            fake = self.from_noise(c, z)
            loss = -judged(c, fake).mean()
            loss = loss + self.classify * F.cross_entropy(classifier(fake), y)
            of_generator.zero_grad()
            loss.backward()
            of_generator.step()
        self.requires_grad_(False)


def wasserstein(critic: nn.Module, x: Tensor, fake: Tensor, c: Tensor) -> Tensor:
    """E D(x, c) - E D(x~, c) of samples (n, d) and conditions (n, d): a scalar."""
    real, generated = critic(torch.cat([x, c], -1)), critic(torch.cat([fake, c], -1))
    difference: Tensor = real.mean() - generated.mean()
    return difference


def _layers(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, hidden), nn.LeakyReLU(0.2), nn.Linear(hidden, outputs))


def _classifier(features: Tensor, row: Tensor, classes: int) -> nn.Module:
    """A linear softmax classifier of base classes, frozen."""
    linear = nn.Linear(features.shape[1], classes).to(features)
    optimizer = torch.optim.Adam(linear.parameters(), 1e-2)
    for _ in range(500):
        chosen = torch.randint(len(features), (BATCH,), device=features.device)
        loss = F.cross_entropy(linear(features[chosen]), row[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return linear.requires_grad_(False)
