"""FEAT, few-shot embedding adaptation with a set transformer. Ye, Hu, Zhan, Sha 2020, https://arxiv.org/abs/1812.03664"""

from __future__ import annotations

from torch import Tensor, nn

from graphfsl.episode import Episode, Target
from graphfsl.errors import InputError
from graphfsl.functional.distances import squared_euclidean
from graphfsl.functional.prototypes import hide_absent, present, prototypes
from graphfsl.learner import Head

__all__ = ["FEAT"]


class FEAT(Head):
    """psi_c = LayerNorm(p_c + W_FC V alpha_c),  alpha_c = softmax(K^T Q_c / sqrt(d)),  Q, K, V linear in prototypes
    (equations 5 to 8);  s_c(x) = -||f(x) - psi_c||^2 / temperature.
    L = CE(queries) + balance * CE(all nodes beside the transformed means of their classes)  (equation 9).

    dim: d, the length of the features. temperature: 64 with squared Euclidean distances of 640-d features.
    balance: weight of the contrastive term. dropout: of the attention's output, while training.

    score: features (B, n, d), label weights (B, n, C) -> (B, n, C).
    Source: equations 5 to 9 and the authors' code (one head of attention, dropout 0.5).
    Deviations: none are known.
    """

    def __init__(self, dim: int, temperature: float = 64.0, balance: float = 0.1, dropout: float = 0.5) -> None:
        super().__init__()
        if not temperature > 0 or balance < 0 or not 0 <= dropout < 1:
            raise InputError("feat: temperature must be above 0, balance 0 or more, dropout in [0, 1)")
        self.temperature, self.balance = temperature, balance
        self.q, self.k, self.v = (nn.Linear(dim, dim, bias=False) for _ in range(3))
        self.fc, self.norm, self.dropout = nn.Linear(dim, dim), nn.LayerNorm(dim), nn.Dropout(dropout)
        for linear in (self.q, self.k, self.v):
            nn.init.normal_(linear.weight, std=dim**-0.5)

    def adapt(self, p: Tensor, there: Tensor) -> Tensor:
        """The transformed means: p (B, C, d), which classes there are (B, C) -> (B, C, d)."""
        # Written out: the fused attention has no second derivative, which MAML asks for.
        affinity = (self.q(p) @ self.k(p).mT / p.shape[-1] ** 0.5).masked_fill(~there.unsqueeze(1), float("-inf"))
        out: Tensor = self.norm(p + self.dropout(self.fc(affinity.softmax(-1) @ self.v(p))))
        return out

    def logits(self, x: Tensor, support: Tensor, w: Tensor) -> Tensor:
        """Scores of x (B, n, d) beside the transformed means of the nodes (B, m, d) with label weights w (B, m, C)."""
        psi = self.adapt(prototypes(support, w), present(w))
        return hide_absent(-squared_euclidean(x, psi) / self.temperature, w)

    def score(self, episode: Episode) -> Tensor:
        return self.logits(episode.x, episode.x[:, episode.labeled], episode.w[:, episode.labeled])

    def criterion(self, scores: Tensor, target: Target, episode: Episode) -> Tensor:
        loss = super().criterion(scores, target, episode)
        if not self.balance:
            return loss
        known = target.known(episode)
        x = episode.x[:, : known.shape[1]]
        log_p = self.logits(x, x, known).log_softmax(-1).where(known > 0, 0)
        return loss - self.balance * (known * log_p).sum() / known.sum()
