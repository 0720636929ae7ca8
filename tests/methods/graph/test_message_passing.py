"""Adjacencies and message passing against loops and against PyG's own layers on plain edge
lists.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from graphfsl.core.episode import Episode, stack
from graphfsl.core.graph import complete_edges, from_pyg, similarity, to_pyg
from graphfsl.core.pipeline import Pipeline
from graphfsl.io.errors import InputError
from graphfsl.methods.graph.message_passing import DENSE, MessagePassing
from graphfsl.methods.heads.protonet import ProtoNet
from graphfsl.nn.adjacency import Adjacency, make_adjacency
from tests.support.cases import DIM, WAY, episodes

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


@pytest.fixture(autouse=True)
def _one_seed() -> None:
    torch.manual_seed(0)


def features(**options: int) -> Episode:
    """An episode of features (B, n, DIM) in float64."""
    episode, _ = episodes(**options)
    return episode.replace(x=episode.x.flatten(2)[..., :DIM].double(), w=episode.w.double())


def padded() -> Episode:
    return stack([features(batch=1, shot=1, query=1, unlabeled=1), features(batch=1, seed=1)])


def rows(a: Tensor) -> list[list[list[float]]]:
    return a.tolist()


@pytest.mark.parametrize("scale", ["median", 1.5, "learned"])
def test_rbf_equals_a_loop(scale: float | str) -> None:
    episode, adjacency = padded(), Adjacency(DIM, "rbf", scale).double()
    found = adjacency(episode)
    for b in range(2):
        real = episode.mask[b].nonzero().squeeze(1).tolist()
        x = episode.x[b]
        distance = {
            (i, j): float((x[i] - x[j]).square().sum()) for i in real for j in real if i != j
        }
        middle = sorted(distance.values())[(len(distance) - 1) // 2]
        for i in range(len(x)):
            for j in range(len(x)):
                if (i, j) not in distance:
                    expected = 0.0
                elif scale == "median":
                    expected = math.exp(-distance[i, j] / middle)
                elif scale == "learned":
                    assert adjacency.sigma is not None
                    difference = x[i] / adjacency.sigma(x[i]) - x[j] / adjacency.sigma(x[j])
                    expected = math.exp(-0.5 * float(difference.detach().square().mean()))
                else:
                    expected = math.exp(-distance[i, j] / (2 * 1.5**2))
                assert found[b, i, j].item() == pytest.approx(expected, abs=1e-9)


def test_cosine_and_learned_weights() -> None:
    episode = padded()
    cosine, learned = (
        Adjacency(DIM, "cosine", power=2.0).double(),
        Adjacency(DIM, "learned").double(),
    )
    x = episode.x[1]
    expected = max(0.0, float(torch.cosine_similarity(x[0], x[3], 0))) ** 2
    assert cosine(episode)[1, 0, 3].item() == pytest.approx(expected)
    a = learned(episode)
    assert learned.psi is not None
    psi = [
        learned.psi((x[2] - x[j]).abs()) if j != 2 else torch.tensor([-1e9]) for j in range(len(x))
    ]
    torch.testing.assert_close(a[1, 2], torch.cat([p.double() for p in psi]).softmax(0))
    torch.testing.assert_close(a.sum(-1), episode.mask.double()), "rows of real nodes sum to one"


@pytest.mark.parametrize(
    "options", [{}, {"k": 2}, {"k": 2, "mutual": True}, {"normalize": "symmetric"}], ids=str
)
@pytest.mark.parametrize("kind", ["rbf", "cosine", "complete", "learned"])
def test_neither_padding_nor_a_node_itself_is_a_neighbour(kind: str, options: dict) -> None:
    episode = padded()
    a = Adjacency(DIM, kind, labels=kind == "rbf", **options).double()(episode)
    assert (a >= 0).all() and not a.diagonal(dim1=-2, dim2=-1).any()
    assert not a[~episode.mask].any() and not a.mT[~episode.mask].any()
    if options.get("k"):
        assert torch.equal(a > 0, a.mT > 0), "of either end, or of both: symmetric"
        assert not options.get("mutual") or ((a > 0).sum(-1) <= 2).all()
    alone = Adjacency(DIM, kind, **options).double()
    small = features(batch=1, shot=1, query=1, unlabeled=1)
    real = episode.mask[0]
    if not options.get("k"):  # with ties of weight zero any of them may be among the k
        torch.testing.assert_close(alone(episode)[0][real][:, real], alone(small)[0])


def test_labels_join_classes_and_part_others() -> None:
    episode = features()
    a = Adjacency(DIM, "rbf", labels=True).double()(episode)
    plain = Adjacency(DIM, "rbf").double()(episode)
    y = episode.w[0, episode.support].argmax(-1)
    for i in range(episode.n_support):
        for j in range(episode.n_support):
            assert a[0, i, j] == (1.0 if i != j and y[i] == y[j] else 0.0)
    assert torch.equal(a[:, episode.query], plain[:, episode.query]), "a query's label is not known"


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
    episode = padded()
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
    part.adjacency = Directed()
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


def test_similarity_is_one_half_in_the_logarithm_of_the_median() -> None:
    x = features().x
    assert similarity(x).flatten(1).median(1).values.max() < math.exp(-0.9)
    torch.testing.assert_close(
        similarity(x), Adjacency(DIM, "rbf").double()(Episode(x, torch.ones(2, 18, 3), 6, 6))
    )


def test_similarity_equals_a_loop() -> None:
    x = features(batch=1).x
    n = x.shape[1]
    d = {
        (i, j): float((x[0, i] - x[0, j]).square().sum())
        for i in range(n)
        for j in range(n)
        if i != j
    }
    middle = sorted(d.values())[(len(d) - 1) // 2]
    expected = torch.tensor(
        [[math.exp(-d[i, j] / middle) if i != j else 0.0 for j in range(n)] for i in range(n)]
    )
    torch.testing.assert_close(similarity(x)[0], expected.double(), atol=1e-6, rtol=1e-6)
