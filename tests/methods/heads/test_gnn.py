"""The graph network of Garcia and Bruna: dense equations, training, asking for a label."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as F

from graphfsl import build, evaluate
from graphfsl.apply.explain.explain_run import write_explanation
from graphfsl.core.episode import Episode, Target, stack
from graphfsl.core.pipeline import Pipeline
from graphfsl.data import Episodes, Split
from graphfsl.experiment.experiment import Experiment
from graphfsl.experiment.runner import run
from graphfsl.io.errors import InputError
from graphfsl.loops.trainer import Trainer
from graphfsl.methods.adapt.maml import MAML
from graphfsl.methods.heads.gnn import GNN
from graphfsl.testing import DIM, SHOT, WAY, episodes, learner, unlike_fresh
from tests.support.episodes import features


def gnn() -> GNN:
    torch.manual_seed(0)
    return GNN(DIM, WAY, hidden=8).double().eval()


def dense_gnn(head: GNN, episode: Episode) -> Tensor:
    """The same network with dense (n, n) adjacency, written from the equations."""
    out = []
    for b in range(len(episode.x)):
        x = torch.cat([episode.x[b], episode.w[b]], -1)
        for i, (edge, conv) in enumerate(zip(head.adjacency, head.convs, strict=True)):
            psi = (x[:, None] - x[None]).abs()
            for linear, norm in zip(edge.linears, edge.norms, strict=True):
                y = psi @ linear.weight.T
                y = (y - norm.running_mean) / (
                    norm.running_var + norm.eps
                ).sqrt() * norm.weight + norm.bias
                psi = F.leaky_relu(y, 0.01)
            a = (psi @ edge.last.weight.T + edge.last.bias)[..., 0]
            a = torch.softmax(a - 1e8 * torch.eye(len(x)), -1)
            assert torch.allclose(a.sum(-1), torch.ones(len(x)).double()) and not a.diagonal().any()
            y = torch.cat([x, a @ x], -1) @ conv.linear.weight.T
            n = conv.norm
            y = (y - n.running_mean) / (n.running_var + n.eps).sqrt() * n.weight + n.bias
            x = torch.cat([x, F.leaky_relu(y, 0.01)], -1) if i < 2 else y
        out.append(x)
    return torch.stack(out)


def test_gnn_equals_dense_equations() -> None:
    head, episode = gnn(), features(query=1)
    torch.testing.assert_close(head.score(episode), dense_gnn(head, episode), atol=1e-9, rtol=1e-9)


def test_gnn_is_equivariant_to_node_order() -> None:
    head, episode = gnn(), features()
    order = torch.randperm(episode.x.shape[1], generator=torch.Generator().manual_seed(1))
    turned = episode.replace(x=episode.x[:, order], w=episode.w[:, order])
    torch.testing.assert_close(
        head.score(turned), head.score(episode)[:, order], atol=1e-9, rtol=1e-9
    )


def test_gnn_pipeline_uses_one_graph_per_query() -> None:
    model = learner(head="gnn").eval()
    assert model.per_query and not model.transductive
    shared = Pipeline(model.encoder, head=model.head, per_query=False)
    assert shared.transductive
    assert GNN(DIM, WAY).convs[0].linear.in_features == 2 * (DIM + WAY)
    assert [c.linear.out_features for c in GNN(DIM, WAY).convs] == [48, 48, WAY]
    with pytest.raises(InputError, match="tied to 3-way"):
        model(episodes(way=4)[0])


def gnn_in_training() -> GNN:
    torch.manual_seed(0)
    return unlike_fresh(GNN(DIM, WAY, hidden=8)).double().train()  # type: ignore[arg-type,return-value]


def dense_gnn_in_training(head: GNN, episode: Episode) -> Tensor:
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
    head, episode = gnn_in_training(), features(query=1)
    torch.testing.assert_close(
        head.score(episode), dense_gnn_in_training(head, episode), atol=1e-9, rtol=1e-9
    )


def test_padding_enters_no_statistics_of_the_gnn() -> None:
    """Beside a larger task, and beside padding in its own mask: the training scores of real nodes,
    and the averages.
    """
    small = features(batch=2, shot=1, query=1, unlabeled=0)
    filled = stack([small, features(batch=1, shot=2, query=1, unlabeled=0)]).parts()
    rows = replace(filled, x=filled.x[:2], w=filled.w[:2], mask=filled.mask[:2])
    alone, padded = gnn_in_training(), gnn_in_training()
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


def with_pool(**options: int) -> tuple[Episode, Target]:
    episode, target = episodes(**{"unlabeled": 3, **options})
    return episode.replace(
        x=episode.x.flatten(2)[..., :DIM].double(), w=episode.w.double(), relabeled=False
    ), target


def asking(ask: str | None = "attention") -> Pipeline:
    torch.manual_seed(0)
    return unlike_fresh(Pipeline(head=GNN(DIM, WAY, hidden=8, ask=ask))).double().eval()  # type: ignore[return-value]


def told(net: Pipeline, episode: Episode, y: Tensor) -> Tensor:
    """Answers (B, Q, C) where the pool's labels are y (B, U)."""
    target = Target(*[torch.zeros(0)] * 1, y, *[torch.zeros(0)] * 2)  # type: ignore[call-arg]
    return net(target.told(episode))


@pytest.mark.parametrize("ask", ["attention", "random"])
def test_each_query_asks_for_one_label(ask: str) -> None:
    """Of every query, exactly one pool label changes the answer: the one that the equations
    choose.
    """
    net, (episode, target) = asking(ask), with_pool()
    answers = told(net, episode, target.unlabeled)
    changed = []
    for u in range(episode.n_unlabeled):
        other = target.unlabeled.clone()
        other[:, u] = (other[:, u] + 1) % WAY
        changed.append((told(net, episode, other) != answers).any(-1))
    assert (torch.stack(changed).sum(0) == 1).all()
    if ask == "random":
        assert changed[0].all()
    else:
        head = net.head
        assert isinstance(head, GNN) and head.attention is not None
        alone = episode.one_query_each()
        x = torch.cat([alone.x, alone.w], -1)
        seen: list[Tensor] = []
        head.convs[0].register_forward_hook(lambda m, i, y: seen.append(y))
        net(target.told(episode))
        x = torch.cat([x, torch.nn.functional.leaky_relu(seen[0]).unflatten(0, x.shape[:2])], -1)
        for row, wanted in enumerate(torch.stack(changed).flatten(1).T.float().argmax(-1).tolist()):
            query = x[row, alone.n_support]
            a = [
                (head.attention.weight[0] * (x[row, j] - query) ** 2).sum()
                for j in range(alone.n_support + 1, x.shape[1])
            ]
            assert int(torch.stack(a).argmax()) == wanted


def test_a_label_of_a_class_speaks_for_it() -> None:
    """An oracle that names a distractor, or that knows nothing, adds no label."""
    net, (episode, target) = asking(), with_pool()
    nothing = told(net, episode, torch.full_like(target.unlabeled, -1))
    plain = asking(None)
    plain.load_state_dict({k: v for k, v in net.state_dict().items() if "attention" not in k})
    torch.testing.assert_close(nothing, plain(episode))
    assert not torch.allclose(told(net, episode, target.unlabeled), nothing)


def test_no_oracle_is_one_clear_line_and_an_empty_pool_is_none() -> None:
    net, (episode, _) = asking(), with_pool()
    with pytest.raises(InputError, match="known labels"):
        net(episode)
    bare = episode.parts(unlabeled=False)
    plain = asking(None)
    plain.load_state_dict({k: v for k, v in net.state_dict().items() if "attention" not in k})
    torch.testing.assert_close(net(bare), plain(bare))
    for wrong in ({"ask": "all"}, {"ask": "random", "layers": 1}):
        with pytest.raises(InputError, match="must be attention or random"):
            GNN(DIM, WAY, **wrong)


def test_who_asks_is_told_apart_and_refused_where_there_is_nothing_to_ask(tmp_path: Path) -> None:
    config = {
        "data": {"name": "glyphs"},
        "learner": {
            "encoder": {"name": "conv4", "width": 4},
            "head": {"name": "gnn", "ask": "random", "hidden": 4},
        },
        "episode": {"way": 3, "shot": 1, "query": 1, "unlabeled": 2},
        "trainer": {"steps": 1, "val_episodes": 2},
        "evaluation": {"episodes": 2},
    }
    (row,) = run(Experiment.of(config), tmp_path / "asks", Console(quiet=True))
    assert row.setting == "active" and "asks" in row.traits
    with pytest.raises(InputError, match="labeled_fraction withholds"):
        run(
            Experiment.of(config | {"train_episode": {"labeled_fraction": 0.5}}),
            tmp_path / "withheld",
            Console(quiet=True),
        )
    with pytest.raises(InputError, match="cannot be adapted"):
        MAML(asking())
    with pytest.raises(InputError, match="not explained"):
        write_explanation(tmp_path / "asks", ["episode.unlabeled=2"])
    (episode, target), other = with_pool(), with_pool()[0]
    both = stack([target.told(episode), target.told(episode).parts(query=False)])
    assert both.oracle is not None and torch.equal(both.oracle[:2], both.oracle[2:])
    with pytest.raises(InputError, match="share a batch"):
        stack([target.told(episode), other])


def test_the_oracle_travels_with_its_nodes() -> None:
    episode, target = with_pool()
    e = target.told(episode)
    assert e.oracle is not None and torch.equal(e.oracle.argmax(-1), target.unlabeled)
    assert e.parts(unlabeled=False).oracle is None and torch.equal(
        e.parts(query=False).oracle, e.oracle
    )
    assert torch.equal(
        e.one_query_each().oracle[: e.n_query], e.oracle[:1].expand(e.n_query, -1, -1)
    )
    assert e.to(dtype=torch.float32).oracle.dtype == torch.float32
    more = e.add_support(e.x[:, :1], e.w[:, :1], e.mask[:, :1])
    assert more.oracle is e.oracle
    names = {f.name for f in dataclasses.fields(Episode)}
    assert "oracle" in names and episode.oracle is None


def test_learning_to_ask_reaches_the_attention_and_evaluation_repeats() -> None:
    torch.manual_seed(0)
    y = torch.arange(12).repeat_interleave(20)
    means = torch.randn(12, 8)
    split = Split(
        means[y] + 0.3 * torch.randn(len(y), 8), y, tuple(map(str, range(12))), "clouds/train"
    )
    learner = build({"head": {"name": "gnn", "ask": "attention", "hidden": 16}}, (8,), way=WAY)
    setting = {"way": WAY, "shot": SHOT, "query": 3, "unlabeled": 3}
    before = learner.head.attention.weight.clone()
    Trainer(steps=2, batch=2, lr=1e-2, device="cpu").fit(learner, Episodes(split, **setting))
    assert not torch.equal(before, learner.head.attention.weight)
    one, two = (evaluate(learner, split, episodes=10, **setting).accuracies for _ in range(2))
    assert torch.equal(one, two)
