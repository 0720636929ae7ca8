"""Propagation over the graph of each query image's own cells."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import normalize

from graphfsl.core.episode import Episode
from graphfsl.io.errors import InputError
from graphfsl.methods.heads.protonet import ProtoNet
from graphfsl.methods.refine import own_graph
from graphfsl.methods.refine.own_graph import OwnGraph


def cells(queries: int = 2, side: tuple[int, int] = (3, 4)) -> Episode:
    """Two tasks of one support image and some queries, 5 features a cell."""
    n = side[0] * side[1]
    x = torch.randn(2, n * (1 + queries), 5)
    w = torch.zeros(2, n * (1 + queries), 2)
    w[:, :n] = torch.eye(2)[torch.randint(2, (2, n))]
    return Episode(x, w, n, n * queries, relabeled=False, cells=side)


def test_it_is_the_closed_form_on_every_image_by_itself() -> None:
    episode, head = cells(), ProtoNet()
    scores = head.score(episode)
    found = OwnGraph(k=99, alpha=0.7)(episode, scores, head)
    for b in range(2):
        for image in range(1, 3):
            rows = slice(12 * image, 12 * image + 12)
            v = episode.x[b, rows]
            v = normalize(v, dim=-1)
            v = normalize(v - v.mean(0), dim=-1)
            a = (v @ v.T).clamp_min(0) ** 3
            a = a - a.diag().diag()
            root = a.sum(-1).clamp_min(1e-12).sqrt()
            s = a / root[:, None] / root
            p = scores[b, rows].softmax(-1)
            f = torch.linalg.inv(torch.eye(12) - 0.7 * s) @ p
            right = (f / f.sum(-1, keepdim=True)).log()
            torch.testing.assert_close(found[b, rows], right, atol=1e-4, rtol=1e-4)
    assert torch.equal(found[:, :12], scores[:, :12])


def test_a_large_image_has_a_sparse_graph_with_the_same_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    episode, head = cells(side=(8, 9)), ProtoNet()
    scores = head.score(episode)
    part = OwnGraph(k=6)
    dense = part(episode, scores, head)
    monkeypatch.setattr(own_graph, "DENSE", 10)
    torch.testing.assert_close(part(episode, scores, head), dense, atol=1e-3, rtol=1e-3)


def test_a_query_that_is_one_node_keeps_its_scores() -> None:
    episode = Episode(torch.randn(1, 4, 5), torch.eye(2).repeat(2, 1)[None], 2, 2)
    scores = torch.randn(1, 4, 2)
    assert torch.equal(OwnGraph()(episode, scores, ProtoNet()), scores)


def test_options_outside_their_range_are_one_line() -> None:
    for options in ({"k": 0}, {"alpha": 1.0}):
        with pytest.raises(InputError, match="own_graph"):
            OwnGraph(**options)
