"""An episode as a graph: for torch_geometric's layers, for networkx, and for the eye."""

from __future__ import annotations

from typing import Any

import networkx as nx
import torch
from torch import Tensor

from graphfsl.core.episode import Episode
from graphfsl.functional.affinity import median_distance, pairs
from graphfsl.functional.distances import squared_euclidean

SUPPORT, QUERY, UNLABELED = 0, 1, 2
ROLES = ("support", "query", "unlabeled")


def complete_edges(batch: int, n: int, device: torch.device, loops: bool = False) -> Tensor:
    """Edges of `batch` complete graphs of n nodes: (2, batch*n*(n-1)), source above target.

    The edges of a graph are adjacent, sorted by target: with `loops`, (2, batch*n*n) in the order
    of a flattened (batch, n, n).

    Args:
        batch: how many graphs.
        n: nodes of each.
        device: where the edges are made.
        loops: whether a node has an edge to itself.
    """
    each = n if loops else n - 1
    i = torch.arange(n, device=device).repeat_interleave(each)
    k = torch.arange(n * each, device=device) % max(each, 1)
    j = k if loops else k + (k >= i)  # the sources of target i are all nodes but i
    offset = n * torch.arange(batch, device=device)[:, None, None]
    return (torch.stack([j, i]) + offset).transpose(0, 1).reshape(2, -1)


def to_pyg(episode: Episode, adjacency: Tensor | None = None, k: int | None = None) -> Any:
    """The B graphs of an episode of features as one `torch_geometric.data.Batch` of B*n nodes.

    It does not wait for the GPU. Fields: x (B*n, d), y = label weights (B*n, C), role (B*n,), mask
    (B*n,), edge_index (2, E), edge_weight (E,), ptr, batch; padded nodes are kept: read `mask`.

    Args:
        episode: of features.
        adjacency: (B, n, n) edge weights from j (columns) to i (rows), for `edge_weight`.
        k: only the k heaviest edges into each node, of itself too where its weight is among them,
            so that the number of edges is known in advance. Without it, or without an adjacency,
            all pairs of different nodes are edges, those of weight zero too.
    """
    from torch_geometric.data import Batch

    b, n = episode.x.shape[:2]
    device = episode.x.device
    role = torch.full((n,), UNLABELED, device=device)
    role[episode.support], role[episode.query] = SUPPORT, QUERY
    edges, weight = complete_edges(b, n, device), None
    if adjacency is not None and k is not None:
        heaviest = adjacency.topk(min(k, n), -1)
        target = torch.arange(b * n, device=device)[:, None]
        first_of_graph = target // n * n
        source = heaviest.indices.flatten(0, 1) + first_of_graph
        edges = torch.stack([source, target.expand_as(source)]).flatten(1)
        weight = heaviest.values.flatten()
    elif adjacency is not None:
        weight = adjacency.flatten(0, 1)[edges[1], edges[0] % n]
    batch = Batch(
        batch=torch.arange(b, device=device).repeat_interleave(n),
        ptr=n * torch.arange(b + 1, device=device),
        x=episode.x.flatten(0, 1),
        y=episode.w.flatten(0, 1),
        role=role.repeat(b),
        mask=episode.mask.flatten(),
        edge_index=edges,
    )
    if weight is not None:
        batch.edge_weight = weight
    return batch


def from_pyg(batch: Any, episode: Episode) -> Episode:
    """The episode with the node features of `batch`, the inverse of `to_pyg`."""
    return episode.replace(x=batch.x.unflatten(0, episode.x.shape[:2]))


def similarity(x: Tensor) -> Tensor:
    """How alike nodes are, without self-loops: exp(-d_ij^2 / median of d^2), (B, n, n)."""
    d, mask = squared_euclidean(x, x), x.new_ones(x.shape[:2], dtype=torch.bool)
    return torch.exp(-d / median_distance(d, mask)).masked_fill(~pairs(mask), 0)


def to_networkx(
    episode: Episode,
    adjacency: Tensor,
    i: int = 0,
    scores: Tensor | None = None,
    target: Tensor | None = None,
) -> nx.DiGraph:
    """Task i as a graph of networkx: real nodes with their edges of weight above zero.

    A node has role, label (its class column where the label is visible, else None), prediction,
    confidence and truth; an edge has weight.

    Args:
        episode: of B tasks of n nodes.
        adjacency: (B, n, n) weight of the edge from j (columns) to i (rows).
        i: which task.
        scores: (B, n, C), for the predictions.
        target: (B, n) the true class columns, negative = unknown.
    """
    a = adjacency[i].detach().cpu()
    w = episode.w[i].detach().cpu()
    real = episode.mask[i].cpu().nonzero().squeeze(1).tolist()
    graph = nx.DiGraph()
    for v in real:
        label = int(w[v].argmax()) if w[v].sum() > 0 else None
        facts = {"role": ROLES[_role(episode, v)], "label": label}
        graph.add_node(v, **facts, prediction=None, confidence=None, truth=None)
    if scores is not None:
        p = scores[i].detach().cpu().softmax(-1)
        for v in real:
            graph.add_node(v, prediction=int(p[v].argmax()), confidence=float(p[v].max()))
    if target is not None:
        for v in real:
            if (truth := int(target[i, v])) >= 0:
                graph.add_node(v, truth=truth)
    for to, start in (a > 0).nonzero().tolist():
        if to in graph and start in graph:
            graph.add_edge(start, to, weight=float(a[to, start]))
    return graph


def _role(episode: Episode, node: int) -> int:
    """What a node is in its episode: SUPPORT, QUERY or UNLABELED."""
    if node < episode.n_support:
        return SUPPORT
    return QUERY if node < episode.query.stop else UNLABELED
