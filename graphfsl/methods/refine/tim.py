"""TIM: transductive information maximization, Boudiaf et al. 2020,
https://arxiv.org/abs/2008.11297, and alpha-TIM, Veilleux et al. 2021,
https://arxiv.org/abs/2204.11181"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from graphfsl.core.episode import Episode
from graphfsl.core.learner import Head, Refine
from graphfsl.functional.adam import adam
from graphfsl.functional.distances import squared_euclidean
from graphfsl.functional.prototypes import hide_absent, prototypes
from graphfsl.functional.statistics import total_or_one
from graphfsl.io.errors import InputError

__all__ = ["TIM", "AlphaTIM"]


class TIM(Refine):
    """p_ic = softmax_c(-tau/2 ||z_i - w_c||^2) of features z_i of length one, with the classifiers
    w_c of least

        lambda CE(S) - marginal H(mean_Q p_i) + conditional mean_Q H(p_i),

    by the alternating direction method (TIM-ADM) from the class means on. A step chooses targets q
    for the queries,

        q_ic ~ p_ic^(1 + conditional) / (sum_j p_jc^(1 + conditional))^beta,   beta = marginal / (1
        + marginal),

    and with them, q = y and a_i = lambda / (1 + conditional) on the support, a_i = |S| / |Q| on the
    queries,

        w_c <- sum_i a_i (q_ic z_i + p_ic (w_c - z_i)) / sum_i a_i q_ic,   or `rate` of the way
        there.

    steps: of the method. rate: 1 is the authors'; it overshoots at first, and does not settle where
        features are alike.
    temperature: tau. cross_entropy: lambda. marginal, conditional: the weights of the entropies.

    forward: features (B, n, d), label weights (B, n, C) -> scores (B, n, C), whatever the head's
        are.
    Source: section 2 and the authors' code: 150 steps, tau 15, weights 0.1, 1, 0.1. The marginal
    entropy assumes as many queries of every class (`needs_balance`, unless `marginal` is 0): on
    others TIM may lose to the class means.
    Deviations: the rate. As w = A z stays in the span of the nodes, A alone is iterated, a constant
        for the gradient.
    """

    family = "transductive"
    transductive = True
    needs_balance = True
    reads_scores = False
    block_nodes = 5120

    def __init__(
        self,
        steps: int = 150,
        rate: float = 0.5,
        temperature: float = 15.0,
        cross_entropy: float = 0.1,
        marginal: float = 1.0,
        conditional: float = 0.1,
    ) -> None:
        super().__init__()
        zero, above = (steps, marginal, conditional), (rate, temperature, cross_entropy)
        if min(zero) < 0 or min(above) <= 0:
            names = (
                "steps, marginal, conditional must be 0 or more, rate, temperature, "
                "cross_entropy above 0"
            )
            raise InputError(f"{names}, not {zero}, {above}")
        self.steps, self.rate, self.temperature = steps, rate, temperature
        self.cross_entropy, self.marginal, self.conditional = cross_entropy, marginal, conditional
        self.needs_balance = marginal > 0

    def forward(self, episode: Episode, scores: Tensor, head: Head) -> Tensor:
        k, m, z = (
            episode.n_support,
            episode.n_support + episode.n_query,
            F.normalize(episode.x, dim=-1),
        )
        w = self.classifiers(
            z[:, :m], episode.w[:, :k].mT, episode.mask[:, k:m].unsqueeze(1).to(z.dtype)
        )
        return hide_absent(-self.temperature / 2 * squared_euclidean(z, w), episode.w)

    def classifiers(self, z: Tensor, y: Tensor, real: Tensor) -> Tensor:
        """Nodes z (B, m, d), labels y (B, C, k) of the first k, which others are real (B, 1, q) ->
        w (B, C, d).
        """
        with torch.no_grad():
            a = self.coefficients(z @ z.mT, y, real)
        return a @ z

    def coefficients(self, kernel: Tensor, y: Tensor, real: Tensor) -> Tensor:
        """z z^T (B, m, m) -> A (B, C, m)."""
        k, total = y.shape[-1], y.sum(-1, keepdim=True)
        absent = total == 0
        a = F.pad(y / total.masked_fill(absent, 1), (0, real.shape[-1]))
        y = self.cross_entropy / (1 + self.conditional) * y
        weight = torch.cat(
            [y.sum(1, keepdim=True), total.sum(1, keepdim=True) / total_or_one(real) * real], -1
        )
        beta, padding = self.marginal / (1 + self.marginal), -1e30 * (1 - real)
        for _ in range(self.steps):
            f = a @ kernel
            f = self.temperature * (f - (a * f).sum(-1, keepdim=True) / 2)
            log_p = f.masked_fill(absent, -1e30).log_softmax(1)
            power = (1 + self.conditional) * log_p[..., k:]
            q = (power - beta * (power + padding).logsumexp(-1, keepdim=True)).softmax(1)
            now, target = weight * log_p.exp(), torch.cat([y, weight[..., k:] * q], -1)
            total = target.sum(-1, keepdim=True)
            step = target - now + (now.sum(-1, keepdim=True) - total) * a
            a = a + self.rate * step / total.masked_fill(absent, 1)
        return a


class AlphaTIM(TIM):
    """TIM with the entropies of Tsallis, H_alpha(p) = (1 - sum_c p_c^alpha) / (alpha - 1), in place
    of Shannon's, which are their limit at alpha = 1: unequal shares of the classes cost less. By
    gradient descent with Adam (TIM-GD).

    alpha: of both entropies of the queries; the authors take 2 at one shot and 7 from five shots
        on. 1 is TIM-GD.
    steps, lr: of Adam. temperature, cross_entropy, marginal, conditional: as in `TIM`.

    forward: features (B, n, d), label weights (B, n, C) -> scores (B, n, C), whatever the head's
        are.
    Source: section 4 of Veilleux et al. and the authors' code: 1000 steps of lr 1e-4, tau 15,
    weights 1, 1, 1, and Shannon's cross-entropy on the support.
    Deviations: none in the solution. The gradient is written out; how w moved is a constant for
        that of a training.
    """

    needs_balance = False

    def __init__(
        self,
        alpha: float = 2.0,
        steps: int = 1000,
        lr: float = 1e-4,
        temperature: float = 15.0,
        cross_entropy: float = 1.0,
        marginal: float = 1.0,
        conditional: float = 1.0,
    ) -> None:
        super().__init__(steps, 1.0, temperature, cross_entropy, marginal, conditional)
        if not alpha > 0 or not lr > 0:
            raise InputError(f"alpha_tim.alpha and lr must be above 0, not {alpha} and {lr}")
        self.alpha, self.lr = alpha, lr
        self.needs_balance = marginal > 0 and alpha == 1

    def classifiers(self, z: Tensor, y: Tensor, real: Tensor) -> Tensor:
        start, fixed = prototypes(z[:, : y.shape[-1]], y.mT), z.detach()
        moved = adam(
            lambda w: self.gradient(w, fixed, y, real), start.detach(), self.lr, self.steps
        )
        return start + (moved - start.detach())

    def gradient(self, w: Tensor, z: Tensor, y: Tensor, real: Tensor) -> Tensor:
        """Of the loss by w (B, C, d)."""
        f = self.temperature * torch.baddbmm(w.square().sum(-1, keepdim=True), w, z.mT, beta=-0.5)
        p = f.masked_fill(y.sum(-1, keepdim=True) == 0, -1e30).softmax(1)
        p_s, p_q = p[..., : y.shape[-1]], p[..., y.shape[-1] :]
        by_s = (
            self.cross_entropy
            * (y.sum(1, keepdim=True) * p_s - y)
            / total_or_one(y.sum(1, keepdim=True))
        )
        share = real / total_or_one(real)
        by_p = self.marginal * self.slope(
            (share * p_q).sum(-1, keepdim=True)
        ) - self.conditional * self.slope(p_q)
        by_q = share * p_q * (by_p - (p_q * by_p).sum(1, keepdim=True))
        by_f = torch.cat([by_s, by_q], -1)
        return self.temperature * (by_f @ z - by_f.sum(-1, keepdim=True) * w)

    def slope(self, p: Tensor) -> Tensor:
        """-dH_alpha / dp, less a constant."""
        p = p.clamp_min(1e-30)
        return p.log() if self.alpha == 1 else self.alpha / (self.alpha - 1) * p ** (self.alpha - 1)
