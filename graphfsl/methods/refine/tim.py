"""TIM: transductive information maximization; and alpha-TIM.

Boudiaf et al. 2020, https://arxiv.org/abs/2008.11297, and alpha-TIM, Veilleux et al. 2021,
https://arxiv.org/abs/2204.11181
"""

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
from graphfsl.io.errors import require

__all__ = ["TIM", "AlphaTIM"]


class TIM(Refine):
    """Make the answers for the queries sure and, taken together, evenly spread over the classes.

    p_ic = softmax_c(-tau/2 ||z_i - w_c||^2) of features z_i of length one, with the classifiers w_c
    of least

        lambda CE(S) - marginal H(mean_Q p_i) + conditional mean_Q H(p_i)

    by the alternating direction method (TIM-ADM) from the class means on. A step chooses targets q
    for the queries,

        q_ic ~ p_ic^(1 + conditional) / (sum_j p_jc^(1 + conditional))^beta
        beta = marginal / (1 + marginal)

    and with them, q = y and a_i = lambda / (1 + conditional) on the support, a_i = |S| / |Q| on the
    queries,

        w_c <- sum_i a_i (q_ic z_i + p_ic (w_c - z_i)) / sum_i a_i q_ic,  or `rate` of the way there

    Args:
        steps: of the method.
        rate: 1 is the authors'; it overshoots at first, and does not settle where features are
            alike.
        temperature: tau.
        cross_entropy: lambda.
        marginal, conditional: the weights of the entropies.

    Shapes:
        forward: features (B, n, d), label weights (B, n, C) -> scores (B, n, C), whatever the
            head's are.

    Source:
        section 2 and the authors' code: 150 steps, tau 15, weights 0.1, 1, 0.1. The marginal
        entropy assumes as many queries of every class (`needs_balance`, unless `marginal` is 0): on
        others TIM may lose to the class means.

    Deviations:
        the rate. As w = A z stays in the span of the nodes, A alone is iterated, a constant for the
        gradient.
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
        require(
            min(zero) >= 0 and min(above) > 0,
            "steps, marginal, conditional must be 0 or more, rate, temperature, cross_entropy "
            f"above 0, not {zero}, {above}",
        )
        self.steps, self.rate, self.temperature = steps, rate, temperature
        self.cross_entropy, self.marginal, self.conditional = cross_entropy, marginal, conditional
        self.needs_balance = marginal > 0

    def forward(self, episode: Episode, scores: Tensor, head: Head) -> Tensor:
        """Scores (B, n, C) by the distance to the found classifiers; the head's are not read."""
        z = F.normalize(episode.x, dim=-1)
        labels = episode.w[:, episode.support].mT
        real = episode.mask[:, episode.query].unsqueeze(1).to(z.dtype)
        w = self.classifiers(z[:, : episode.query.stop], labels, real)
        return hide_absent(-self.temperature / 2 * squared_euclidean(z, w), episode.w)

    def classifiers(self, z: Tensor, y: Tensor, real: Tensor) -> Tensor:
        """The classifiers w that the method finds.

        Args:
            z: (B, m, d) nodes, support and queries.
            y: (B, C, k) labels of the first k.
            real: (B, 1, q) 1 where one of the others is real, else 0.

        Returns:
            w (B, C, d)
        """
        with torch.no_grad():
            a = self.coefficients(z @ z.mT, y, real)
        return a @ z

    def coefficients(self, kernel: Tensor, y: Tensor, real: Tensor) -> Tensor:
        """The classifiers as mixtures of nodes: Gram matrix z z^T (B, m, m) -> A (B, C, m)."""
        k = y.shape[-1]
        size = y.sum(-1, keepdim=True)
        absent = size == 0
        labels = self.cross_entropy / (1 + self.conditional) * y
        query_weight = size.sum(1, keepdim=True) / total_or_one(real) * real
        weight = torch.cat([labels.sum(1, keepdim=True), query_weight], -1)

        a = F.pad(y / size.masked_fill(absent, 1), (0, real.shape[-1]))  # the class means
        for _ in range(self.steps):
            log_p = self.log_probabilities(a, kernel, absent)
            targets = self.query_targets(log_p[..., k:], real)
            wanted = torch.cat([labels, query_weight * targets], -1)
            now = weight * log_p.exp()
            total = wanted.sum(-1, keepdim=True)
            # sum_i a_i (q_ic z_i + p_ic (w_c - z_i)) - sum_i a_i q_ic w_c in terms of the nodes
            step = wanted - now + (now.sum(-1, keepdim=True) - total) * a
            a = a + self.rate * step / total.masked_fill(absent, 1)
        return a

    def log_probabilities(self, a: Tensor, kernel: Tensor, absent: Tensor) -> Tensor:
        """The log-probabilities (B, C, m) of nodes for w = A z; ||z_i||^2 is left out."""
        dots = a @ kernel
        square = (a * dots).sum(-1, keepdim=True)  # ||w_c||^2
        return (self.temperature * (dots - square / 2)).masked_fill(absent, -1e30).log_softmax(1)

    def query_targets(self, log_p: Tensor, real: Tensor) -> Tensor:
        """Targets q (B, C, q) from the queries' log p (B, C, q); padding does not count."""
        beta = self.marginal / (1 + self.marginal)
        padding = -1e30 * (1 - real)
        log_power = (1 + self.conditional) * log_p
        log_size = (log_power + padding).logsumexp(-1, keepdim=True)
        return (log_power - beta * log_size).softmax(1)


class AlphaTIM(TIM):
    """TIM with entropies that ask less for equal shares of the classes, by gradient descent.

    Tsallis' entropies take the place of Shannon's, which are their limit at alpha = 1: unequal
    shares of the classes cost less. Adam descends the loss (TIM-GD).

        H_alpha(p) = (1 - sum_c p_c^alpha) / (alpha - 1)

    Args:
        alpha: of both entropies of the queries; the authors take 2 at one shot and 7 from five
            shots on. 1 is TIM-GD.
        steps, lr: of Adam.
        temperature, cross_entropy, marginal, conditional: as in `TIM`.

    Shapes:
        forward: features (B, n, d), label weights (B, n, C) -> scores (B, n, C), whatever the
            head's are.

    Source:
        section 4 of Veilleux et al. and the authors' code: 1000 steps of lr 1e-4, tau 15, weights
        1, 1, 1, and Shannon's cross-entropy on the support.

    Deviations:
        none in the solution. The gradient is written out; how w moved is a constant for that of a
        training.
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
        require(
            alpha > 0 and lr > 0, f"alpha_tim.alpha and lr must be above 0, not {alpha} and {lr}"
        )
        self.alpha, self.lr = alpha, lr
        self.needs_balance = marginal > 0 and alpha == 1

    def classifiers(self, z: Tensor, y: Tensor, real: Tensor) -> Tensor:
        """The classifiers w (B, C, d) that gradient descent finds, from the class means on."""
        start = prototypes(z[:, : y.shape[-1]], y.mT)
        nodes = z.detach()

        def gradient(w: Tensor) -> Tensor:
            return self.gradient(w, nodes, y, real)

        moved = adam(gradient, start.detach(), self.lr, self.steps)
        return start + (moved - start.detach())  # the value of `moved`, the gradient of `start`

    def gradient(self, w: Tensor, z: Tensor, y: Tensor, real: Tensor) -> Tensor:
        """The gradient of the loss by w: (B, C, d).

        With f_ic = tau (w_c z_i - ||w_c||^2 / 2) and p_i = softmax(f_i) it is, for each class,
        tau (sum_i dL/df_ic z_i - sum_i dL/df_ic w_c).

        Args:
            w: (B, C, d) the classifiers.
            z: (B, m, d) nodes, support and queries.
            y: (B, C, k) labels of the first k.
            real: (B, 1, q) 1 where one of the others is real, else 0.
        """
        k = y.shape[-1]
        absent = y.sum(-1, keepdim=True) == 0
        square = w.square().sum(-1, keepdim=True)
        f = self.temperature * torch.baddbmm(square, w, z.mT, beta=-0.5)
        p = f.masked_fill(absent, -1e30).softmax(1)
        by_support = self.cross_entropy * self.slope_of_cross_entropy(p[..., :k], y)
        by_query = self.slope_of_entropies(p[..., k:], real)
        by_f = torch.cat([by_support, by_query], -1)
        return self.temperature * (by_f @ z - by_f.sum(-1, keepdim=True) * w)

    def slope_of_cross_entropy(self, p: Tensor, y: Tensor) -> Tensor:
        """The derivative of CE(S) by the support's logits: probabilities and labels (B, C, k)."""
        weight = y.sum(1, keepdim=True)
        return (weight * p - y) / total_or_one(weight)

    def slope_of_entropies(self, p: Tensor, real: Tensor) -> Tensor:
        """The derivative of the entropies by the logits of the queries.

        It is d (conditional mean_Q H(p_i) - marginal H(mean_Q p_i)) / df.

        Args:
            p: (B, C, q) probabilities.
            real: (B, 1, q) 1 where a query is real, else 0.

        Returns:
            (B, C, q)
        """
        share = real / total_or_one(real)
        mean = (share * p).sum(-1, keepdim=True)
        by_p = self.marginal * self.slope(mean) - self.conditional * self.slope(p)
        return share * p * (by_p - (p * by_p).sum(1, keepdim=True))  # through the softmax

    def slope(self, p: Tensor) -> Tensor:
        """The derivative of minus the alpha-entropy by p, less a constant."""
        p = p.clamp_min(1e-30)
        if self.alpha == 1:
            return p.log()
        return self.alpha / (self.alpha - 1) * p ** (self.alpha - 1)
