"""The graph network that asks for a label (active learning): what it may know, and that it asks
once per query.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import Tensor

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
from tests.support.cases import DIM, SHOT, WAY, episodes, unlike_fresh


def world(**options: int) -> tuple[Episode, Target]:
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
    net, (episode, target) = asking(ask), world()
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
    net, (episode, target) = asking(), world()
    nothing = told(net, episode, torch.full_like(target.unlabeled, -1))
    plain = asking(None)
    plain.load_state_dict({k: v for k, v in net.state_dict().items() if "attention" not in k})
    torch.testing.assert_close(nothing, plain(episode))
    assert not torch.allclose(told(net, episode, target.unlabeled), nothing)


def test_no_oracle_is_one_clear_line_and_an_empty_pool_is_none() -> None:
    net, (episode, _) = asking(), world()
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
    (episode, target), other = world(), world()[0]
    both = stack([target.told(episode), target.told(episode).parts(query=False)])
    assert both.oracle is not None and torch.equal(both.oracle[:2], both.oracle[2:])
    with pytest.raises(InputError, match="share a batch"):
        stack([target.told(episode), other])


def test_the_oracle_travels_with_its_nodes() -> None:
    episode, target = world()
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
