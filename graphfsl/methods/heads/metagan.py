"""MetaGAN: a class for fakes lets a classifier learn from unlabeled samples.

Zhang, Che, Ghahramani, Bengio, Song 2018,
https://papers.nips.cc/paper/2018/hash/4e4e53aa080247bc31d0eb4e7aeb07a0-Abstract.html
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphfsl.core.episode import Episode, Target
from graphfsl.core.learner import Head
from graphfsl.functional.distances import squared_euclidean
from graphfsl.functional.prototypes import hide_absent, present, prototypes
from graphfsl.functional.statistics import or_one
from graphfsl.io.errors import require

__all__ = ["MetaGAN"]


class MetaGAN(Head):
    """Answer with the nearest class mean, trained to tell real samples from generated ones too.

    With c_k the class means, s their mean, l_k(x) = g (b - ||x - c_k||^2), and l_(N+1) = 0 the
    score of the class of fakes x~ = s + G(s, z), z ~ N(0, I),

        L_D = E -log p(y | x) + E_pool -log p(y <= N | x_u) + E -log p(N + 1 | x~)
        L_G = E -log p(y <= N | x~)

    (a query counts as real too: -log p(y | x) = -log p(y | x, y <= N) - log p(y <= N | x)) are
    minimised together, L_D over encoder, g and b, and L_G over G alone. A fake that lies
    between classes moves the border between them there. After the training G has no part.

    Args:
        dim: d.
        fakes: generated samples of an episode; 0 leaves the two terms of fakes and pool out.
        latent, hidden: sizes of z and of G's hidden layer.
        weight: of the terms of fakes and pool beside the queries'.

    Shapes:
        score: features (B, n, d), label weights (B, n, C) -> (B, n, C).

    Source:
        section 3 of the paper: the class N + 1, and the loss of labeled, unlabeled and generated
        samples.

    Deviations:
        fakes are features, the paper's are images; one step trains both sides; the classifier is a
        ProtoNet, the paper's a relation network or MAML; the terms of fakes and pool weigh 0.1, not
        1, which took four points from the nearest class means of Omniglot.
    """

    def __init__(
        self,
        dim: int,
        fakes: int = 20,
        latent: int = 32,
        hidden: int = 128,
        weight: float = 0.1,
    ) -> None:
        super().__init__()
        require(
            fakes >= 0 and min(latent, hidden) >= 1 and weight >= 0,
            "metagan: fakes and weight must be 0 or more, latent and hidden 1 or more",
        )
        self.fakes, self.latent, self.weight = fakes, latent, weight
        self.generate = nn.Sequential(
            nn.Linear(dim + latent, hidden), nn.LeakyReLU(0.2), nn.Linear(hidden, dim)
        )
        self.log_scale = nn.Parameter(torch.zeros(()))  # of g, which stays positive
        self.dim = dim
        self.border = nn.Parameter(torch.ones(()))  # b / d: an optimizer's steps suit its size

    def means(self, episode: Episode) -> Tensor:
        """c_k (B, C, d)."""
        return prototypes(episode.x[:, episode.labeled], episode.w[:, episode.labeled])

    def logits(self, x: Tensor, c: Tensor) -> Tensor:
        """l_k (B, m, C) of nodes (B, m, d) and class means (B, C, d)."""
        return inside(x, c, *self._scale_and_border())

    def score(self, episode: Episode) -> Tensor:
        """Scores (B, n, C); which of the N classes is likeliest does not depend on fakes."""
        return hide_absent(self.logits(episode.x, self.means(episode)), episode.w)

    def criterion(self, scores: Tensor, target: Target, episode: Episode) -> Tensor:
        """L_D + L_G: a scalar."""
        of_fake = scores.new_zeros(*scores.shape[:-1], 1)
        queries = torch.cat([scores, of_fake], -1)[:, episode.query]
        loss = F.cross_entropy(queries.flatten(0, 1), target.of_class.flatten(), ignore_index=-100)
        if not self.fakes:
            return loss
        c, w = self.means(episode), episode.w
        z = self._noise(len(c), c)
        drawn = self.drawn(c.detach(), w, z)

        detected = hide_absent(self.logits(drawn.detach(), c), w)
        of_pool = not_fake(scores[:, episode.unlabeled])
        real = episode.mask[:, episode.unlabeled].to(of_pool)
        unlabeled = (of_pool * real).sum() / or_one(real.sum())
        g, b = self._scale_and_border()
        passing = hide_absent(inside(drawn, c.detach(), g.detach(), b.detach()), w)
        return loss + self.weight * (
            unlabeled + is_fake(detected).mean() + not_fake(passing).mean()
        )

    def drawn(self, c: Tensor, w: Tensor, z: Tensor) -> Tensor:
        """Fakes (B, m, d) of class means (B, C, d), label weights (B, n, C), z (B, m, latent)."""
        there = present(w).to(c).unsqueeze(-1)
        s = (c * there).sum(1, keepdim=True) / or_one(there.sum(1, keepdim=True))
        s = s.expand(-1, z.shape[1], -1)
        fakes: Tensor = s + self.generate(torch.cat([s, z], -1))
        return fakes

    def _scale_and_border(self) -> tuple[Tensor, Tensor]:
        """g and b."""
        return self.log_scale.exp(), self.dim * self.border

    def _noise(self, tasks: int, like: Tensor) -> Tensor:
        shape = tasks, self.fakes, self.latent
        return torch.randn(shape, dtype=like.dtype, device=like.device)


def inside(x: Tensor, c: Tensor, g: Tensor, b: Tensor) -> Tensor:
    """g (b - ||x - c_k||^2) (B, m, C): how far nodes lie within the border of each class."""
    return g * (b - squared_euclidean(x, c))


def not_fake(logits: Tensor) -> Tensor:
    """-log p(y <= N | x) (…) of l_1 … l_N (…, N), the score of fakes being 0."""
    return F.softplus(-logits.logsumexp(-1))


def is_fake(logits: Tensor) -> Tensor:
    """-log p(N + 1 | x) (…) of l_1 … l_N (…, N), the score of fakes being 0."""
    return F.softplus(logits.logsumexp(-1))
