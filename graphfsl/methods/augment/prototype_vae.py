"""A conditional VAE that dreams up support features around a prototype.

Sohn, Lee, Yan 2015, https://papers.nips.cc/paper/5775; in feature space for few labels: Xian et al.
2019 (f-VAEGAN-D2), https://arxiv.org/abs/1903.10132
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graphfsl.core.episode import Episode
from graphfsl.core.learner import Augment
from graphfsl.functional.prototypes import present, prototypes
from graphfsl.io.errors import require

__all__ = ["PrototypeVAE"]


class PrototypeVAE(Augment):
    """Add generated support nodes around each class mean, from a conditional autoencoder.

    With p the prototype of x's class and s^2 a tenth of the variance within classes,

        q(z | x, p) = N(mu, sigma^2),  x^ = p + g(z, p)
        L = ||x - x^||^2 / (2 s^2) + KL(q(z | x, p) || N(0, I))

    An episode's support gets `samples` nodes p_c + g(z, p_c), z ~ N(0, I), of every class.

    Args:
        dim: d.
        samples: nodes that every class gets, 0 adds nothing.
        latent, hidden: sizes of z and of the hidden layers.
        weight: label weight of a generated node beside 1 of a real one.
        base_steps: 0 trains it with the learner (`aux_loss`, on the support); otherwise `fit_base`
            trains it for so many steps on base features and class means, and until then it adds
            nothing. With one shot an episode shows no spread within a class: then prefer
            base_steps.

    Shapes:
        forward: features (B, n, d), weights (B, n, C) -> an episode with samples*C more support
            nodes. In evaluation the noise is fixed, so that answers repeat.

    Source:
        equation 4 of Sohn et al.; section 3.2 of Xian et al., without the GAN and with a prototype
        as condition.

    Deviations:
        the decoder adds to p; there is no adversarial loss.
    """

    family = "generative"

    def __init__(
        self,
        dim: int,
        samples: int = 5,
        latent: int = 16,
        hidden: int = 128,
        weight: float = 0.2,
        base_steps: int = 0,
    ) -> None:
        super().__init__()
        require(
            samples >= 0 and base_steps >= 0,
            f"prototype_vae.samples and base_steps must be 0 or more, not "
            f"{samples} and {base_steps}",
        )
        require(weight >= 0, f"prototype_vae.weight must be 0 or more, not {weight}")
        self.samples, self.latent = samples, latent
        self.weight, self.base_steps = weight, base_steps
        self.infer = nn.Sequential(
            nn.Linear(2 * dim, hidden), nn.LeakyReLU(0.2), nn.Linear(hidden, 2 * latent)
        )
        self.generate = nn.Sequential(
            nn.Linear(latent + dim, hidden), nn.LeakyReLU(0.2), nn.Linear(hidden, dim)
        )
        self.wants_base = base_steps > 0
        self.noise: Tensor
        self.ready: Tensor
        self.register_buffer("noise", torch.randn(samples, latent))
        self.register_buffer("ready", torch.tensor(float(base_steps == 0)))

    def elbo(self, x: Tensor, p: Tensor, real: Tensor) -> Tensor:
        """The negative evidence lower bound of features x, given their prototypes p: a scalar.

        Args:
            x: (…, d) features.
            p: (…, d) the prototype of each.
            real: (…) 1 where a node counts, else 0; the mean is over those that do.
        """
        total = real.sum().clamp_min(1)

        def mean(value: Tensor) -> Tensor:
            return (value * real).sum() / total

        # Noise as wide as the spread itself would leave nothing for z to explain; with one shot
        # there is no spread.
        spread = mean((x - p).square().mean(-1))
        variance = 0.1 * spread + 1e-3 * mean(x.square().mean(-1))

        mu, log_var = self.infer(torch.cat([x, p], -1)).chunk(2, -1)
        log_var = log_var.clamp(-20, 20)  # an inner loop that runs away would make it overflow
        z = mu + torch.randn_like(mu) * (0.5 * log_var).exp()
        generated = p + self.generate(torch.cat([z, p], -1))
        error = (x - generated).square().sum(-1) / (2 * variance)
        kl = 0.5 * (mu.square() + log_var.exp() - 1 - log_var).sum(-1)
        return mean(error + kl)

    def aux_loss(self, episode: Episode) -> Tensor | float:
        """The negative evidence lower bound of the support; 0 where base features teach instead."""
        if self.base_steps:
            return 0.0
        # The features are constants here: a generator must not win by making them easy.
        x, w = episode.x[:, episode.support].detach(), episode.w[:, episode.support]
        p = w @ prototypes(x, w)
        return self.elbo(x, p, w.sum(-1) * episode.mask[:, episode.support])

    def fit_base(self, features: Tensor, labels: Tensor) -> None:
        """Train on base-class features (N, d) and labels (N,), for `base_steps` steps."""
        if not self.base_steps:
            return
        count = torch.bincount(labels).clamp_min(1).to(features.dtype)
        sums = features.new_zeros(len(count), features.shape[1]).index_add_(0, labels, features)
        means = sums / count[:, None]
        with torch.enable_grad():
            optimizer = torch.optim.Adam(
                [*self.infer.parameters(), *self.generate.parameters()], 1e-3
            )
            for _ in range(self.base_steps):
                i = torch.randint(len(features), (256,), device=features.device)
                loss = self.elbo(features[i], means[labels[i]], features.new_ones(256))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        self.ready.fill_(1)

    def forward(self, episode: Episode) -> Episode:
        """The episode with `samples` generated support features for each class that is present.

        They carry `weight` times the weight of a label, and none before the generator has learned.
        """
        if not self.samples:
            return episode
        b, c = len(episode.x), episode.way
        p = prototypes(episode.x, episode.w).unsqueeze(2).expand(b, c, self.samples, -1)
        z = self.noise.to(p.dtype).expand(b, c, -1, -1)
        if self.training:
            z = torch.randn_like(z)
        x = p + self.generate(torch.cat([z, p], -1))

        there = present(episode.w).unsqueeze(-1)  # (B, C, 1)
        one_hot = torch.eye(c, device=x.device, dtype=x.dtype).unsqueeze(1)  # (C, 1, C)
        weight = one_hot * (self.weight * self.ready) * there.unsqueeze(-1)  # (B, C, 1, C)
        w = weight.expand(b, c, self.samples, c)
        mask = (there & (self.ready > 0)).expand(b, c, self.samples)
        return episode.add_support(x.flatten(1, 2), w.flatten(1, 2), mask.flatten(1, 2))
