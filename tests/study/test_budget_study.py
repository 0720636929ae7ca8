"""A study whose axis is a budget: trained, measured and reported like any other."""

from __future__ import annotations

import csv
import json
from pathlib import Path

from tests.support.command import EXPERIMENT, Call

EPISODE = "episode: {task: labeling, way: 3, images: 4, budget: 3}"
STUDY = """
question: What to label?
experiment: pool.yaml
set: {trainer.steps: 4, trainer.val_every: 2, trainer.val_episodes: 4, evaluation.episodes: 12}
grid:
  test.learner.acquire: [null, random, coverage]
  test.episode.shot: [0, 1]
  test.episode.budget: [0, 3, 6]
skip:
  - {test.learner.acquire: null, test.episode.budget: [3, 6]}
  - {test.learner.acquire: null, test.episode.shot: 0}
  - {test.learner.acquire: [random, coverage], test.episode.shot: 1}
  - {test.learner.acquire: [random, coverage], test.episode.budget: 0}
"""


def test_budgets_are_an_axis_with_an_area_for_each_rule(world: Path, call: Call) -> None:
    experiment = EXPERIMENT.partition("published:")[0].replace("DATA", str(world / "data"))
    experiment = experiment.replace("episode: {way: 3, shot: 1, query: 3}", EPISODE)
    experiment = experiment.replace("head: protonet", "head: protonet\n  acquire: random")
    Path("pool.yaml").write_text(experiment)
    Path("study.yaml").write_text(STUDY)
    code, out, err = call("ablate", "study.yaml", "--out", "a")
    assert code == 0, err
    told = " ".join(out.split())
    assert "5 cells, 1 trainings" in told and "Area under the accuracy over `budget`" in told
    rows = list(csv.DictReader(Path("a/cells.csv").read_text().splitlines()))
    settings = {(r["test.learner.acquire"], r["setting"]) for r in rows}
    assert ("", "inductive") in settings and ("random", "active") in settings
    areas = json.loads(Path("a/study.json").read_text())["areas"]
    assert [a["cell"]["test.learner.acquire"] for a in areas] == ["random", "coverage"]
    assert all((a["from"], a["to"]) == (3, 6) for a in areas)
    assert "Accuracy against labels asked for" in Path("a/report.html").read_text()


def test_a_rule_that_is_given_no_budget_is_refused_before_anything_trains(
    world: Path, call: Call
) -> None:
    code, _, err = call("run", "my.yaml", "learner.acquire=coverage", "--out", "r")
    assert code == 2 and "the task gives none" in err and len(err.splitlines()) == 1
    assert not Path("r/config.json").exists()
