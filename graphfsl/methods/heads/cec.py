"""CEC: continually evolved classifiers, a graph of class weights and a query.

Zhang, Song, Lin, Zheng, Pan, Xu 2021, https://arxiv.org/abs/2104.03047
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphfsl.core.episode import Episode
from graphfsl.core.learner import Head
from graphfsl.functional.mixed_cosines import mixed_cosines
from graphfsl.functional.prototypes import hide_absent, present, prototypes
from graphfsl.io.errors import require

__all__ = ["CEC"]


class CEC(Head):
    """Adapt all class weights to each other and to the query, by attention on a graph.

    The nodes of a graph are the classes, whose weights w_c are their mean features, and one query
    x. Each node z_i attends to all of them,

        z_i' = LayerNorm(z_i + U sum_j a_ij V z_j),  a_ij = softmax_j((Q z_i) . (K z_j) / sqrt(d))

    and the query is answered by scale * cos(x', w_c'). Each query has a graph of its own, so that
    none changes the answer to another.

    The classes of old and of new sessions are nodes alike, so that it learns on tasks of base
    classes, some of which stand for new ones.

    Args:
        dim: d, the length of the features.
        scale: of the cosine.

    Shapes:
        score: features (B, n, d), label weights (B, n, C) -> (B, n, C).

    Source:
        section 3.3 and the authors' code: one attention head, scale 16; it trains in evaluation
        mode, without its dropout.

    Deviations:
        turned images stand for new classes only where they are classes of the data set, as in
        Omniglot.
    """

    family = "graph"
    reads_means = True

    def __init__(self, dim: int, scale: float = 16.0) -> None:
        super().__init__()
        require(scale > 0, f"cec.scale must be above 0, not {scale}")
        self.scale = scale
        self.q = nn.Linear(dim, dim, bias=False)
        self.k = nn.Linear(dim, dim, bias=False)
        self.v = nn.Linear(dim, dim, bias=False)
        self.u = nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(dim)
        for linear in (self.q, self.k, self.v):
            # sqrt(2 / (d_model + d_k)), both of which are d
            nn.init.normal_(linear.weight, std=dim**-0.5)
        nn.init.xavier_normal_(self.u.weight)

    def score(self, episode: Episode) -> Tensor:
        """Scaled cosines (B, n, C) of adapted nodes with the class weights adapted to each."""
        labels = episode.w[:, episode.labeled]
        w = prototypes(episode.x[:, episode.labeled], labels)
        cosines = self.cosines(episode.x, w, present(labels))
        return hide_absent(self.scale * cosines, episode.w)

    def among_classes(self, w: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
        """What each class weight hears of all class weights, before a query joins them.

        Args:
            w: (B, C, d) the weights.
            there: (B, C) which classes there are.

        Returns:
            (B, C, d) the attended values, and (B, C) the logarithm of their total attention.
        """
        logits = self.affinity(w, w).masked_fill(~there.unsqueeze(1), float("-inf"))
        # an absent class hears nothing that is read, but must hear something
        logits = logits.masked_fill(~there.any(-1)[:, None, None], 0)
        return logits.softmax(-1) @ self.value(w), logits.logsumexp(-1)

    def cosines(self, x: Tensor, w: Tensor, there: Tensor) -> Tensor:
        """Cosines (B, m, C) of nodes x (B, m, d), each of which joins the graph of the classes.

        With one node more the attention of a class is shared between what it heard before and the
        node: of the total exp(L) + exp(l) the node has sigmoid(l - L).

        Args:
            x: (B, m, d) nodes that are answered.
            w: (B, C, d) the class weights.
            there: (B, C) which classes there are.
        """
        heard, total = self.among_classes(w, there)
        heard_of_x = self.value(x)
        to_classes = self.affinity(x, w).masked_fill(~there.unsqueeze(1), float("-inf"))
        itself = (self.q(x) * self.k(x)).sum(-1, keepdim=True) / x.shape[-1] ** 0.5
        a = torch.cat([to_classes, itself], -1).softmax(-1)
        heard_by_x = a[..., :-1] @ self.value(w) + a[..., -1:] * heard_of_x
        x_new = self.norm(x + heard_by_x + self.u.bias)

        share = (self.affinity(w, x).mT - total.unsqueeze(1)).sigmoid()
        before = w + heard + self.u.bias
        norm = self.norm
        return mixed_cosines(
            x_new, before, heard, heard_of_x, share, norm.weight, norm.bias, norm.eps
        )

    def affinity(self, a: Tensor, b: Tensor) -> Tensor:
        """The logits (B, n, m) with which nodes a (B, n, d) attend to nodes b (B, m, d)."""
        logits: Tensor = self.q(a) @ self.k(b).mT / a.shape[-1] ** 0.5
        return logits

    def value(self, z: Tensor) -> Tensor:
        """U V z, without U's bias: attention weights sum to one, so that both may come first."""
        return F.linear(self.v(z), self.u.weight)
