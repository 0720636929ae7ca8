"""Denoising of classification weights by a graph network (wDAE-GNN).

Gidaris, Komodakis 2019, https://arxiv.org/abs/1905.01102
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphfsl.core.batchnorm import BatchNorm
from graphfsl.core.episode import Episode, Target
from graphfsl.core.learner import Head
from graphfsl.functional.affinity import pairs
from graphfsl.functional.distances import cosine
from graphfsl.functional.prototypes import hide_absent, present, prototypes
from graphfsl.io.errors import require

__all__ = ["WDAE"]


class WDAE(Head):
    """Denoise the class means of an episode by a graph network over its classes.

    The nodes of the graph are classes; w_c is the class mean of normalised features. Over the k
    nearest j != c,

        a_cj = softmax_j(temperature * cos(w_c, w_j))
        m_c = sum_j a_cj LeakyReLU(BN(M (w_c + w_j)))
        h_c = [w_c; LeakyReLU(BN(U [w_c; m_c])), normalised] / sqrt(2)

    A second layer of both on h gives r_c and o_c, and

        w*_c = w_c + sigmoid(o_c) r_c / ||r_c||
        p(y = c | x) = softmax_c(scale cos(x, w*_c))

    While it trains, w_c gets Gaussian noise before, and

        L = CE + reconstruction * mean_c ||w*_c - w^_c||^2

    both normalised, w^_c the class mean of support and queries.

    Args:
        dim: d, the length of the features; M and U have 3 d outputs.
        k: neighbours of a class.
        temperature: of the neighbours' weights.
        noise: its standard deviation.
        dropout: after each BN.
        reconstruction: weight of the second loss.
        scale: of the cosine to begin with; it is learned (its logarithm is the parameter).

    Shapes:
        score: features (B, n, d), label weights (B, n, C) -> (B, n, C). It treats all classes
            alike, of any number.

    Source:
        section 3 and the authors' code, whose ImageNet settings are the defaults.

    Deviations:
        the graph holds the episode's classes alone, the paper's also the base classes, and queries
        of base classes; there w^_c is the base classifier's weight, which no episode shows. The
        reconstruction draws its own noise.
    """

    family = "graph"

    def __init__(
        self,
        dim: int,
        k: int = 10,
        temperature: float = 5.0,
        noise: float = 0.08,
        dropout: float = 0.7,
        reconstruction: float = 1.0,
        scale: float = 10.0,
    ) -> None:
        super().__init__()
        require(
            k >= 1
            and min(temperature, scale) > 0
            and min(noise, reconstruction) >= 0
            and 0 <= dropout < 1,
            "wdae: k must be 1 or more, temperature and scale above 0, noise and "
            "reconstruction 0 or more, "
            "dropout in [0, 1)",
        )
        self.k, self.temperature = k, temperature
        self.noise, self.reconstruction = noise, reconstruction
        self.log_scale = nn.Parameter(torch.tensor(float(scale)).log())
        self.messages = nn.ModuleList(Messages(d, 3 * dim, dropout) for d in (dim, 4 * dim))
        self.update = nn.Linear(4 * dim, 3 * dim, False)
        self.norm = BatchNorm(3 * dim)
        self.dropout = nn.Dropout(dropout)
        self.last = nn.Linear(7 * dim, 2 * dim)

    def neighbors(self, w: Tensor, there: Tensor) -> Tensor:
        """How much attention each class weight pays to the k that are nearest to it.

        Args:
            w: (B, C, d) normalised weights.
            there: (B, C) which classes there are.

        Returns:
            a (B, C, C), zero beyond the k nearest.
        """
        others = pairs(there)
        s = self.temperature * w @ w.mT
        s = s.masked_fill(~others, torch.finfo(s.dtype).min)
        least = s.topk(min(self.k, s.shape[-1]), -1).values[..., -1:]
        return s.masked_fill(s < least, torch.finfo(s.dtype).min).softmax(-1) * others

    def denoise(self, w: Tensor, there: Tensor) -> Tensor:
        """Denoise normalised class weights w (B, C, d); the mask (B, C) says which there are."""
        a = self.neighbors(w.detach(), there)
        noisy = self.with_noise(w)
        h = self.hidden(noisy, a, there)
        messages = self.messages[1](h, a)
        r, o = self.last(torch.cat([h, messages], -1)).chunk(2, -1)
        mended: Tensor = noisy + o.sigmoid() * F.normalize(r, dim=-1)
        return mended

    def with_noise(self, w: Tensor) -> Tensor:
        """Weights (B, C, d) with Gaussian noise while it trains, of length one again."""
        if not self.training or not self.noise:
            return w
        return F.normalize(w + self.noise * torch.randn_like(w), dim=-1)

    def hidden(self, w: Tensor, a: Tensor, there: Tensor) -> Tensor:
        """h (B, C, 4 d): each weight (B, C, d) beside what its neighbours (B, C, C) make of it."""
        messages = self.messages[0](w, a)
        update = self.update(torch.cat([w, messages], -1))
        normed = self.norm(update.flatten(0, 1), there.flatten()).view_as(update)
        u = F.leaky_relu(self.dropout(normed))
        return torch.cat([w, F.normalize(u, dim=-1)], -1) / 2**0.5

    def classifier(self, episode: Episode) -> Tensor:
        """The denoised class weights w* (B, C, d) of an episode."""
        x = F.normalize(episode.x[:, episode.labeled], dim=-1)
        labels = episode.w[:, episode.labeled]
        w = F.normalize(prototypes(x, labels), dim=-1)
        return self.denoise(w, present(labels))

    def score(self, episode: Episode) -> Tensor:
        """Scaled cosines (B, n, C) to the denoised class weights."""
        similarity = cosine(episode.x, self.classifier(episode))
        return hide_absent(self.log_scale.exp() * similarity, episode.w)

    def criterion(self, scores: Tensor, target: Target, episode: Episode) -> Tensor:
        """Cross-entropy, and `reconstruction` times the error of the class weights: a scalar."""
        loss = super().criterion(scores, target, episode)
        if not self.reconstruction:
            return loss
        known = target.known(episode)
        there = present(episode.w)
        x = F.normalize(episode.x[:, : known.shape[1]].detach(), dim=-1)
        goal = prototypes(x, known)
        # half the squared distance
        error = 1 - F.cosine_similarity(self.classifier(episode), goal, dim=-1)
        return loss + 2 * self.reconstruction * (error * there).sum() / there.sum()


class Messages(nn.Module):
    """What the classes of a graph tell each other: sum_j a_ij LeakyReLU(BN(M (x_i + x_j))).

    Args:
        dim: the length of the nodes.
        out: the length of a message.
        dropout: after BatchNorm.

    Shapes:
        forward: nodes (B, n, d), weights a (B, n, n) -> (B, n, out).
    """

    def __init__(self, dim: int, out: int, dropout: float) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, out, False)
        self.norm = BatchNorm(out)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, a: Tensor) -> Tensor:
        """What reaches each class."""
        y = self.linear(x)
        of_pairs = y.unsqueeze(2) + y.unsqueeze(1)
        normed = self.norm(of_pairs.flatten(0, 2), (a > 0).flatten())
        messages = F.leaky_relu(self.dropout(normed)).view_as(of_pairs)
        return (a.unsqueeze(-1) * messages).sum(2)
