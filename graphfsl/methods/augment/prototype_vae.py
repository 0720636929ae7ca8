"""A conditional VAE that dreams up support features around a class mean.

Sohn, Lee, Yan 2015, https://papers.nips.cc/paper/5775; in feature space for few labels: Xian et al.
2019 (f-VAEGAN-D2), https://arxiv.org/abs/1903.10132; `delta`: Schwartz et al. 2018 (Delta-encoder),
https://arxiv.org/abs/1806.04734
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graphfsl.core.base_classes import check_base, check_others
from graphfsl.core.episode import Episode
from graphfsl.core.generator import Generator
from graphfsl.functional.other_samples import mean_of_others
from graphfsl.io.errors import require

__all__ = ["PrototypeVAE"]

BATCH = 256
CODES = 1024  # base differences that a Delta-encoder keeps


class PrototypeVAE(Generator):
    """Add generated support nodes around each class mean, from a conditional autoencoder.

    With c the mean of a few other samples of x's class, and s^2 a tenth of the mean square of x - c
    and a thousandth of that of x, each over the batch,

        q(z | x, c) = N(mu, sigma^2),  x^ = c + g(z, c)
        L = ||x - x^||^2 / (2 s^2) + KL(q(z | x, c) || N(0, I))

    An episode's support gets `samples` nodes p_c + g(z, p_c) of every class, z ~ N(0, I) and p_c
    its class mean. As in an episode, c is not the mean of the whole class: a decoder that has seen
    only such means does not know what to do with one sample.

    Args:
        dim: d.
        samples: nodes that every class gets, 0 adds nothing.
        latent, hidden: sizes of z and of the hidden layers.
        weight: label weight of a generated node beside 1 of a real one.
        base_steps: 0 trains it with the learner (`aux_loss`, on supports of two shots or more);
            otherwise `fit_base` trains it for so many steps on base features, and until then it
            adds nothing.
        others: of how many other samples c is the mean, drawn anew from 1 to it for each step
            of `fit_base`.
        delta: a Delta-encoder: z = mu without noise or KL, and an episode's z are those of pairs
            (x, c) of base classes. Needs base_steps.
        averaged: the mean of 64 draws in place of the draws, see `Generator`.

    Shapes:
        forward: features (B, n, d), weights (B, n, C) -> an episode with `samples` C more support
            nodes. In evaluation the noise is fixed, so that answers repeat.

    Source:
        equation 4 of Sohn et al.; section 3.2 of Xian et al., without the GAN and with a class mean
        as condition; Schwartz et al. for `delta`.

    Deviations:
        the decoder adds to c; there is no adversarial loss; `delta` has this loss and these sizes,
        the authors a weighted L1 and hidden layers of 8,192.
    """

    def __init__(
        self,
        dim: int,
        samples: int = 5,
        latent: int = 16,
        hidden: int = 128,
        weight: float = 0.2,
        base_steps: int = 0,
        others: int = 5,
        delta: bool = False,
        averaged: bool = False,
    ) -> None:
        require(
            base_steps >= 0 and others >= 1,
            "prototype_vae: base_steps must be 0 or more and others 1 or more",
        )
        require(
            not delta or base_steps > 0,
            "prototype_vae.delta takes its codes from base classes; set base_steps, such as 2000",
        )
        if delta:
            _check_codes(samples)
        self.needs_fit = base_steps > 0
        super().__init__((latent,), samples, weight, averaged)
        self.dim, self.latent, self.others = dim, latent, others
        self.base_steps, self.delta = base_steps, delta
        self.infer = nn.Sequential(
            nn.Linear(2 * dim, hidden), nn.LeakyReLU(0.2), nn.Linear(hidden, 2 * latent)
        )
        self.generate = nn.Sequential(
            nn.Linear(latent + dim, hidden), nn.LeakyReLU(0.2), nn.Linear(hidden, dim)
        )
        self.wants_base = base_steps > 0
        self.codes: Tensor | None
        self.register_buffer("codes", torch.zeros(CODES, latent) if delta else None)
        self.requires_grad_(not base_steps)  # then nothing is left for a training to do

    def elbo(self, x: Tensor, c: Tensor, real: Tensor) -> Tensor:
        """The negative evidence lower bound of features x, given their conditions c: a scalar.

        Args:
            x: (…, d) features.
            c: (…, d) the condition of each.
            real: (…) 1 where a node counts, else 0; the mean is over those that do.
        """
        total = real.sum().clamp_min(1)

        def mean(value: Tensor) -> Tensor:
            return (value * real).sum() / total

        # Noise as wide as the spread itself would leave nothing for z to explain; where all samples
        # are alike there is no spread.
        spread = mean((x - c).square().mean(-1))
        variance = (0.1 * spread + 1e-3 * mean(x.square().mean(-1))).clamp_min(1e-12)

        mu, log_var = self.infer(torch.cat([x, c], -1)).chunk(2, -1)
        log_var = log_var.clamp(-20, 20)  # an inner loop that runs away would make it overflow
        z = mu if self.delta else mu + torch.randn_like(mu) * (0.5 * log_var).exp()
        generated = c + self.generate(torch.cat([z, c], -1))
        error = (x - generated).square().sum(-1) / (2 * variance)
        if self.delta:
            return mean(error)
        kl = 0.5 * (mu.square() + log_var.exp() - 1 - log_var).sum(-1)
        return mean(error + kl)

    def aux_loss(self, episode: Episode) -> Tensor | float:
        """The loss of the support, each node given the others of its class.

        It is 0 where base features teach instead, and where no class has two shots.
        """
        if self.base_steps:
            return 0.0
        # The features are constants here: a generator must not win by making them easy.
        x, w = episode.x[:, episode.support].detach(), episode.w[:, episode.support]
        w = w * episode.mask[:, episode.support].unsqueeze(-1)
        # a node that is partly of a class counts for it in that part
        others = (w @ w.mT) * (1 - torch.eye(w.shape[1], device=w.device, dtype=w.dtype))
        weight = others.sum(-1, keepdim=True)
        c = others @ x / weight.clamp_min(1e-6)
        return self.elbo(x, c, w.sum(-1) * (weight.squeeze(-1) > 0))

    def check_base_labels(self, labels: Tensor) -> None:
        """Refuse labels (N,) of a class without `others` beside a sample."""
        if self.base_steps:
            check_others(labels, self.others, "prototype_vae")

    def fit_base(self, features: Tensor, labels: Tensor) -> None:
        """Train on base-class features (N, d) and labels (N,), for `base_steps` steps."""
        if not self.base_steps:
            return
        check_base(features, labels, self.dim, 1, "prototype_vae")
        self.check_base_labels(labels)

        def batch(size: int) -> tuple[Tensor, Tensor]:
            chosen = torch.randint(len(features), (size,), device=features.device)
            count = int(torch.randint(1, self.others + 1, ()))
            return features[chosen], mean_of_others(features, labels, chosen, count)

        with torch.enable_grad():
            self.requires_grad_(True)
            optimizer = torch.optim.Adam(self.parameters(), 1e-3)
            for _ in range(self.base_steps):
                x, c = batch(BATCH)
                loss = self.elbo(x, c, x.new_ones(BATCH))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        self.requires_grad_(False)
        if self.codes is not None:
            with torch.no_grad():
                pairs = torch.cat(batch(CODES), -1)
                self.codes.copy_(self.infer(pairs).chunk(2, -1)[0])
        self.set_ready()

    def set_samples(self, samples: int) -> None:
        """Another number of nodes, at most as many as there are codes."""
        if self.delta:
            _check_codes(samples)
        super().set_samples(samples)

    def fixed(self) -> Tensor:
        """The codes (m, latent) of all answers in evaluation: noise, or with `delta` base codes."""
        return self.noise if self.codes is None else self.codes[: len(self.noise)]

    def fresh(self, noise: Tensor) -> Tensor:
        """New codes of the shape (B, C, m, latent) of `noise`, for training."""
        if self.codes is None:
            return super().fresh(noise)
        which = torch.randint(len(self.codes), noise.shape[:-1], device=noise.device)
        return self.codes.to(noise.dtype)[which]

    def draw(self, condition: Tensor, noise: Tensor) -> Tensor:
        """p_c + g(z, p_c) (B, C, m, d) of class means (B, C, d) and z (B, C, m, latent)."""
        p = condition.unsqueeze(2).expand(*noise.shape[:3], -1)
        drawn: Tensor = p + self.generate(torch.cat([noise, p], -1))
        return drawn


def _check_codes(samples: int) -> None:
    require(
        samples <= CODES,
        f"prototype_vae.delta keeps {CODES} codes: samples must be {CODES} or fewer",
    )
