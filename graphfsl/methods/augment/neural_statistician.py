"""A set-VAE: images of a class that a summary of its few images describes.

Edwards, Storkey 2017 (Towards a Neural Statistician), https://arxiv.org/abs/1606.02185
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphfsl.core.episode import Episode
from graphfsl.core.image_generator import LearnedImageGenerator
from graphfsl.functional.base_episodes import base_episodes, smallest_class
from graphfsl.functional.prototypes import present, prototypes
from graphfsl.io.errors import require
from graphfsl.nn.image_coder import image_decoder, image_encoder

__all__ = ["NeuralStatistician"]

SETS = 16  # a batch
FEATURES = 256


class NeuralStatistician(LearnedImageGenerator):
    """Add images of each class that are drawn given a summary c of its support images.

    With D the support images of a class, e a convolutional encoder, and pixels x between 0 and 1,

        q(c | D) = N(mu, sigma^2) of the mean of e(x) over D           (the statistic network)
        q(z | x, c), p(z | c) normal, p(x | z, c) Bernoulli
        L = sum_x [KL(q(z | x, c) || p(z | c)) - log p(x | z, c)] + KL(q(c | D) || N(0, I))

    An episode's support gets `samples` images p(x | z, c) of every class, with c ~ q(c | D) and
    z ~ p(z | c).

    Args:
        shape: (C, H, W) of an image.
        samples: images that every class gets, 0 adds nothing.
        weight: label weight of a generated image beside 1 of a real one.
        code: length of c.
        latent: length of z.
        width: channels of the first convolution.
        steps: of its training.
        rate: of its Adam optimizer, which falls to 0 along a cosine.
        most: images of a set that training shows, drawn anew from 1 to it for each batch; no more
            than the smallest base class has.
        averaged: the mean of 64 draws in place of the draws, see `Generator`.

    Shapes:
        forward: images (B, n, C, H, W), weights (B, n, W) -> an episode with `samples` W more
            support images.

    Source:
        section 3 of the paper: the statistic network and the lower bound.

    Deviations:
        one layer of z where the paper has up to three; a plain mean pools the set; narrower
        networks; images of any range are scaled to lie between 0 and 1.
    """

    def __init__(
        self,
        shape: Sequence[int],
        samples: int = 5,
        weight: float = 0.2,
        code: int = 64,
        latent: int = 16,
        width: int = 32,
        steps: int = 3000,
        rate: float = 1e-3,
        most: int = 5,
        averaged: bool = False,
    ) -> None:
        require(
            min(code, latent, width, steps, most) >= 1 and rate > 0,
            "neural_statistician: code, latent, width, steps and most must be 1 or more, rate "
            "above 0",
        )
        super().__init__(shape, (code + latent,), samples, weight, averaged)
        self.code, self.latent, self.steps, self.rate, self.most = code, latent, steps, rate, most
        self.encode = image_encoder(self.shape, width, FEATURES)
        self.statistic = _two_layers(FEATURES, 2 * code)
        self.infer = _two_layers(FEATURES + code, 2 * latent)
        self.prior = _two_layers(code, 2 * latent)
        self.decode = image_decoder(code + latent, width, self.shape)
        self.requires_grad_(False)  # nothing is left for a training to do

    def conditions(self, episode: Episode) -> tuple[Tensor, Tensor]:
        """mu and log sigma^2 of c (B, W, 2 code) of each class, and its label weights."""
        x, w = episode.x[:, episode.support], episode.w[:, episode.support]
        e = self.encode(self.scaled(x.flatten(0, 1))).unflatten(0, x.shape[:2])
        there = present(w).to(w.dtype)
        return self.statistic(prototypes(e, w)), torch.diag_embed(there)

    def draw(self, condition: Tensor, noise: Tensor) -> Tensor:
        """Images (B, W, m, *shape) given q(c | D) (B, W, 2 code).

        Args:
            condition: mu and log sigma^2 of c.
            noise: (B, W, m, code + latent) of c and z.
        """
        of_code, of_latent = noise.split([self.code, self.latent], -1)
        c = sample(condition.unsqueeze(2), of_code)
        z = sample(self.prior(c), of_latent)
        pixels: Tensor = self.decode(torch.cat([c, z], -1).flatten(0, 2)).sigmoid()
        images: Tensor = self.unscaled(pixels).unflatten(0, noise.shape[:3])
        return images

    def bound(self, sets: Tensor) -> Tensor:
        """L of sets of images (S, k, *shape) with values between 0 and 1, an image's share."""
        e = self.encode(sets.flatten(0, 1)).unflatten(0, sets.shape[:2])
        q_c = self.statistic(e.mean(1, keepdim=True))
        c = sample(q_c, torch.randn_like(q_c[..., : self.code])).expand(-1, sets.shape[1], -1)

        q_z, p_z = self.infer(torch.cat([e, c], -1)), self.prior(c)
        z = sample(q_z, torch.randn_like(q_z[..., : self.latent]))
        logits = self.decode(torch.cat([c, z], -1).flatten(0, 1))

        pixels, images = sets.flatten(0, 1), sets.shape[:2].numel()
        error = F.binary_cross_entropy_with_logits(logits, pixels, reduction="sum")
        of_images = divergence(q_z, p_z).sum()
        standard = torch.zeros_like(q_c)  # mu and log sigma^2 of N(0, I)
        of_sets = divergence(q_c, standard).sum()
        return (error + of_images + of_sets) / images

    def fit_base(self, images: Tensor, labels: Tensor) -> None:
        """Train on base-class images (N, *shape) and labels (N,)."""
        self.see_range(images, labels)
        most = min(self.most, smallest_class(labels))
        self.requires_grad_(True)
        with torch.enable_grad():
            optimizer = torch.optim.Adam(self.parameters(), self.rate)
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.steps)
            for _ in range(self.steps):
                count = int(torch.randint(1, most + 1, ()))
                rows, _ = base_episodes(labels, 1, count, 0, SETS)
                pixels = self.scaled(images[rows.flatten()])
                loss = self.bound(pixels.unflatten(0, rows.shape))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
        self.requires_grad_(False)
        self.set_ready()


def sample(of: Tensor, noise: Tensor) -> Tensor:
    """mu + sigma e (…, n) of mu and log sigma^2 (…, 2 n) and noise e (…, n)."""
    mu, log_var = of.chunk(2, -1)
    return mu + noise * (0.5 * log_var.clamp(-20, 20)).exp()


def divergence(q: Tensor, p: Tensor) -> Tensor:
    """KL(q || p) (…) of normal distributions, each mu and log sigma^2 (…, 2 n)."""
    (mu, log_var), (mu_p, log_var_p) = (t.chunk(2, -1) for t in (q, p))
    log_var, log_var_p = log_var.clamp(-20, 20), log_var_p.clamp(-20, 20)
    squared = (mu - mu_p).square() + log_var.exp()
    return 0.5 * (log_var_p - log_var + squared / log_var_p.exp() - 1).sum(-1)


def _two_layers(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, FEATURES), nn.SiLU(), nn.Linear(FEATURES, outputs))
