"""Any convolution of PyTorch Geometric as an episode layer.

Fey & Lenssen 2019, https://arxiv.org/abs/1903.02428
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Mapping
from typing import Any

import torch
import torch_geometric.nn as pyg
from torch import Tensor, nn
from torch.nn import functional as F

from graphfsl.core.episode import Episode
from graphfsl.core.graph import complete_edges
from graphfsl.core.learner import Graph
from graphfsl.core.schema import check_options, signature
from graphfsl.io.errors import require, unknown
from graphfsl.nn.adjacency import make_adjacency

__all__ = ["MessagePassing"]

DENSE = ("GCNConv", "SAGEConv", "GATConv", "GINConv", "GraphConv")


class MessagePassing(Graph):
    """Rewrite the features of an episode by convolutions of torch_geometric on its graph.

        x^(l+1) = x^(l) + conv(x^(l), A)

    with a ReLU between layers; A joins the nodes of one episode. A convolution that takes
    `edge_weight` reads the weights of A; any other one reads which edges there are.

    Args:
        dim: d, the length of the features.
        conv: a convolution of torch_geometric.nn, such as GCNConv, GATConv, SAGEConv, GINConv,
            TransformerConv, ChebConv or APPNP.
        layers: how many.
        hidden: width of each, dim where it is not given.
        residual: add a layer's input where the widths agree.
        adjacency: a kind, or {kind: rbf, scale: learned, k: 10, …}, see
            `graphfsl.nn.adjacency.Adjacency`.
        dense: PyG's dense layers, faster on small graphs, the same numbers.
        options: more for the convolution, such as {heads: 4}.

    Shapes:
        forward: features (B, n, d) -> features (B, n, hidden).

    Source:
        the library's layers; the adjacency is ours.
    """

    family = "graph"
    transductive = True
    uses_unlabeled = True

    def __init__(
        self,
        dim: int,
        conv: str = "GCNConv",
        layers: int = 1,
        hidden: int | None = None,
        residual: bool = True,
        adjacency: str | Mapping[str, Any] = "rbf",
        dense: bool = False,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        # ClusterGCNConv miscounts loops that are there already.
        names = [
            n for n in dir(pyg) if (n.endswith("Conv") and n != "ClusterGCNConv") or n == "APPNP"
        ]
        if conv not in names:
            raise unknown("convolution of torch_geometric", conv, names)
        require(
            not dense or conv in DENSE,
            f"torch_geometric has no dense {conv}; dense is for {', '.join(DENSE)}",
        )
        require(layers >= 0, f"message_passing.layers must be 0 or more, not {layers}")
        cls = getattr(pyg, f"Dense{conv}" if dense else conv)
        self.out_dim = hidden or dim
        widths = [dim] + [self.out_dim] * layers
        self.adjacency = make_adjacency(adjacency, dim, "adjacency")
        self.convs = nn.ModuleList(
            _make(cls, a, b, options or {}) for a, b in itertools.pairwise(widths)
        )
        self.residual, self.dense = residual, dense
        asked = inspect.signature(getattr(pyg, conv).forward).parameters
        self.weighted = "edge_weight" in asked
        # A convolution without weights of its own for a node itself counts the node among its
        # neighbours.
        self.loops = "add_self_loops" in inspect.signature(getattr(pyg, conv).__init__).parameters
        require(
            not self.adjacency.learns or self.weighted,
            f"{conv} reads no edge weights, so that a learned adjacency cannot learn; use GCNConv",
        )

    def forward(self, episode: Episode) -> Episode:
        """The episode with convolved features, (B, n, d) -> (B, n, d')."""
        a = self.adjacency(episode)
        if self.loops:
            a = a + torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)
        if not self.weighted:
            a = (a > 0).to(a.dtype)
        x = self._dense(episode.x, a) if self.dense else self._sparse(episode, a)
        return episode.replace(x=x, w=episode.w, relabeled=episode.relabeled)

    def _dense(self, x: Tensor, a: Tensor) -> Tensor:
        for i, conv in enumerate(self.convs):
            x = self._step(i, x, conv(x, a, add_loop=False) if self.loops else conv(x, a))
        return x

    def _sparse(self, episode: Episode, a: Tensor) -> Tensor:
        b, n = episode.x.shape[:2]
        edges, weight = complete_edges(b, n, a.device, loops=True), a.flatten()
        # Edges of weight zero would still count for a convolution that reads no weights. They
        # become loops of one node more, that nobody reads: to drop them would need their number,
        # which only the device knows. It has a loop
        # anyway: without an edge its normalisation has no gradient.
        nobody = b * n
        edges = F.pad(torch.where(weight > 0, edges, nobody), (0, 1), value=nobody)
        weight = F.pad(weight.where(weight > 0, 1), (0, 1), value=1.0)
        x = torch.cat([episode.x.flatten(0, 1), episode.x.new_zeros(1, episode.x.shape[-1])])
        for i, conv in enumerate(self.convs):
            x = self._step(
                i, x, conv(x, edges, edge_weight=weight) if self.weighted else conv(x, edges)
            )
        nodes: Tensor = x[:nobody].unflatten(0, (b, n))
        return nodes

    def _step(self, i: int, x: Tensor, y: Tensor) -> Tensor:
        y = F.relu(y) if i < len(self.convs) - 1 else y
        return x + y if self.residual and x.shape == y.shape else y


def _make(cls: type[nn.Module], inputs: int, outputs: int, options: Mapping[str, Any]) -> nn.Module:
    """A layer of these widths, with what every convolution of this kind needs beside."""
    parameters = signature(cls)
    given: dict[str, Any] = {
        "in_channels": inputs,
        "out_channels": outputs,
        "add_self_loops": False,
        "concat": False,
    }
    given |= {"K": 3, "alpha": 0.1}
    if "nn" in parameters:
        given["nn"] = nn.Sequential(
            nn.Linear(inputs, outputs), nn.ReLU(), nn.Linear(outputs, outputs)
        )
    name = cls.__name__
    reads = inspect.signature(cls.forward).parameters.values()
    missing = [
        p.name
        for p in reads
        if p.default is p.empty and p.name not in ("self", "x", "edge_index", "adj")
    ]
    require(not missing, f"{name} also reads {', '.join(missing)}, which an episode does not have")
    check_options(parameters, options, f"options of {name}", given)
    layer = cls(**{k: v for k, v in given.items() if k in parameters} | dict(options))
    return (
        layer
        if {"in_channels", "nn"} & set(parameters)
        else Projected(nn.Linear(inputs, outputs), layer)
    )


class Projected(nn.Module):
    """A linear map before a convolution that has no weights of its own, such as APPNP."""

    def __init__(self, linear: nn.Linear, conv: nn.Module) -> None:
        super().__init__()
        self.linear, self.conv = linear, conv

    def forward(self, x: Tensor, edges: Tensor, **weight: Tensor) -> Tensor:
        """Nodes after the linear map and the convolution."""
        out: Tensor = self.conv(self.linear(x), edges, **weight)
        return out
