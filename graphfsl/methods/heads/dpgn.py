"""Distribution propagation graph network (DPGN): one graph of samples, one of their relations.

Yang, Li, Zhang, Zhou, Zhou, Liu 2020, https://arxiv.org/abs/2003.14247
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
from graphfsl.io.errors import require, unknown
from graphfsl.nn.perceptron import Perceptron

__all__ = ["DPGN"]


class DPGN(Head):
    """Let a graph of nodes and a graph of their similarities to the support teach each other.

    The point graph is (v^p_i = f(x_i), e^p), the distribution graph (v^d_i in R^NK, e^d). To begin
    with e_ij = 1[y_i = y_j] between labeled nodes, 1/NK between a labeled node and another, else 0;
    v^d_i is the NK edges from i to the support. An update of edges, U, is without self-loops, which
    then become 1, and rows sum to 1:

        s_ij = sigmoid(f(|v_i - v_j|))
        U(e, v)_ij = s_ij e_ij / sum_k s_ik e_ik * sum_k e_ik

    After a first e^p <- U(e^p, v^p), each generation does

        e^p <- U(e^p, v^p)
        v^d_i <- leaky(W [e^p_i,support; v^d_i])
        e^d <- U(e^d, v^d)
        v^p_i <- f_v([v^p_i; sum_j e^d_ij v^p_j / sum_j e^d_ij])

    p(y_i = c) is proportional to sum_j e^p_ij y_jc of the last generation, over labeled nodes j.
    The loss of a generation is the balanced binary cross-entropy of e^p as in EGNN, and 0.1 times
    the cross-entropy of -sum_j |v^p_i - v^p_j| y_jc; the first two generations count half, the last
    one fully, and their mean is taken.

    Args:
        dim: d, the length of the features.
        way, shot: N and K, to which v^d and so the network is tied; the NK nodes may include
            padding.
        generations: of the two graphs.
        hidden: of the networks.
        metric: of f and the cross-entropy, "l1" or "l2" (squares in place of absolute values); the
            authors' for ConvNet and for ResNet-12.

    Shapes:
        score: features (B, n, d), label weights (B, n, N) -> (3 generations + 1, B, n, N): by class
            the mean of log e^p_ij and of log(1 - e^p_ij), and -sum_j |v^p_i - v^p_j| y_jc, of each
            generation; then log sum_j e^p_ij y_jc. One graph per query (`per_query`); a graph with
            several makes it transductive. Unlabeled nodes are connected as queries are. W sees the
            support in a fixed order, so that the order matters; the columns of w may be permuted
            with the scores.

    Source:
        section 3 (3.2.1, 3.2.2) and the authors' code with `loss_indicator` [1, 1, 0], their 5-way
        1-shot ConvNet: no loss on e^d, so that the last generation ends with e^p.

    Deviations:
        any number of queries per class, the authors' code works with one; the first e^p is computed
        from f(x), theirs from the layer before; no dropout; BatchNorm over pairs i < j; edges
        between queries have no loss. The published checkpoints were chosen on the test classes.
    """

    family = "graph"
    per_query = True
    transductive = True
    uses_unlabeled = True
    order_sensitive = True

    def __init__(
        self,
        dim: int,
        way: int,
        shot: int = 1,
        generations: int = 5,
        hidden: int = 128,
        metric: str = "l1",
    ) -> None:
        super().__init__()
        if metric not in ("l1", "l2"):
            raise unknown("metric", metric, ("l1", "l2"))
        require(
            generations >= 2,
            f"dpgn takes at least two generations, not {generations}: the last ends with the "
            f"point graph",
        )
        require(shot >= 1, f"dpgn.shot must be 1 or more, not {shot}")
        self.way, self.shots = way, shot
        self.metric = torch.abs if metric == "l1" else torch.square
        self.support_nodes = k = way * shot
        sizes = [dim] + [hidden] * (generations - 1)
        self.point_edges = nn.ModuleList(
            Perceptron(d, 2 * hidden, hidden, out=1) for d in [dim, *sizes]
        )
        self.distributions = nn.ModuleList(nn.Linear(2 * k, k) for _ in sizes[1:])
        self.distribution_edges = nn.ModuleList(Perceptron(k, 2 * k, k, out=1) for _ in sizes[1:])
        self.points = nn.ModuleList(Perceptron(2 * d, 2 * hidden, hidden) for d in sizes[:-1])

    def generations(self, episode: Episode) -> list[tuple[Tensor, Tensor]]:
        """The edges e^p of each generation, and the distances of the nodes before it.

        Returns:
            For each generation e^p and sum |v^p_i - v^p_j|, both (B, n, n), from j (columns) to i
            (rows).
        """
        v, w, n, k = episode.x, episode.w, episode.x.shape[1], self.support_nodes
        real, loops = pairs(episode.mask), torch.eye(n, dtype=torch.bool, device=episode.x.device)
        node_mask, pair_mask = (episode.mask, upper(real)) if episode.padded else (None, None)

        def update(f: nn.Module, e: Tensor, difference: Tensor) -> Tensor:
            s = mirrored(f(difference, pair_mask).squeeze(-1).sigmoid(), n)
            return F.normalize(reweighted(e * real, s) + loops + 1e-6 * (real | loops), p=1, dim=-1)

        labeled = w.sum(-1) > 0
        one_labeled = labeled.unsqueeze(-1) ^ labeled.unsqueeze(-2)
        share = 1 / labeled.to(v.dtype).sum(-1).clamp_min(1)
        e = (joined(w) + one_labeled * share[:, None, None]) * (real | loops)
        v_d, e_d = e[..., :k], e
        e = update(self.point_edges[0], e, self.metric(differences(v)))
        out = []
        for generation, f_e in enumerate(self.point_edges[1:]):
            difference = self.metric(differences(v))
            e = update(f_e, e, difference)
            out.append((e, mirrored(difference.sum(-1), n)))
            if generation < len(self.points):
                v_d = F.leaky_relu(self.distributions[generation](torch.cat([e[..., :k], v_d], -1)))
                e_d = update(
                    self.distribution_edges[generation], e_d, self.metric(differences(v_d))
                )
                neighbors = F.normalize(e_d * real, p=1, dim=-1) @ v
                v = self.points[generation](torch.cat([v, neighbors], -1), node_mask)
        return out

    def score(self, episode: Episode) -> Tensor:
        """What each generation says, and then the answer: (3 generations + 1, B, n, N)."""
        generations, w = self.generations(episode), episode.w
        layers: list[Tensor] = []
        for e, distance in generations:
            layers += [class_means(p.clamp_min(1e-12).log(), w) for p in (e, 1 - e)] + [
                -distance @ w
            ]
        answer = (generations[-1][0] @ w).clamp_min(1e-9).log()
        return torch.stack([*layers, hide_absent(answer, w)])

    def criterion(self, scores: Tensor, target: Target, episode: Episode) -> Tensor:
        """The loss of all generations, as the class says: a scalar."""
        if scores.ndim == 3:  # a refinement keeps only the answer
            return super().criterion(scores, target, episode)
        # Each generation scores three times; the answer stands behind them all.
        alike, different, near = scores[:-1, :, episode.query].unflatten(0, (-1, 3)).unbind(1)
        balanced = edge_loss(alike, different, target.query, present(episode.w))

        logits = hide_absent(near, episode.w).movedim(-1, 1)
        columns = target.of_class.expand(len(near), -1, -1)
        entropy = F.cross_entropy(logits, columns, ignore_index=-100, reduction="none")
        entropy = entropy.sum((-1, -2)) / (target.query >= 0).sum().clamp_min(1)

        losses = balanced + 0.1 * entropy
        first = losses[:-1][:2]
        return (losses[-1] + first.sum() / 2) / (1 + len(first))
