""" "None of these" as an answer: the bound that an evaluation finds, and who uses it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.io import write_png

import graphfsl as gf
from graphfsl.apply.predict import open_run
from graphfsl.experiment import measure as measuring
from graphfsl.experiment.measure import asked_of, measure
from graphfsl.experiment.run import load
from graphfsl.io.errors import InputError
from graphfsl.loops.evaluation import rejection_threshold
from graphfsl.loops.target_statistics import with_target_statistics
from tests.support import ROOT
from tests.support.command import Call

RUN = ROOT / "experiments" / "results" / "snell2017_glyphs_5w1s"
ASKED = [
    "learner.novelty=class_distance",
    "episode.open_classes=5",
    "episode.shot=5",
    "evaluation.episodes=30",
]


def test_the_bound_is_chosen_on_other_classes_and_makes_most_answers_right() -> None:
    lines: list[str] = []
    (row,) = measure(load(RUN), ASKED, lines.append)
    assert row.metric == "AUROC" and row.value.value > 80
    said = next(trait for trait in row.traits if trait.startswith("rejects above"))
    bound = float(said.split()[-1])
    assert 0 < bound + 1 < 1, "minus a cosine"
    found = row.metrics["accuracy with rejection"].value
    known = row.metrics["accuracy"].value
    assert found > 60 > known / 2, "better than never to reject, which has half of the queries"
    assert f"rejects above {said.split()[-1]}" in lines[0]
    (val,) = measure(load(RUN), [*ASKED, "evaluation.split=val"])
    assert "accuracy with rejection" in val.metrics


def test_the_bound_is_that_of_the_network_that_is_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With the averages of the target's images it is chosen with those of its own images."""
    monkeypatch.setattr(measuring, "CHOSEN_ON", 5)
    asked = [*ASKED, "evaluation.episodes=2", "evaluation.target_statistics=true"]
    run = load(RUN)
    (row,) = measure(run, asked)
    split = run.experiment.data.split("val")
    learner = asked_of(run, asked).learner
    learner = with_target_statistics(learner, split, run.transform)
    task = run.experiment.changed(*ASKED[:3]).task
    episodes = gf.Episodes(split, task, run.experiment.evaluation.seed, run.transform.plain())
    right = rejection_threshold(learner, episodes, 5)
    assert f"rejects above {right:.4g}" in row.traits
    assert run.learner.rejects_above is None


def glyphs(classes: range, count: int) -> tuple[torch.Tensor, list[str]]:
    """`count` images of each of some test classes, and their names."""
    split = gf.load_data("glyphs", "test")
    ids = [int(i) for c in classes for i in (split.y == c).nonzero()[:count, 0]]
    return split.x[ids], [split.classes[int(split.y[i])] for i in ids]


def test_a_run_answers_none_of_these() -> None:
    predictor = open_run(RUN, ["learner.novelty=class_distance"])
    known, names = glyphs(range(5), 8)
    strange, _ = glyphs(range(10, 15), 3)
    support: dict[str, list[torch.Tensor]] = {name: [] for name in names}
    for image, name in zip(known, names, strict=True):
        support[name].append(image)
    queries = [image for images in support.values() for image in images[5:]]
    support = {name: images[:5] for name, images in support.items()}
    every = predictor.predict(support, [*queries, *strange], none=1.0)
    assert all(a.label is not None and a.novelty is not None for a in every)
    own, foreign = every[: len(queries)], every[len(queries) :]
    bound = float(np.median([a.novelty for a in every]))
    assert np.mean([a.novelty for a in foreign]) > np.mean([a.novelty for a in own])
    some = predictor.predict(support, [*queries, *strange], none=bound)
    assert [a.label is None for a in some] == [a.novelty > bound for a in every]
    assert [a.probabilities for a in some] == [a.probabilities for a in every]
    plain = predictor.predict(support, queries)
    assert [a.label for a in plain] == [a.label for a in own] and plain[0].novelty is None
    for wrong in ("much", float("nan")):
        with pytest.raises(InputError, match="none must be a number"):
            predictor.predict(support, queries, none=wrong)  # type: ignore[arg-type]


def test_the_estimator_answers_none_of_these() -> None:
    g = np.random.default_rng(0)
    centre = g.normal(size=(4, 6)) * 5
    x, y = centre[[0, 1, 2] * 3] + g.normal(size=(9, 6)), np.array(["a", "b", "c"] * 3)
    asked = np.concatenate([centre[:3], centre[3:]])
    learner = {"head": "protonet", "novelty": {"name": "class_distance", "distance": "euclidean"}}
    model = gf.FewShotClassifier(learner).fit(x, y)
    novelty = model.novelty(asked)
    assert novelty[3] > 5 * novelty[:3].max()
    assert model.predict(asked).tolist()[:3] == ["a", "b", "c"]
    open_model = gf.FewShotClassifier(learner, none=float(novelty[:3].max())).fit(x, y)
    assert open_model.predict(asked).tolist() == ["a", "b", "c", None]
    assert open_model.score(asked, ["a", "b", "c", "a"]) == 0.75, "None is never right"
    np.testing.assert_array_equal(model.predict_proba(asked), open_model.predict_proba(asked))


@pytest.mark.parametrize("form", [[], ["--all"], ["--json"]])
def test_the_command_says_none_of_these(form: list[str], tmp_path: Path, call: Call) -> None:
    images, names = glyphs(range(3), 2)
    for image, name, k in zip(images, names, [0, 1] * 3, strict=True):
        folder = tmp_path / ("query" if k else f"support/{names.index(name)}")
        folder.mkdir(parents=True, exist_ok=True)
        write_png(image, str(folder / f"{names.index(name)}.png"))
    command = ["predict", str(RUN), "--support", str(tmp_path / "support")]
    command += ["--query", str(tmp_path / "query"), "--none", "-2", *form]
    code, out, err = call(*command)
    assert code == 0, err
    if "--json" in form:
        found = json.loads(out)
        assert [a["label"] for a in found] == [None] * 3
        assert all(-1 <= a["novelty"] <= 0 for a in found)
    else:
        assert out.count("none of these") == 3
        assert len(re.findall(r"-\d\.\d{3}", out)) == 3
        assert ("novelty" in out) == ("--all" in form)
