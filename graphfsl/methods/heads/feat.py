"""FEAT, few-shot embedding adaptation with a set transformer.

Ye, Hu, Zhan, Sha 2020, https://arxiv.org/abs/1812.03664
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graphfsl.core.episode import Episode, Target
from graphfsl.core.learner import Head
from graphfsl.functional.distances import squared_euclidean
from graphfsl.functional.prototypes import hide_absent, present, prototypes
from graphfsl.io.errors import require

__all__ = ["FEAT"]


class FEAT(Head):
    """Adapt the class means of an episode to each other by self-attention.

    For a set z, with Q, K, V linear in it (equations 5 to 8),

        T(z)_i = LayerNorm(z_i + W_FC V alpha_i),  alpha_i = softmax(K^T Q_i / sqrt(d))

    The set is that of the class means, psi = T(p), and the scores are

        s_c(x) = -||f(x) - psi_c||^2 / temperature

    The loss (equation 9) has a second part:

        L = CE(queries) + balance * CE(support and queries beside c_1 ... c_C)

    where c_c is the mean of T applied to the support and queries of class c alone, and a node x
    scores -||f(x) - c_c||^2 / temperature2.

    Args:
        dim: d, the length of the features.
        temperature, temperature2: of the answer and of the second loss.
        balance: weight of the second loss.
        dropout: of W_FC's output, in training.
        attention_dropout: of alpha, in training.

    Shapes:
        score: features (B, n, d), label weights (B, n, C) -> (B, n, C).

    Source:
        equations 5 to 9 and the authors' code: one head of attention, its initialisation, and the
        constants of its 5-shot training of a ResNet-12 (with Conv4 they take balance 1 and
        temperature2 16 for one shot, temperature 32 and temperature2 64 for five).

    Deviations:
        none are known.
    """

    def __init__(
        self,
        dim: int,
        temperature: float = 64.0,
        balance: float = 0.1,
        dropout: float = 0.5,
        temperature2: float = 32.0,
        attention_dropout: float = 0.1,
    ) -> None:
        super().__init__()
        require(
            min(temperature, temperature2) > 0
            and balance >= 0
            and 0 <= dropout < 1
            and 0 <= attention_dropout < 1,
            "feat: temperature and temperature2 must be above 0, balance 0 or more, "
            "dropout and attention_dropout in [0, 1)",
        )
        self.temperature, self.temperature2, self.balance = temperature, temperature2, balance
        self.q = nn.Linear(dim, dim, bias=False)
        self.k = nn.Linear(dim, dim, bias=False)
        self.v = nn.Linear(dim, dim, bias=False)
        self.fc = nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)
        self.attention_dropout = nn.Dropout(attention_dropout)
        for linear in (self.q, self.k, self.v):
            # sqrt(2 / (d_model + d_k)), both of which are d
            nn.init.normal_(linear.weight, std=dim**-0.5)
        nn.init.xavier_normal_(self.fc.weight)

    def adapt(self, z: Tensor, reads: Tensor) -> Tensor:
        """T(z): every member of a set, adapted by attention over the members that it reads.

        Args:
            z: (B, m, d) the set.
            reads: (B, m, m), or (B, 1, m) for all alike: which members (columns) each one (row)
                reads.

        Returns:
            (B, m, d)
        """
        # Written out: the fused attention has no second derivative, which MAML asks for.
        affinity = (self.q(z) @ self.k(z).mT / z.shape[-1] ** 0.5).masked_fill(
            ~reads, float("-inf")
        )
        alpha = self.attention_dropout(affinity.softmax(-1))
        out: Tensor = self.norm(z + self.dropout(self.fc(alpha @ self.v(z))))
        return out

    def score(self, episode: Episode) -> Tensor:
        """Minus the squared distances to adapted class means, by the temperature: (B, n, C)."""
        support, w = episode.x[:, episode.labeled], episode.w[:, episode.labeled]
        psi = self.adapt(prototypes(support, w), present(w).unsqueeze(1))
        return hide_absent(-squared_euclidean(episode.x, psi) / self.temperature, w)

    def criterion(self, scores: Tensor, target: Target, episode: Episode) -> Tensor:
        """The cross-entropy of the queries, and `balance` times the contrastive loss: a scalar."""
        loss = super().criterion(scores, target, episode)
        if not self.balance:
            return loss
        known = target.known(episode)
        x = episode.x[:, : known.shape[1]]
        # Padding is of no class and reads itself: a row of nothing would be NaN.
        itself = torch.eye(x.shape[1], dtype=torch.bool, device=x.device)
        centres = prototypes(self.adapt(x, (known @ known.mT > 0) | itself), known)
        logits = hide_absent(-squared_euclidean(x, centres) / self.temperature2, known)
        log_p = logits.log_softmax(-1).where(known > 0, 0)
        return loss - self.balance * (known * log_p).sum() / known.sum()
