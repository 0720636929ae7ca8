"""Baseline and Baseline++: a classifier trained on each support.

Chen, Liu, Kira, Wang, Huang 2019, https://arxiv.org/abs/1904.04232
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from graphfsl.core.episode import Episode
from graphfsl.core.learner import Head
from graphfsl.functional.prototypes import hide_absent
from graphfsl.functional.statistics import or_one, total_or_one
from graphfsl.io.errors import require

__all__ = ["Baseline", "BaselinePlusPlus"]

Weights = tuple[Tensor, ...]


class Baseline(Head):
    """Train a linear classifier on each support by gradient descent with momentum.

        p(y | x) = softmax(W f(x) + b)
        v <- 0.9 v + (1 - 0.9) (gradient + decay * theta),  theta <- theta - lr * v

    Args:
        momentum: v <- 0.9 v + (1 - 0.9) (gradient + decay * theta), theta <- theta - lr * v.
        epochs, batch: as many steps as `epochs` passes through the support in batches of `batch`.
        lr: its step size.
        momentum: which is also the dampening.
        decay: the weight decay, of the bias too.

    Shapes:
        score: features (B, n, d), label weights (B, n, C) -> logits (B, n, C).

    Source:
        section 3.2 and the authors' code: SGD, lr 0.01, momentum and dampening 0.9, weight decay
        0.001, batches of 4, 100 epochs.

    Deviations:
        every step takes the gradient of the whole support in place of a random batch of 4, so that
        the answer depends on no order; W and b start at zero, not at random. Gradients keep W in
        the span of the support, W = A^T Z, so that A alone is trained.
    """

    cannot_export = "trains a classifier by many steps, which a graph would hold one by one"
    family = "transfer"
    block_nodes = 20480

    def __init__(
        self,
        epochs: int = 100,
        batch: int = 4,
        lr: float = 0.01,
        momentum: float = 0.9,
        decay: float = 0.001,
    ) -> None:
        super().__init__()
        require(
            epochs >= 0 and batch >= 1 and lr > 0 and 0 <= momentum < 1 and decay >= 0,
            f"epochs and decay must be 0 or more, batch 1 or more, lr above 0 and momentum "
            f"in [0, 1), "
            f"not {epochs}, {decay}, {batch}, {lr}, {momentum}",
        )
        self.epochs, self.batch = epochs, batch
        self.lr, self.momentum, self.decay = lr, momentum, decay

    def score(self, episode: Episode) -> Tensor:
        """Logits (B, n, C) of the linear classifier that was trained on the support."""
        z = F.pad(episode.x, (0, 1), value=1.0)  # the bias, which has weight decay as well
        support, w = _support(z, episode)
        k, error = support @ support.mT, _error(w)

        def gradient(theta: Weights) -> Weights:
            return (error(theta[0] @ k),)

        (a,) = self.descend(gradient, (torch.zeros_like(w.mT),), w)
        return hide_absent(z @ (a @ support).mT, episode.w)

    def descend(self, gradient: Callable[[Weights], Weights], theta: Weights, w: Tensor) -> Weights:
        """Train theta on an episode's support, whose label weights are w (B, n, C)."""
        nodes = (w.sum(-1) > 0).sum(-1)
        steps = self.epochs * ((nodes + self.batch - 1) // self.batch)
        most = torch.arange(self.epochs * -(-w.shape[1] // self.batch), device=w.device)
        # Padding gives a task no more steps than it has alone.
        rates = (self.lr * (most[:, None] < steps).to(w.dtype))[..., None, None].unbind()
        velocity: Weights = ()
        for rate in rates:
            pairs = zip(gradient(theta), theta, strict=True)
            slopes = tuple(g.add(t, alpha=self.decay) for g, t in pairs)
            # As in torch.optim.SGD, the first gradient is not dampened.
            before = velocity or slopes
            moves = zip(before, slopes, strict=True)
            velocity = tuple(v.lerp(g, 1 - self.momentum) for v, g in moves)
            theta = tuple(t - rate * v for t, v in zip(theta, velocity, strict=True))
        return theta


class BaselinePlusPlus(Baseline):
    """Train a classifier of cosines on each support, as `Baseline` trains a linear one.

        p(y = k | x) = softmax_k(scale * g_k cos(w_k, f(x)))

    with directions w_k and lengths g_k.

    Args:
        epochs, batch, lr, momentum, decay: of the training.
        scale: of the cosine.

    Shapes:
        score: features (B, n, d), label weights (B, n, C) -> logits (B, n, C).

    Source:
        section 3.2 and the authors' code, where the weights are normalised with a length for each
        class that is learned; scale 2, theirs for up to 200 classes.

    Deviations:
        those of `Baseline`; directions start at the mean of the class's normalised features,
        lengths at the mean length 3^-1/2 of the authors' random start.
    """

    def __init__(
        self,
        epochs: int = 100,
        batch: int = 4,
        lr: float = 0.01,
        momentum: float = 0.9,
        decay: float = 0.001,
        scale: float = 2.0,
    ) -> None:
        super().__init__(epochs, batch, lr, momentum, decay)
        require(scale > 0, f"baseline_plus_plus.scale must be above 0, not {scale}")
        self.scale = scale

    def score(self, episode: Episode) -> Tensor:
        """Scaled cosines (B, n, C) to the class weights that were trained on the support."""
        z = F.normalize(episode.x, dim=-1)
        support, w = _support(z, episode)
        k, error = support @ support.mT, _error(w)

        def gradient(theta: Weights) -> Weights:
            a, g = theta
            f = a @ k
            length = (a * f).sum(-1, keepdim=True).clamp_min(1e-12).sqrt()
            cosine = f / length
            e = self.scale * error(self.scale * g * cosine)
            by_g = (e * cosine).sum(-1, keepdim=True)
            return g / length * (e - by_g / length * a), by_g

        total = w.sum(1)[..., None]
        start = w.mT / or_one(total)
        a, g = self.descend(gradient, (start, torch.full_like(total, 3**-0.5)), w)
        return hide_absent(self.scale * z @ (g * F.normalize(a @ support, dim=-1)).mT, episode.w)


def _support(z: Tensor, episode: Episode) -> tuple[Tensor, Tensor]:
    """The nodes that may have labels, and their label weights.

    Returns:
        Features (B, m, d), zero where a node has no label, and label weights (B, m, C).
    """
    w = episode.w[:, episode.labeled]
    return z[:, episode.labeled].masked_fill((w.sum(-1, keepdim=True) == 0), 0), w


def _error(w: Tensor) -> Callable[[Tensor], Tensor]:
    """The derivative of the weighted mean cross-entropy by the logits.

    Args:
        w: (B, n, C) label weights.

    Returns:
        A function of logits f (B, C, n), which gives omega (p - y) / sum omega (B, C, n).
    """
    weight = w.sum(-1).unsqueeze(-2)
    total = total_or_one(weight)
    share, target, absent = weight / total, w.mT / total, (w.sum(1) == 0).unsqueeze(-1)

    def error(f: Tensor) -> Tensor:
        # Finite, so that a task without any label gives no NaN.
        return share * f.masked_fill(absent, -1e30).softmax(-2) - target

    return error
