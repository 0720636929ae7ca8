"""Meta-Dataset's episodes: sizes, balance of queries, and independence of the batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

import graphfsl as gf
from graphfsl.core.pipeline import Pipeline
from graphfsl.data.split import Split
from graphfsl.data.tasks import as_task
from graphfsl.loops.evaluation import evaluate
from graphfsl.methods.heads.protonet import ProtoNet
from tests.support import ROOT
from tests.support.command import Call
from tests.support.refusal import refused

TASK = {"task": "meta_dataset", "min_way": 3, "max_way": 8, "max_support": 30, "max_query": 4}


def split() -> Split:
    """Features of 12 classes of 5 to 27 samples."""
    counts = torch.arange(12) * 2 + 5
    y = torch.arange(12).repeat_interleave(counts)
    x = torch.nn.functional.one_hot(y, 12).float()
    x += 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    return Split(x, y, tuple(f"c{i}" for i in range(12)), "mine/test")


def draw(numbers: list[int]) -> gf.data.tasks._class_sampler.Draw:
    return as_task(TASK).draws(split(), 0).draw(numbers)


def test_sizes_are_within_the_bounds_and_queries_balanced() -> None:
    found, counts = draw(list(range(200))), split().y.bincount().numpy()
    ways, totals, unequal = set(), [], 0
    for ids, label, classes in zip(found.ids, found.label, found.classes, strict=True):
        way = int((classes >= 0).sum())
        ways.add(way)
        own = classes[:way]
        assert len(set(own)) == way and (classes[way:] == -1).all()
        shots = np.bincount(label[: found.n_support][label[: found.n_support] >= 0], minlength=way)
        queries = label[found.n_support :]
        asked = np.bincount(queries[queries >= 0], minlength=way)
        assert (asked == min(4, counts[own].min() // 2)).all(), "as many queries of every class"
        assert shots.min() >= 1 and shots.sum() <= 30 and (shots + asked <= counts[own]).all()
        real = ids[ids >= 0]
        assert len(set(real)) == len(real), "no sample stands twice"
        totals.append(shots.sum())
        unequal += len(set(shots)) > 1
    assert ways == set(range(3, 9)) and max(totals) > 20 > min(totals) and unequal > 100
    as_task(TASK).check_draw(found, split())


def test_an_episode_does_not_depend_on_its_batch() -> None:
    many, (one,) = draw(list(range(20))), [draw([7])]
    assert (many.classes[7] == one.classes[0]).all()
    for first, last, own in (
        (0, many.n_support, one.ids[0, : one.n_support]),
        (many.n_support, None, one.ids[0, one.n_support :]),
    ):
        wide = many.ids[7, first:last]
        assert (wide[: len(own)] == own).all() and (wide[len(own) :] == -1).all()


def test_learners_answer_them() -> None:
    model = Pipeline(head=ProtoNet())
    found = [evaluate(model, split(), TASK, 12, block=size).accuracies for size in (1, 5)]
    torch.testing.assert_close(*found)
    assert float(found[0].mean()) > 0.95


def test_a_run_of_another_task_is_asked_them(call: Call, tmp_path: Path) -> None:
    """Its own list of settings, of that other task, is left aside."""
    run, out = ROOT / "experiments/results/snell2017_glyphs_5w1s", tmp_path / "e.json"
    asked = "episode={task: meta_dataset, max_way: 6, max_support: 20, max_query: 2}"
    code, told, err = call("evaluate", str(run), asked, "evaluation.episodes=2", "--out", str(out))
    assert code == 0, err
    assert "5- to 6-way, 20 support images at most" in " ".join(told.split())


def test_what_cannot_be_drawn_is_refused() -> None:
    with refused("min_way"):
        as_task({"task": "meta_dataset", "min_way": 20, "max_way": 10})
    with refused("has 12 classes", "min_way is 20"):
        as_task({"task": "meta_dataset", "min_way": 20}).draws(split(), 0)
    few = Split(torch.zeros(5, 2), torch.tensor([0, 0, 1, 1, 2]), ("a", "b", "c"), "few/test")
    with refused("'c' has 1 images", "min_samples=2"):
        as_task({"task": "meta_dataset", "min_way": 2}).draws(few, 0)
