"""Relay: labels handed on over the typed edges of an episode.

Ours, 2026, after Ren et al. 2018 (soft k-means), https://arxiv.org/abs/1803.00676, and Velickovic
et al. 2018 (attention), https://arxiv.org/abs/1710.10903
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphfsl.core.episode import Episode, Target
from graphfsl.core.learner import Head
from graphfsl.functional.affinity import pairs
from graphfsl.functional.distances import squared_euclidean
from graphfsl.functional.prototypes import hide_absent, prototypes
from graphfsl.functional.selection import two_best
from graphfsl.io.errors import require

__all__ = ["Relay"]

LABELED, QUERY, POOL = 0, 1, 2


class Relay(Head):
    """Hand labels on over an episode's graph of labeled nodes, queries and pool.

    With t = labeled, query or pool the kind of a node, each layer does

        a_ij = softmax_j(-gamma_{t_i t_j} ||h_i - h_j||^2 + beta_{t_i t_j})   attention, typed edges
        s_ic = -tau ||h_i - p_c||^2 + eta log(sum_j a_ij y_jc + 0.01)         prototypes, messages
        y_i  = w_i where the label is known, else g_i softmax_c(s_ic)         g: belief in it
        h_i <- h_i + U (sum_j a_ij h_j - h_i)
        p_c  = sum_i y_ic h_i / sum_i y_ic

    and the scores are s of the last layer. g_i is a small network of max_c softmax(s_i), of the
    margin to the second class, of sum_jc a_ij y_jc and of the distance to the nearest prototype
    over its mean in the pool. Classes are only summed over or compared, so one trained network
    serves any way, any shot and any pool.

    Args:
        dim: d.
        layers: how many, each with its own parameters.
        label_dropout: the share of labeled nodes whose label is hidden in training, never the last
            one of its class; they are answered like queries and count in the loss.
        typed: False joins all kinds of nodes alike.
        gated: False believes the pool as it is (g = 1).
        queries: True lets queries send messages too, which makes it transductive.

    Shapes:
        score: features (B, n, d), label weights (B, n, C) -> (B, n, C).

    Source:
        our own, after Ren et al. 2018 (soft assignments move prototypes; a mask against
        distractors), Liu et al. 2019 (label propagation trained through) and Velickovic et al. 2018
        (attention). Without a pool, with U = 0 and eta = 0 it is a prototypical network.
    """

    family = "graph"
    uses_unlabeled = True

    def __init__(
        self,
        dim: int,
        layers: int = 2,
        label_dropout: float = 0.2,
        typed: bool = True,
        gated: bool = True,
        queries: bool = False,
    ) -> None:
        super().__init__()
        require(
            layers >= 0 and 0 <= label_dropout < 1,
            f"relay: layers must be 0 or more, label_dropout in [0, 1), not "
            f"{layers}, {label_dropout}",
        )
        self.label_dropout, self.gated, self.transductive = label_dropout, gated, queries
        kinds = 3 if typed else 1
        self.log_gamma = nn.Parameter(torch.zeros(layers, kinds, kinds))
        self.beta = nn.Parameter(torch.zeros(layers, kinds, kinds))
        self.log_tau = nn.Parameter(torch.zeros(layers + 1))
        self.eta = nn.Parameter(torch.full((layers,), 0.1))
        moves = [nn.Linear(dim, dim, bias=False) for _ in range(layers)]
        for move in moves:
            nn.init.normal_(move.weight, std=0.01)  # near a prototypical network at first
        self.moves = nn.ModuleList(moves)
        self.gate = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)) if gated else None

    def score(self, episode: Episode) -> Tensor:
        """Minus the scaled squared distance to the last class means: (B, n, C)."""
        w = self.drop_labels(episode.w) if self.training and self.label_dropout else episode.w
        known = w.sum(-1, keepdim=True) > 0
        kind = self.kinds(episode, known.squeeze(-1))
        sends = episode.mask if self.transductive else episode.mask & (kind != QUERY)
        guessed = sends & ~known.squeeze(-1)
        edges = pairs(episode.mask) & sends.unsqueeze(-2)

        h, y, p = episode.x, w, prototypes(episode.x, w)
        s = -self.log_tau[0].exp() * squared_euclidean(h, p)
        for layer, move in enumerate(self.moves):
            a = self.attention(layer, h, kind, edges)
            messages = a @ y
            s = s + self.eta[layer] * (messages + 0.01).log()
            z = hide_absent(s, episode.w).softmax(-1)
            guess = z * self.belief(z, messages, h, p, guessed) * sends.unsqueeze(-1)
            y = w.where(known, guess)
            h = h + move(a @ h - h)
            p = prototypes(h, y)
            s = -self.log_tau[layer + 1].exp() * squared_euclidean(h, p)
        return hide_absent(s, episode.w)

    def kinds(self, episode: Episode, known: Tensor) -> Tensor:
        """The kind of each node (B, n): labeled, query or pool; a hidden label is of the pool."""
        kind = torch.full_like(episode.mask, POOL, dtype=torch.long)
        kind[:, episode.query] = QUERY
        return kind.masked_fill(known, LABELED)

    def attention(self, layer: int, h: Tensor, kind: Tensor, edges: Tensor) -> Tensor:
        """Attention a (B, n, n) over edges (B, n, n) of nodes h (B, n, d) of some kinds (B, n).

        Args:
            layer: its number.
            h: (B, n, d) the nodes.
            kind: (B, n) of each node.
            edges: (B, n, n) which there are.
        """
        gamma, beta = self.log_gamma[layer].exp(), self.beta[layer]
        typed = gamma.shape[0] == 3
        t = F.one_hot(kind, 3).to(h.dtype) if typed else h.new_ones(*kind.shape, 1)
        attraction, offset = t @ gamma @ t.mT, t @ beta @ t.mT
        logits = offset - attraction * squared_euclidean(h, h)
        # A node with nobody to hear from hears nothing.
        return logits.masked_fill(~edges, torch.finfo(logits.dtype).min).softmax(-1) * edges

    def belief(self, z: Tensor, messages: Tensor, h: Tensor, p: Tensor, pool: Tensor) -> Tensor:
        """How far each node's guess is believed: g (B, n, 1) in (0, 1).

        Args:
            z: (B, n, C) the probabilities of each node.
            messages: (B, n, C) what its neighbours send.
            h: (B, n, d) the nodes.
            p: (B, C, d) the class means.
            pool: (B, n) whose labels are guessed.
        """
        if self.gate is None:
            return torch.ones_like(z[..., :1])
        best, second = two_best(z)
        distance = squared_euclidean(h, p).masked_fill(z == 0, float("inf"))
        near = distance.min(-1).values
        mean = (near * pool).sum(-1, keepdim=True) / pool.sum(-1, keepdim=True).clamp_min(1)
        relative = (near / mean.clamp_min(1e-6)).clamp_max(10)
        facts = torch.stack([best, best - second, messages.sum(-1), relative], -1)
        gate: Tensor = self.gate(facts).sigmoid()
        return gate

    def drop_labels(self, w: Tensor) -> Tensor:
        """Hide the labels of a random share of nodes, but leave each class a labeled node.

        (B, n, C) -> (B, n, C)
        """
        labeled = w.sum(-1, keepdim=True) > 0
        chance = torch.rand_like(w[..., :1])
        of_class = chance.masked_fill(~labeled, 2).where(w > 0, 2)
        lowest = of_class.amin(-2, keepdim=True)
        last = ((chance <= lowest) & (w > 0)).any(-1, keepdim=True)
        return w * (last | (chance > self.label_dropout))

    def criterion(self, scores: Tensor, target: Target, episode: Episode) -> Tensor:
        """Cross-entropy of the queries, and `label_dropout` times that of the support: a scalar.

        In the support, nodes with a hidden label are to be found again.
        """
        log_p = scores[:, episode.support].log_softmax(-1)
        w = episode.w[:, episode.support]
        support = -(w * log_p.where(w > 0, 0)).sum() / w.sum().clamp_min(1e-12)
        return super().criterion(scores, target, episode) + self.label_dropout * support
