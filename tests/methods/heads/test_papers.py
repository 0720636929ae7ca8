"""What heads do in training, and what papers state of them, beside the authors' networks in dense
form.
"""

from __future__ import annotations

import inspect
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphfsl.core import registry
from graphfsl.core.episode import Episode, stack
from graphfsl.core.learner import Head
from graphfsl.core.pipeline import Pipeline
from graphfsl.functional.distances import squared_euclidean
from graphfsl.methods.adapt.maml import MAML
from graphfsl.methods.heads.gnn import GNN
from graphfsl.methods.heads.linear import Linear
from graphfsl.methods.heads.nearest_neighbor import NearestNeighbor
from graphfsl.methods.heads.protonet import ProtoNet
from graphfsl.methods.heads.relationnet import RelationNet
from graphfsl.methods.heads.simple_shot import SimpleShot
from tests.support.cases import DIM, WAY, episodes, unlike_fresh


def features(**options: int) -> Episode:
    """Features of length DIM, in double precision."""
    episode, _ = episodes(**options)  # type: ignore[arg-type]
    x = episode.x.flatten(2)[..., :DIM].double()
    return episode.replace(x=x, w=episode.w.double(), relabeled=episode.relabeled)


@pytest.mark.parametrize(
    "head", [ProtoNet(), NearestNeighbor(), SimpleShot(DIM, "un")], ids=lambda h: type(h).__name__
)
def test_a_common_offset_changes_no_answer_in_single_precision(head: Head) -> None:
    """A table whose columns lie a thousand standard deviations from zero, with an absent class;
    exact: double.
    """
    plain = features(shot=1, unlabeled=0)
    w = F.pad(plain.w, (0, 1))
    exact = head(plain.replace(w=w, relabeled=False))
    far = plain.replace(x=(plain.x + 1000 * plain.x.std()).float(), w=w.float(), relabeled=False)
    found = head(far)
    assert bool((found[..., -1] == -math.inf).all())
    torch.testing.assert_close(found[..., :-1], exact[..., :-1].float(), atol=2e-3, rtol=2e-3)


def test_distances_keep_their_gradient() -> None:
    a, b = (
        torch.randn(2, 5, 4).double().requires_grad_(),
        torch.randn(2, 3, 4).double().requires_grad_(),
    )
    torch.autograd.gradcheck(squared_euclidean, (a, b))
    torch.autograd.gradgradcheck(squared_euclidean, (a, b))
    with torch.no_grad():
        torch.testing.assert_close(
            squared_euclidean(a, b), (a[:, :, None] - b[:, None]).square().sum(-1)
        )
        empty = squared_euclidean(a, b[:, :0])
        assert empty.shape == (2, 5, 0)


def test_linear_scores_no_absent_class() -> None:
    episode = features()
    w = episode.w.clone()
    w[..., 1] = 0
    scores = Linear(DIM, WAY).double().score(episode.replace(w=w))
    assert bool((scores[..., 1] == -math.inf).all()) and bool(scores[..., [0, 2]].isfinite().all())
    adapted = MAML(Pipeline(head=Linear(DIM, WAY)).double(), steps=2)
    assert bool(adapted(episode.replace(w=w))[..., [0, 2]].isfinite().all())


def test_maml_begins_with_a_row_of_its_paper() -> None:
    """Omniglot, 5-way: one inner step of 0.4 on the sum over the support, divided by the shots."""
    maml = MAML(Pipeline(head=Linear(DIM, WAY)))
    assert (maml.steps, maml.rule.lr, maml.first_order) == (1, 0.4, False)  # type: ignore[attr-defined]


def test_relationnet_begins_as_the_authors_does() -> None:
    torch.manual_seed(0)
    head = RelationNet((64, 8, 8), width=256, hidden=512)
    for conv in (head.support_conv, head.query_conv, head.second_conv):
        assert float(conv.weight.std()) == pytest.approx(math.sqrt(2 / (9 * 256)), rel=0.01)
        assert conv.bias is None or not bool(conv.bias.any())
    for layer in (head.linear[0], head.linear[2]):
        assert float(layer.weight.std()) == pytest.approx(0.01, rel=0.1) and bool(
            (layer.bias == 1).all()
        )


PUBLISHED: dict[str, dict[str, Any]] = {
    "head/baseline": {"epochs": 100, "batch": 4, "lr": 0.01, "momentum": 0.9, "decay": 0.001},
    "head/baseline_plus_plus": {
        "epochs": 100,
        "batch": 4,
        "lr": 0.01,
        "momentum": 0.9,
        "decay": 0.001,
        "scale": 2,
    },
    "head/label_propagation": {"k": 20, "alpha": 0.99},
    "head/meta_baseline": {"scale": 10},
    "head/metaoptnet": {"C": 0.1, "scale": 1},
    "head/protonet": {"distance": "sqeuclidean"},
    "head/r2d2": {"lamda": 50, "alpha": 10},
    "head/relationnet": {"loss": "mse", "shots": "sum"},
    "head/rfs": {"C": 1, "normalize": True},
    "head/simple_shot": {"transform": "cl2n"},
    "head/tpn": {"k": 20, "alpha": 0.99},
    "head/wdae": {"k": 10, "temperature": 5, "noise": 0.08, "dropout": 0.7},
    "adapt/fine_tuning": {"steps": 25, "lr": 5e-5, "entropy": 1},
    "adapt/flexmatch": {"threshold": 0.95, "weight": 1, "flexible": True},
    "adapt/transmatch": {"temperature": 0.5, "alpha": 0.75, "lambda_u": 5, "views": 2},
    "graph/embedding_propagation": {"alpha": 0.5},
    "pretrain/consistency": {"threshold": 0.95, "weight": 1},
    "pretrain/cross_entropy": {"classifier": "linear", "scale": 10},
    "pretrain/distillation": {"alpha": 0.5, "beta": 0.5, "temperature": 4},
    "pretrain/simclr": {"temperature": 0.5},
    "refine/alpha_tim": {
        "steps": 1000,
        "lr": 1e-4,
        "temperature": 15,
        "cross_entropy": 1,
        "marginal": 1,
    },
    "refine/bd_cspn": {"most": 8, "over": "nodes"},
    "refine/ilpc": {"k": 15, "alpha": 0.8, "tau": 3},
    "refine/laplacian_shot": {"k": 3, "steps": 20},
    "refine/masked_soft_kmeans": {"steps": 1, "hidden": 20},
    "refine/plcm": {"C": 10},
    "refine/pt_map": {"power": 0.5, "steps": 20, "lam": 10, "alpha": 0.2},
    "refine/soft_kmeans_cluster": {"steps": 1, "radius": 100},
    "refine/tim": {
        "steps": 150,
        "temperature": 15,
        "cross_entropy": 0.1,
        "marginal": 1,
        "conditional": 0.1,
    },
    "refine/transductive_fine_tuning": {"steps": 25, "lr": 5e-5},
}


@pytest.mark.parametrize("method", PUBLISHED)
def test_what_is_not_given_is_as_published(method: str) -> None:
    """The constants that a method's docstring says to be those of its paper or of the authors'
    code.
    """
    parameters = inspect.signature(registry.get(*method.split("/"))).parameters
    assert {name: parameters[name].default for name in PUBLISHED[method]} == PUBLISHED[method]


# The graph network in training


def gnn() -> GNN:
    torch.manual_seed(0)
    return unlike_fresh(GNN(DIM, WAY, hidden=8)).double().train()  # type: ignore[arg-type,return-value]


def dense(head: GNN, episode: Episode) -> Tensor:
    """The authors' network: BatchNorm over all n x n pairs of all graphs, the diagonal too, and
    over all nodes.
    """
    x = torch.cat([episode.x, episode.w], -1)
    n = x.shape[1]
    for i, (edge, conv) in enumerate(zip(head.adjacency, head.convs, strict=True)):
        psi = (x[:, :, None] - x[:, None]).abs()
        for linear, norm in zip(edge.linears, edge.norms, strict=True):
            psi = F.leaky_relu(normalised(linear(psi), norm), 0.01)
        a = edge.last(psi)[..., 0].masked_fill(torch.eye(n, dtype=torch.bool), -1e8).softmax(-1)
        y = normalised(conv.linear(torch.cat([x, a @ x], -1)), conv.norm)
        x = torch.cat([x, F.leaky_relu(y, 0.01)], -1) if i < 2 else y
    return x


def normalised(y: Tensor, norm: nn.BatchNorm2d) -> Tensor:
    dims = tuple(range(y.ndim - 1))
    mean, var = y.mean(dims), y.var(dims, correction=0)
    return (y - mean) / (var + norm.eps).sqrt() * norm.weight + norm.bias


def test_gnn_trains_as_the_authors_network() -> None:
    head, episode = gnn(), features(query=1)
    torch.testing.assert_close(head.score(episode), dense(head, episode), atol=1e-9, rtol=1e-9)


def test_padding_enters_no_statistics_of_the_gnn() -> None:
    """Beside a larger task, and beside padding in its own mask: the training scores of real nodes,
    and the averages.
    """
    small = features(batch=2, shot=1, query=1, unlabeled=0)
    filled = stack([small, features(batch=1, shot=2, query=1, unlabeled=0)]).parts()
    rows = replace(filled, x=filled.x[:2], w=filled.w[:2], mask=filled.mask[:2])
    alone, padded = gnn(), gnn()
    expected, found = alone.score(small), padded.score(rows)
    torch.testing.assert_close(found[rows.mask], expected.flatten(0, 1), atol=1e-9, rtol=1e-9)
    for a, b in zip(alone.buffers(), padded.buffers(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-9)


def test_a_told_label_is_added_where_labels_stand() -> None:
    """One, in the asked node's label field, right behind its features; nothing else moves."""
    episode = features(query=1, unlabeled=1)
    episode = episode.one_query_each()
    oracle = (
        F.one_hot(torch.arange(episode.n_unlabeled) % WAY, WAY)
        .double()
        .expand(len(episode.x), -1, -1)
    )
    head = GNN(DIM, WAY, hidden=8, ask="random").double().eval()
    x = torch.randn(*episode.x.shape[:2], DIM + WAY + 4).double()
    moved = head.informed(x, episode.replace(oracle=oracle, w=episode.w)) - x
    first = episode.unlabeled.start
    torch.testing.assert_close(moved[:, first, DIM : DIM + WAY], oracle[:, 0])
    moved[:, first, DIM : DIM + WAY] = 0
    assert not bool(moved.any())
