"""Episodes as graphs of PyG and networkx."""

from __future__ import annotations

import pytest
import torch

from graphfsl.core.graph import complete_edges, from_pyg, similarity, to_networkx, to_pyg
from graphfsl.core.pipeline import Pipeline
from graphfsl.methods.heads.protonet import ProtoNet
from graphfsl.nn.adjacency import make_adjacency
from graphfsl.testing import DIM, WAY, episodes
from tests.support.episodes import features


def test_complete_edges_equal_a_loop() -> None:
    edges = complete_edges(2, 4, torch.device("cpu"))
    expected = [
        (4 * b + j, 4 * b + i) for b in range(2) for i in range(4) for j in range(4) if i != j
    ]
    assert list(map(tuple, edges.T.tolist())) == expected


def test_pyg_round_trip() -> None:
    episode = features()
    a = similarity(episode.x)
    batch = to_pyg(episode, a)
    assert torch.equal(from_pyg(batch, episode).x, episode.x)
    assert batch.num_graphs == 2 and batch.ptr.tolist() == [0, 18, 36]
    j, i = batch.edge_index
    graph, local_i, local_j = i // 18, i % 18, j % 18
    assert torch.equal(batch.edge_weight, a[graph, local_i, local_j])
    assert batch.role.view(2, -1)[0].tolist() == [0] * 6 + [1] * 6 + [2] * 6


def test_networkx_shows_what_the_episode_holds() -> None:
    episode, target = episodes()
    episode = episode.replace(x=episode.x.flatten(2))
    a, scores = similarity(episode.x), Pipeline(head=ProtoNet()).score(episode)
    truth = torch.cat([episode.w[:, episode.support].argmax(-1), target.query, target.unlabeled], 1)
    graph = to_networkx(episode, a, 1, scores, truth)
    assert len(graph) == episode.x.shape[1]
    assert [graph.nodes[v]["role"] for v in (0, 6, 12)] == ["support", "query", "unlabeled"]
    assert graph.nodes[0]["label"] == 0 and graph.nodes[6]["label"] is None
    assert graph.nodes[7]["prediction"] == int(scores[1, 7].argmax())
    assert graph.nodes[7]["truth"] == int(target.query[1, 1])
    assert graph.edges[2, 9]["weight"] == pytest.approx(float(a[1, 9, 2]))
    assert not any(u == v for u, v in graph.edges)


def test_to_pyg_holds_the_adjacency_and_comes_back() -> None:
    episode = features()
    a = make_adjacency({"kind": "rbf", "k": 3, "mutual": True}, DIM, "adjacency")(episode)
    batch = to_pyg(episode, a)
    n = episode.x.shape[1]
    for (source, target), weight in zip(
        batch.edge_index.T.tolist(), batch.edge_weight.tolist(), strict=True
    ):
        assert source // n == target // n and weight == a[target // n, target % n, source % n]
    assert torch.equal(from_pyg(batch, episode).x, episode.x)
    assert (
        batch.y.shape == (2 * n, WAY)
        and batch.ptr.tolist() == [0, n, 2 * n]
        and batch.num_graphs == 2
    )
    heaviest = to_pyg(episode, a, k=3)
    assert heaviest.edge_index.shape == (2, 2 * n * 3)
    assert heaviest.edge_weight.sum().item() == pytest.approx(a.sum().item()), (
        "mutual neighbours are at most k"
    )
    again = torch.zeros_like(a)
    source, target = heaviest.edge_index
    again[target // n, target % n, source % n] = heaviest.edge_weight
    assert torch.equal(again, a)


def test_complete_edges_with_loops_are_all_pairs_in_order() -> None:
    edges = complete_edges(2, 3, torch.device("cpu"), loops=True)
    expected = [(3 * b + j, 3 * b + i) for b in range(2) for i in range(3) for j in range(3)]
    assert list(map(tuple, edges.T.tolist())) == expected
