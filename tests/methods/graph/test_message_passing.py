"""Message passing against PyG's own layers on plain edge lists."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from graphfsl.core.episode import Episode
from graphfsl.core.pipeline import Pipeline
from graphfsl.io.errors import InputError
from graphfsl.methods.graph.message_passing import DENSE, MessagePassing
from graphfsl.methods.heads.protonet import ProtoNet
from graphfsl.testing import DIM, episodes
from tests.support.episodes import features, padded_features

CONVS = [
    *(
        "GCNConv",
        "SAGEConv",
        "GATConv",
        "GATv2Conv",
        "GINConv",
        "TransformerConv",
        "ChebConv",
        "APPNP",
        "GraphConv",
    ),
    *("TAGConv", "SGConv", "ARMAConv", "LEConv", "ResGatedGraphConv", "MFConv", "GeneralConv"),
]


@pytest.mark.parametrize("name", CONVS)
def test_a_convolution_answers_as_pygs_layer_does_on_a_list_of_edges(name: str) -> None:
    episode = features()
    part = MessagePassing(
        DIM, name, layers=2, hidden=8, residual=False, adjacency={"kind": "rbf", "k": 3}
    ).double()
    found = part(episode).x
    a = part.adjacency(episode)
    for b in range(2):
        target, source = a[b].nonzero().T
        weight = a[b][target, source]
        if part.loops:
            itself = torch.arange(a.shape[1])
            target, source = torch.cat([target, itself]), torch.cat([source, itself])
            weight = torch.cat([weight, torch.ones(a.shape[1]).double()])
        edges, x = torch.stack([source, target]), episode.x[b]
        for i, conv in enumerate(part.convs):
            x = conv(x, edges, edge_weight=weight) if part.weighted else conv(x, edges)
            x = x.relu() if i == 0 else x
        torch.testing.assert_close(found[b], x)


@pytest.mark.parametrize("name", DENSE)
@pytest.mark.parametrize("residual", [False, True])
def test_dense_equals_sparse(name: str, residual: bool) -> None:
    options = {"layers": 2, "residual": residual, "adjacency": {"kind": "rbf", "k": 3}}
    sparse = MessagePassing(DIM, name, **options).double()
    dense = MessagePassing(DIM, name, dense=True, **options).double()
    theirs = sparse.state_dict()
    names = {
        "lin_rel.weight": "lin_l.weight",
        "lin_root.weight": "lin_r.weight",
        "lin_root.bias": "lin_l.bias",
    }
    sage = names if name == "SAGEConv" else {}
    for key, weight in dense.state_dict().items():
        layer, rest = key.split(".", 2)[:2], key.split(".", 2)[2]
        weight.copy_(theirs[".".join([*layer, sage.get(rest, rest)])].view_as(weight))
    episode = padded_features()
    found, expected = dense(episode).x, sparse(episode).x
    torch.testing.assert_close(found[episode.mask], expected[episode.mask])


class Directed(nn.Module):
    """Edge weights (B, n, n) from j (columns) to i (rows), half of which are zero: not those from i
    to j.
    """

    learns = False

    def forward(self, episode: Episode) -> Tensor:
        b, n = episode.x.shape[:2]
        a = torch.rand(b, n, n, generator=torch.Generator().manual_seed(0), dtype=episode.x.dtype)
        return a.where(a > 0.5, 0)


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("name", ["GraphConv", "SAGEConv"])
def test_a_message_goes_from_a_column_to_a_row(name: str, dense: bool) -> None:
    """Row i of A gathers: with the sum of GraphConv, A x; with the mean of SAGEConv, that over the
    row's edges.
    """
    episode, part = features(), MessagePassing(DIM, name, residual=False, dense=dense).double()
    part.adjacency = Directed()  # type: ignore[assignment]
    conv, a = part.convs[0], part.adjacency(episode)
    if name == "GraphConv":
        expected = conv.lin_rel(a @ episode.x) + conv.lin_root(episode.x)
    else:
        gather, own = (conv.lin_rel, conv.lin_root) if dense else (conv.lin_l, conv.lin_r)
        edges = (a > 0).double()
        expected = gather(edges @ episode.x / edges.sum(-1, keepdim=True)) + own(episode.x)
    torch.testing.assert_close(part(episode).x, expected)


def test_no_layer_changes_nothing_and_a_residual_one_adds_its_input() -> None:
    episode = features()
    assert torch.equal(MessagePassing(DIM, layers=0).double()(episode).x, episode.x)
    part = MessagePassing(DIM).double()
    for p in part.parameters():
        torch.nn.init.zeros_(p)
    assert torch.equal(part(episode).x, episode.x)


def test_it_is_equivariant_to_the_order_of_nodes() -> None:
    episode, order = features(), torch.randperm(18)
    part = MessagePassing(DIM, "GATConv", layers=2, adjacency={"kind": "cosine", "k": 4}).double()
    turned = part(episode.replace(x=episode.x[:, order], w=episode.w[:, order]))
    torch.testing.assert_close(turned.x, part(episode).x[:, order])


def test_a_learned_adjacency_learns_through_the_convolution() -> None:
    for adjacency in ("learned", {"kind": "rbf", "scale": "learned"}):
        part = MessagePassing(DIM, adjacency=adjacency)
        model = Pipeline(graph=part, head=ProtoNet())
        episode, target = episodes()
        model.loss(episode.replace(x=episode.x.flatten(2)[..., :DIM]), target).backward()
        assert all(
            p.grad is not None and p.grad.abs().sum() > 0
            for n, p in part.named_parameters()
            if n[-4:] != "bias"
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"conv": "GCNCon"}, "did you mean 'GCNConv'"),
        ({"conv": "GATConv", "adjacency": "learned"}, "reads no edge weights"),
        ({"conv": "ChebConv", "dense": True}, "no dense ChebConv"),
        ({"conv": "GCN2Conv"}, "also reads x_0"),
        ({"conv": "GATConv", "options": {"head": 4}}, "did you mean 'heads'"),
        ({"conv": "PNAConv"}, "needs 'aggregators'"),
        ({"adjacency": "rbff"}, "did you mean 'rbf'"),
        ({"adjacency": {"kind": "rbf", "scale": "mean"}}, "'median' or 'learned'"),
        ({"adjacency": {"kind": "rbf", "scal": 3}}, "did you mean 'scale'"),
        ({"adjacency": {"kind": "rbf", "k": 0}}, "k must be 1 or more"),
        ({"adjacency": {"normalize": "col"}}, "normalize of adjacency"),
    ],
)
def test_mistakes_are_named(options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        MessagePassing(DIM, **options)
