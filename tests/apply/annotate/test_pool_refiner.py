"""The refiner of a run behind the page: shown where held-out answers say that it betters them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor

import graphfsl as gf
from graphfsl.apply.annotate.pool_model import Label, PoolModel, Predictions
from graphfsl.apply.annotate.pool_refiner import PoolRefiner, folds, refiner_of
from graphfsl.core.pipeline import Pipeline
from tests.support.labelling import picture_pool, served
from tests.support.pools import clusters, few

PARTS = {"head": {"name": "simple_shot", "transform": "l2n"}, "refine": "gated_propagation"}


class Backwards(Pipeline):
    """Takes each class for the least likely one."""

    def score_features(self, episode: Any) -> Tensor:
        return -super().score_features(episode)


def pool_and_labels(each: int) -> tuple[np.ndarray, Predictions, dict[int, Label], np.ndarray]:
    """A pool of four classes, what propagation says of it, its labels, and its classes."""
    x, y = clusters(4, 40, spread=0.9)
    ids, labels = few(y, each, 4)
    known = {int(i): Label(f"c{c}", True) for i, c in zip(ids, labels, strict=True)}
    found = PoolModel(x).predict(known)
    assert found is not None
    return x, found, known, y


def learner() -> Pipeline:
    built = gf.build(PARTS, (16,), way=5)
    assert isinstance(built, Pipeline)
    return built


def test_the_refiner_is_shown_where_it_finds_as_many_answers_again() -> None:
    x, found, labels, y = pool_and_labels(each=6)
    refined = PoolRefiner(learner(), "gates", x).refine(found, labels)
    assert refined is not None
    assert refined.words.startswith("of 24 held-out answers gates finds ")
    shown = refined.predictions
    assert shown is not None and shown.refined and shown.used == 24
    free = np.setdiff1d(np.arange(len(x)), list(labels))
    before, after = ((one.best == y)[free].mean() for one in (found, shown))
    assert after >= before - 0.02
    given = np.array(list(labels))
    assert np.array_equal(shown.best[given], y[given]) and (shown.score[given] == 1).all()
    assert (shown.score[free] <= 1).all() and (shown.best != found.best).any()


def test_propagation_stays_where_the_refiner_finds_fewer_again() -> None:
    x, found, labels, _ = pool_and_labels(each=6)
    wrong = learner()
    wrong.__class__ = Backwards
    refined = PoolRefiner(wrong, "gates", x).refine(found, labels)
    assert refined is not None and refined.predictions is None
    assert "gates finds 0 again, propagation 2" in refined.words

    assert PoolRefiner(wrong, "gates", x).refine(found, labels, lambda: False) is None
    x, found, labels, _ = pool_and_labels(each=2)
    waits = PoolRefiner(learner(), "gates", x).refine(found, labels)
    assert waits is not None and waits.predictions is None
    assert waits.words.endswith("there are 8")


def test_folds_leave_every_class_a_label_and_hold_no_accepted_ones_out() -> None:
    column = np.array([0, 0, 1, 2, 2, 2, 2, 2, 2, 2])
    single = np.array([True, False, True] + 7 * [True])
    fold = folds(column, single)
    assert fold[1] == -1 and fold[2] == -1 and fold[0] >= 0
    for number in range(5):
        assert set(column[fold != number]) == {0, 1, 2}


def test_the_page_says_which_state_it_shows(tmp_path: Path) -> None:
    pool, truth = picture_pool(tmp_path / "in")
    learner().save(tmp_path / "gates")
    with served(tmp_path, pool, run=tmp_path / "gates") as (page, (anna,)):
        classes = [anna.new_class(name) for name in "abcd"]
        anna.label_some(truth, classes, 16)
        assert page.bench.settled()
        told = anna.get("summary")
        assert told["ready"] and "refined: of 1" in told["state"]
        assert "gated_propagation finds" in told["state"]
        anna.label_some(truth, classes, 1)
        assert page.bench.settled()
        assert "Predictions from 17 labels, refined" in anna.get("summary")["state"]
    with served(tmp_path, pool) as (page, (anna,)):
        assert page.bench.settled()
        assert anna.get("summary")["state"].startswith("Predictions from 17 labels, propagated. No")


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ({"head": "protonet"}, "has none that reads a pool"),
        ({**PARTS, "refine": "ilpc"}, "as many samples of every class"),
    ],
)
def test_a_run_whose_refiner_does_not_fit_is_named(tmp_path: Path, parts: Any, says: str) -> None:
    gf.build(parts, (16,), way=5).save(tmp_path / "run")
    refiner, why = refiner_of(tmp_path / "run", np.ones((9, 16), np.float32))
    assert refiner is None and says in why
    gf.build(PARTS, (16,), way=5).save(tmp_path / "gates")
    refiner, why = refiner_of(tmp_path / "gates", np.ones((5001, 16), np.float32))
    assert refiner is None and "holds 5,000 samples at most" in why
