"""Mistakes within a superclass and across: what is measured, and what a training pays for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

import graphfsl as gf
from graphfsl.core.episode import Episode
from graphfsl.core.learner import Learner
from graphfsl.core.protocol import check_protocol
from graphfsl.data.split import Split
from graphfsl.data.tasks.superclasses import Superclasses
from graphfsl.experiment import run as runs
from graphfsl.experiment.experiment import Experiment
from graphfsl.experiment.measure import measure
from graphfsl.io.errors import InputError

NAMES = ("bee", "ant", "cat", "dog", "oak")
PAIRS = "bee,insects\nant,insects\ncat,mammals\ndog,mammals\n"


def split(groups: bool = True) -> Split:
    """Images around a pattern for each class; oak is alone in its superclass."""
    g = torch.Generator().manual_seed(0)
    y = torch.arange(5).repeat_interleave(8)
    x = torch.rand(5, 1, 28, 28, generator=g)[y]
    x = x + 0.2 * torch.randn(40, 1, 28, 28, generator=g)
    of = ("insects", "insects", "mammals", "mammals", "trees") if groups else None
    return Split((255 * x.clamp(0, 1)).byte(), y, NAMES, "mine/test", of)


def batch(**options: Any) -> tuple[Episode, Any]:
    task = Superclasses(**{"way": 5, "shot": 1, "query": 2, **options})
    return gf.Episodes(split(), task).batch([0, 1])


def test_siblings_are_those_of_the_superclasses_given_or_own(tmp_path: Path) -> None:
    file = tmp_path / "graph.csv"
    file.write_text(PAIRS)
    of_groups, of_file = batch(), batch(graph=str(file))
    assert torch.equal(of_groups[1].siblings, of_file[1].siblings)
    parent = {0: "i", 1: "i", 2: "m", 3: "m", 4: "t"}
    for columns, found in zip(of_groups[1].classes.tolist(), of_groups[1].siblings, strict=True):
        wanted = [[parent[c] == parent[d] for d in columns] for c in columns]
        assert found.tolist() == wanted
    # the learner is told neither names nor superclasses, and the episode is that of classes
    plain, _ = gf.Episodes(split(), way=5, shot=1, query=2).batch([0, 1])
    assert of_groups[0].classes is None
    assert torch.equal(of_groups[0].x, plain.x) and torch.equal(of_groups[0].w, plain.w)


def test_metrics_count_mistakes_of_the_right_superclass() -> None:
    episode, target = batch()
    row = target.classes[0].tolist()
    column = {name: row.index(k) for k, name in enumerate(NAMES)}
    answers = {"bee": "ant", "ant": "cat", "cat": "cat", "dog": "bee", "oak": "bee"}
    of_column = {column[a]: column[b] for a, b in answers.items()}
    asked = [of_column[c] for c in target.query[0].tolist()]
    scores = F.one_hot(torch.tensor(asked), 5).float()[None]
    one = target.with_tensors({name: t[:1] for name, t in target.tensors.items()})
    metrics = Superclasses(way=5, shot=1, query=2).metrics
    found = {name: m.value(m.measure(scores, one, episode)) for name, m in metrics.items()}
    assert found["accuracy"] == pytest.approx(1 / 5)
    assert found["superclass accuracy"] == pytest.approx(2 / 5)
    # of bee, ant and dog one is taken for a sibling; oak has none
    assert found["mistakes within superclass"] == pytest.approx(1 / 3)


@pytest.mark.parametrize("head", ["protonet", "relationnet", "maml"])
def test_the_loss_of_any_learner_grows_by_lambda_times_that_of_the_parents(head: str) -> None:
    """Whether it takes cross-entropy, has a loss of its own, or adapts."""
    learner = _learner(head)
    losses = {}
    for weight in (0.0, 1.0, 3.0):
        episode, target = batch(hierarchy=weight)
        losses[weight] = learner.loss(episode, target).item()
    episode, target = batch(hierarchy=1.0)
    with torch.no_grad():
        p = learner(episode).softmax(-1)
    of_parent = target.siblings.gather(1, target.query.unsqueeze(-1).expand_as(p))
    wanted = -(p * of_parent).sum(-1).log().mean().item()
    assert wanted > 0.01
    assert losses[1.0] - losses[0.0] == pytest.approx(wanted, rel=1e-4)
    assert losses[3.0] - losses[0.0] == pytest.approx(3 * wanted, rel=1e-4)


def _learner(head: str) -> Learner:
    torch.manual_seed(0)
    options: dict[str, Any] = {"encoder": {"name": "conv4", "width": 4}, "head": head}
    if head == "maml":
        options |= {"head": "linear", "adapt": {"name": "maml", "steps": 1}}
    # evaluation alone has one loss of an episode, whatever its BatchNorm has seen
    return gf.build(options, (1, 28, 28), 5).eval()


def test_a_learner_whose_loss_is_not_of_queries_is_refused() -> None:
    net = gf.build({"encoder": "conv4", "head": "linear", "adapt": "reptile"}, (1, 28, 28), way=5)
    check_protocol(net, Superclasses())
    with pytest.raises(InputError, match="it would change nothing; set"):
        check_protocol(net, Superclasses(hierarchy=1.0))


def test_a_row_says_that_superclasses_were_used_in_training(tmp_path: Path) -> None:
    experiment = Experiment.of(
        {
            "data": {"name": "glyphs"},
            "learner": {"encoder": {"name": "conv4", "width": 2}, "head": "protonet"},
            "episode": {"way": 5, "query": 1},
            "train_episode": {"task": "superclasses", "hierarchy": 1.0},
            "trainer": {"steps": 1, "val_episodes": 1, "device": "cpu"},
            "evaluation": {"episodes": 1},
        }
    )
    run = runs.train(*runs.prepare(experiment, tmp_path / "r"))
    (row,) = measure(run)
    assert row.task == "classes" and "trained with superclasses" in row.traits


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    own = split(groups=False)
    with pytest.raises(InputError, match="mine/test has no superclasses of its own; set episode"):
        Superclasses().draws(own, 0)
    file = tmp_path / "apart.csv"
    file.write_text("yew,trees\nelm,trees\n")
    with pytest.raises(InputError, match="none of the 5 classes of mine/test is in the class gra"):
        Superclasses(graph=str(file)).draws(own, 0)
    file = tmp_path / "alone.csv"
    file.write_text("bee,insects\ncat,mammals\n")
    with pytest.raises(InputError, match="no two classes of mine/test have a superclass in common"):
        Superclasses(graph=str(file)).draws(own, 0)
    with pytest.raises(InputError, match="hierarchy must be 0 or more"):
        Superclasses(hierarchy=-1.0)
