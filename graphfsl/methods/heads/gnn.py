"""Few-shot learning with graph neural networks.

Garcia & Bruna 2018, https://arxiv.org/abs/1711.04043
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.nn import MessagePassing
from torch_geometric.utils import softmax

from graphfsl.core.batchnorm import BatchNorm, is_adapting
from graphfsl.core.episode import Episode
from graphfsl.core.graph import to_pyg
from graphfsl.core.learner import Head
from graphfsl.functional.prototypes import hide_absent
from graphfsl.io.errors import InputError, require

__all__ = ["GNN"]


class GNN(Head):
    """Classify the query in the complete graph of an episode, whose nodes know their labels.

    With h(l_i) one-hot where the label is visible and zero elsewhere (equations 1 to 3),

        x_i^0 = [f(x_i); h(l_i)]
        A_ij = softmax_j psi(|x_i - x_j|), without self-loops
        x^(k+1) = [x^k; leaky(BN(W [x^k; A x^k]))], twice

    and a third layer without x^k answers at the query.

    Args:
        dim: d, the length of the features.
        way: N.
        hidden: nf, of the edge networks; a layer adds nf/2 channels.
        layers: graph layers, the last of which gives the scores.
        ask: None; or the label of one unlabeled node per query is asked for after the first layer,
            and added to its h: "attention" asks for that of argmax_i w^T (x_i - x_query)^2, a
            Gumbel-softmax in training (the paper's active learning, section 4.3), "random" for the
            first of the pool, whose order is random.

    Shapes:
        score: features (B, n, d), label weights (B, n, N) -> (B, n, N). Trained and evaluated with
            one graph per query (`per_query`); a graph with several queries makes it transductive.
            Unlabeled nodes are nodes without a label.

    Source:
        equations 1-3 and the authors' code (slope 0.01, zeros for hidden labels). Of their two
        networks the widths of the edge networks, nf*(2, 2, 1, 1), are those for mini-ImageNet,
        BatchNorm on the scores is that for Omniglot.

    Deviations:
        no dropout in the last edge network; the encoder is the pipeline's, with BatchNorm over all
        nodes of a call instead of one support position at a time. The authors ask by w^T -(x_i -
        x_query)^2: w is learned, and takes either sign.
    """

    family = "graph"
    per_query = True
    class_order_sensitive = True  # its nodes hold the labels as columns beside the features
    transductive = True
    uses_unlabeled = True

    def __init__(
        self, dim: int, way: int, hidden: int = 96, layers: int = 3, ask: str | None = None
    ) -> None:
        super().__init__()
        require(
            ask in (None, "attention", "random") and layers >= (2 if ask else 1),
            f"gnn.ask must be attention or random, with 2 layers or more, or null, not {ask!r:.50}",
        )
        self.way, self.asks = way, ask is not None
        sizes = [dim + way + i * (hidden // 2) for i in range(layers)]
        self.adjacency = nn.ModuleList(EdgeWeight(size, hidden) for size in sizes)
        outputs = [hidden // 2] * (layers - 1) + [way]
        self.convs = nn.ModuleList(GraphConv(a, b) for a, b in zip(sizes, outputs, strict=True))
        self.attention = nn.Linear(sizes[1], 1, bias=False) if ask == "attention" else None

    def score(self, episode: Episode) -> Tensor:
        """Scores (B, n, C): what the last layer says of each node."""
        size = episode.x.shape[:2]
        graph = to_pyg(episode)
        mask = graph.mask if episode.padded else None

        def convolved(layer: int, x: Tensor) -> Tensor:
            weight = self.adjacency[layer](x, size[1], graph.edge_index, mask)
            rows: Tensor = self.convs[layer](x, graph.edge_index, weight, mask)
            return rows

        last = len(self.convs) - 1
        x = torch.cat([graph.x, graph.y.to(graph.x.dtype)], -1)
        for layer in range(last):
            x = torch.cat([x, F.leaky_relu(convolved(layer, x))], -1)
            if layer == 0 and self.asks and episode.n_unlabeled:
                x = self.informed(x.unflatten(0, size), episode).flatten(0, 1)
        scores = convolved(last, x).unflatten(0, size)
        return hide_absent(scores, episode.w)

    def informed(self, x: Tensor, episode: Episode) -> Tensor:
        """The nodes after one label was asked for, and added where h stands.

        Args:
            x: (B, n, d + N + nf/2) the nodes behind the first layer.
            episode: with `oracle`, the labels of the unlabeled nodes.

        Returns:
            (B, n, d + N + nf/2)

        Raises:
            InputError: where the labels are not known, or there is not one graph per query.
        """
        if episode.oracle is None or episode.n_query != 1:
            raise InputError(
                "gnn.ask needs unlabeled nodes with known labels, and one graph per query"
            )
        asked = self.asked(x.detach(), episode)
        answer = asked.unsqueeze(-1) * episode.full_oracle[:, episode.unlabeled].to(x.dtype)
        d = episode.x.shape[-1]
        behind = x.shape[-1] - d - episode.way
        return x + F.pad(answer, (d, behind, episode.unlabeled.start, 0))

    def asked(self, x: Tensor, episode: Episode) -> Tensor:
        """The unlabeled node whose label is asked for, one-hot (B, U); zero where all are padding.

        The attention's choice in training is a sample that lets its gradient through.
        """
        mask = episode.mask[:, episode.unlabeled]
        if self.attention is None:
            first = mask.to(x.dtype).argmax(-1)
            return F.one_hot(first, mask.shape[1]) * mask
        apart = (x[:, episode.unlabeled] - x[:, episode.query]).square()
        wanted = self.attention(apart).squeeze(-1).masked_fill(~mask, torch.finfo(x.dtype).min)
        if self.training:
            return F.gumbel_softmax(wanted, hard=True) * mask
        return F.one_hot(wanted.argmax(-1), mask.shape[1]) * mask


class EdgeWeight(nn.Module):
    """The learned weights of all edges of complete graphs: A_ij = softmax_j psi(|x_i - x_j|).

    Where BatchNorm has its averages, psi sees each pair once, for both of its edges.

    Args:
        dim: d, the length of the nodes.
        hidden: nf, of the network psi.

    Shapes:
        forward: B graphs of n nodes x (B*n, d), their complete edges (2, E) from j to i, as
            `graph.complete_edges` orders them -> (E, 1).
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        sizes = [dim, 2 * hidden, 2 * hidden, hidden, hidden]
        self.linears = nn.ModuleList(
            nn.Linear(a, b, bias=False) for a, b in itertools.pairwise(sizes)
        )
        self.norms = nn.ModuleList(BatchNorm(size) for size in sizes[1:])
        self.last = nn.Linear(hidden, 1)

    def forward(self, x: Tensor, n: int, edges: Tensor, mask: Tensor | None) -> Tensor:
        """The weights of all edges, by the features of their ends."""
        # The statistics are over all pairs, a node with itself too.
        whole = self.training or is_adapting()
        upper = torch.triu_indices(n, n, 1, device=x.device)
        low, high = all_pairs(n, x.device) if whole else upper
        nodes = x.unflatten(0, (-1, n))
        real = None
        if mask is not None:
            of_nodes = mask.unflatten(0, (-1, n))
            real = (of_nodes[:, low] & of_nodes[:, high]).flatten()

        psi = (nodes[:, low] - nodes[:, high]).abs().flatten(0, 1)
        for linear, norm in zip(self.linears, self.norms, strict=True):
            psi = F.leaky_relu(norm(linear(psi), real))
        of_pairs = self.last(psi).view(len(nodes), -1)

        first, second = edges[:, : n * (n - 1)].sort(0).values  # of one graph, first < second
        in_matrix = first * n + second
        in_upper = first * (2 * n - first - 1) // 2 + second - first - 1
        weight = of_pairs[:, in_matrix if whole else in_upper].reshape(-1, 1)
        if mask is not None:
            weight = weight.masked_fill(~mask[edges[0], None], torch.finfo(weight.dtype).min)
        share: Tensor = softmax(weight, edges[1], num_nodes=len(x))
        return share


def all_pairs(n: int, device: torch.device) -> Tensor:
    """The two nodes of every entry of an n x n matrix, row by row: (2, n * n)."""
    nodes = torch.arange(n, device=device)
    return torch.stack([nodes.repeat_interleave(n), nodes.repeat(n)])


class GraphConv(MessagePassing):
    """One graph convolution with given edge weights: BN(W [x_i; sum_j A_ij x_j]).

    Args:
        dim: the length of the nodes.
        out: the length of the answer.

    Shapes:
        forward: x (R, d), edges (2, E), A (E, 1) -> (R, out).
    """

    def __init__(self, dim: int, out: int) -> None:
        super().__init__(aggr="add")
        self.linear = nn.Linear(2 * dim, out, bias=False)
        self.norm = BatchNorm(out)

    def forward(self, x: Tensor, edges: Tensor, weight: Tensor, mask: Tensor | None) -> Any:
        """Nodes after the convolution: (R, d) -> (R, out).

        Args:
            x: (R, d) nodes.
            edges: (2, E) the ends of each edge.
            weight: (E, 1) of each edge.
            mask: (R,) which nodes are real; None for all.
        """
        neighbors = self.propagate(edges, x=x, weight=weight, size=(len(x), len(x)))
        return self.norm(self.linear(torch.cat([x, neighbors], -1)), mask)

    def message(self, x_j: Tensor, weight: Tensor) -> Tensor:
        """What a neighbour sends: itself, times the weight of the edge."""
        return weight * x_j
