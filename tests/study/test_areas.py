"""The area under accuracy against a budget."""

from __future__ import annotations

from typing import Any

import pytest

from graphfsl.loops.row import as_row
from graphfsl.study.areas import areas
from graphfsl.study.findings import findings
from graphfsl.study.grid import Study

BUDGETS = [10, 20, 50]


def row(rule: str, budget: int, values: list[float], **asked: Any) -> dict[str, Any]:
    options = {"way": 5, "images": 20, "shot": 0, "budget": budget, **asked}
    return {
        **options,
        "task": "labeling",
        "setting": "active",
        "data": "mine/test",
        "metric": "accuracy",
        "accuracy": 100 * sum(values) / len(values),
        "ci95": 1.0,
        "accuracies": values,
        "episodes": len(values),
        "seed": 0,
        "seconds": 1.0,
        "traits": ["asks"],
        "batch_norm": "running",
        "cell": {"test.learner.acquire": rule, "test.episode.budget": budget},
    }


def curve(rule: str, shift: float = 0.0) -> list[dict[str, Any]]:
    """Rows of twelve episodes, the accuracy of episode i growing with the budget."""
    return [
        row(rule, b, [0.3 + shift + b / 100 + i / 1000 + (i % 3) * shift / 9 for i in range(12)])
        for b in BUDGETS
    ]


def test_it_is_the_mean_of_straight_lines() -> None:
    (area,) = areas([as_row(r) for r in curve("coverage")])
    expected = (10 * (0.40 + 0.50) / 2 + 30 * (0.50 + 0.80) / 2) / 40
    assert float(area.values[0]) == pytest.approx(expected)
    assert (area.low, area.high, area.field) == (10, 50, "budget")
    assert area.cell == {"test.learner.acquire": "coverage"}
    told = area.to_dict()
    assert told["area"] == pytest.approx(100 * (expected + 0.0055), abs=1e-3) and told["ci95"] > 0


def test_points_of_other_tasks_and_single_ones_have_no_area() -> None:
    lone = [as_row(row("random", 10, [0.5] * 4)), as_row(row("random", 20, [0.5] * 4, images=9))]
    assert areas(lone) == []


def test_a_study_says_which_rule_has_more_under_its_curve() -> None:
    rows = [*curve("coverage", 0.1), *curve("random")]
    axes: dict[str, list[Any]] = {
        "test.learner.acquire": ["coverage", "random"],
        "test.episode.budget": BUDGETS,
    }
    found = findings(Study("s", "q", axes, [], 1), rows)
    text = next(s for s in found.sentences if s.startswith("Area under the accuracy"))
    assert "over `budget` from 10 to 50" in text and "coverage is 11.1 points better" in text
    assert [a["cell"]["test.learner.acquire"] for a in found.areas] == ["coverage", "random"]
    (effect,) = [e for e in found.effects if e["setting"] == "active, area over budget"]
    assert effect["difference"] == pytest.approx(11.1, abs=0.1) and effect["paired"]


def test_curves_of_fewer_episodes_are_no_further_pair() -> None:
    """They are the first episodes of the longer ones, and would count twice."""
    longer = [
        {**r, "cell": {**r["cell"], "evaluation.episodes": 12}}
        for r in [*curve("coverage", 0.1), *curve("random")]
    ]
    shorter = [
        {**r, "accuracies": r["accuracies"][:6], "episodes": 6}
        | {"cell": {**r["cell"], "evaluation.episodes": 6}}
        for r in longer
    ]
    axes: dict[str, list[Any]] = {
        "test.learner.acquire": ["coverage", "random"],
        "test.episode.budget": BUDGETS,
        "evaluation.episodes": [12, 6],
    }
    found = findings(Study("s", "q", axes, [], 1), [*longer, *shorter])
    (effect,) = [e for e in found.effects if e["setting"] == "active, area over budget"]
    assert effect["matched"] == 1 and len(found.areas) == 4


def test_curves_of_other_points_are_not_compared() -> None:
    """A cell that failed leaves a gap, over which the area has a straight line."""
    whole, gap = curve("coverage", 0.1), curve("random")
    rows = [*whole, *(r for r in gap if r["budget"] != 20)]
    axes: dict[str, list[Any]] = {
        "test.learner.acquire": ["coverage", "random"],
        "test.episode.budget": BUDGETS,
    }
    found = findings(Study("s", "q", axes, [], 1), rows)
    assert not [s for s in found.sentences if s.startswith("Area under")]
    assert [a["points"] for a in found.areas] == [[10, 20, 50], [10, 50]]
