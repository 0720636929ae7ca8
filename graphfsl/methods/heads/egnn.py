"""Edge-labeling graph neural network (EGNN): which pairs of nodes are of one class.

Kim, Kim, Kim, Yoo 2019, https://arxiv.org/abs/1905.01436
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphfsl.core.episode import Episode, Target
from graphfsl.core.learner import Head
from graphfsl.functional.affinity import joined, pairs
from graphfsl.functional.edges import (
    class_means,
    differences,
    edge_loss,
    mirrored,
    reweighted,
    upper,
)
from graphfsl.functional.prototypes import hide_absent, present
from graphfsl.io.errors import require
from graphfsl.nn.perceptron import Perceptron

__all__ = ["EGNN"]


class EGNN(Head):
    """Label the edges of an episode: which nodes share a class, layer by layer.

    Edges e_ij = (alike, different) are (1, 0) between labeled nodes of one class, (0, 1) of two,
    else (.5, .5). Each layer updates nodes, then edges, without self-loops:

        v_i <- f_v([v_i; sum_j e~_ij1 v_j; sum_j e~_ij2 v_j]),  e~_ijd = e_ijd / sum_k e_ikd
        s_ij1 = sigmoid(f_e(|v_i - v_j|)),  s_ij2 = 1 - s_ij1
        e_ijd <- s_ijd e_ijd / sum_k s_ikd e_ikd * sum_k e_ikd

    The self-loop becomes (1, 0), and (e_ij1, e_ij2) is normalised to sum 1. p(y_i = c) is
    proportional to sum_j e_ij1 y_jc of the last layer, over labeled nodes j. The loss is

        L = sum_l lambda_l (mean -log e_ij1 over j of i's class + mean -log e_ij2 over the others)

    with lambda 1 in the last layer, else 0.5; i a query, j labeled, in both directions. Edges carry
    the labels, so that any way and any shot will do.

    Args:
        dim: d, the length of the features.
        hidden: of the networks, 2 layers in f_v, 4 in f_e.
        layers: L, each with parameters of its own.

    Shapes:
        score: features (B, n, d), label weights (B, n, C) -> (2 L + 1, B, n, C): by class the mean
            of log e_ij1 and of log e_ij2 of each layer, which are all that the loss needs, then log
            sum_j e_ij1 y_jc. One graph per query (`per_query`); a graph with several, in any number
            per class, makes it transductive. Unlabeled nodes have edges of (.5, .5) and no vote.

    Source:
        section 3, and the authors' code for widths, self-loops, the 1e-6 of edges and the two means
        of the loss.

    Deviations:
        no dropout; BatchNorm over pairs i < j, without self-loops; edges between queries and from a
        query to itself have no loss. In the authors' code unlabeled support nodes vote with their
        hidden labels: not here.
    """

    family = "graph"
    per_query = True
    transductive = True
    uses_unlabeled = True

    def __init__(self, dim: int, hidden: int = 96, layers: int = 3) -> None:
        super().__init__()
        require(layers >= 1, f"egnn takes at least one layer, not {layers}")
        sizes = [dim] + [hidden] * (layers - 1)
        self.f_v = nn.ModuleList(Perceptron(3 * size, 2 * hidden, hidden) for size in sizes)
        self.f_e = nn.ModuleList(
            Perceptron(hidden, 2 * hidden, 2 * hidden, hidden, hidden, out=1) for _ in sizes
        )

    def edges(self, episode: Episode) -> list[Tensor]:
        """Each layer's edges: (B, 2, n, n), alike and different, from j (columns) to i (rows)."""
        v, w, n = episode.x, episode.w, episode.x.shape[1]
        real = pairs(episode.mask)
        node_mask, pair_mask = (episode.mask, upper(real)) if episode.padded else (None, None)
        labeled = w.sum(-1) > 0
        alike = joined(w).where(labeled.unsqueeze(-1) & labeled.unsqueeze(-2), 0.5)
        e = torch.stack([alike, 1 - alike], 1)
        loops = torch.eye(n, dtype=v.dtype, device=v.device)
        layers = []
        for f_v, f_e in zip(self.f_v, self.f_e, strict=True):
            e = e * real.unsqueeze(1)
            neighbors = F.normalize(e, p=1, dim=-1) @ v.unsqueeze(1)
            v = f_v(torch.cat([v, *neighbors.unbind(1)], -1), node_mask)
            s = mirrored(f_e(differences(v).abs(), pair_mask).squeeze(-1).sigmoid(), n)
            e = reweighted(e, torch.stack([s, 1 - s], 1)) + torch.stack([loops, 0 * loops]) + 1e-6
            e = e / e.sum(1, keepdim=True)
            layers.append(e)
        return layers

    def score(self, episode: Episode) -> Tensor:
        """What each layer says of the nodes, and then the answer: (2 L + 1, B, n, C)."""
        layers, w = self.edges(episode), episode.w
        logs = [class_means(channel.log(), w) for e in layers for channel in e.unbind(1)]
        answer = (layers[-1][:, 0] @ w).clamp_min(1e-9).log()
        return torch.stack([*logs, hide_absent(answer, w)])

    def criterion(self, scores: Tensor, target: Target, episode: Episode) -> Tensor:
        """The loss of all layers, the last counting twice as much as each before: a scalar."""
        if scores.ndim == 3:  # a refinement keeps only the answer
            return super().criterion(scores, target, episode)
        alike, different = scores[:-1, :, episode.query].unflatten(0, (-1, 2)).unbind(1)
        losses = edge_loss(alike, different, target.query, present(episode.w))
        return losses[-1] + losses[:-1].sum() / 2
