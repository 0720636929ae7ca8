"""Figures know a task only by its contract: another task's pool is plotted in its own words."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from graphfsl.data import tasks
from graphfsl.report.figures import Colors, curve_figures, pool_figures
from graphfsl.report.write import figures_of

BEADS = """
from dataclasses import dataclass
from typing import ClassVar

from graphfsl.core.task import Caption, Metric, PoolCurve, Task

__all__ = ["Beads"]


@dataclass(frozen=True)
class Beads(Task):
    curves: ClassVar = {"foreign": ("foreign beads", "foreign beads of a string")}
    needs: ClassVar = {"foreign": "loose"}
    pool_curve: ClassVar = PoolCurve("loose", "foreign", "loose beads", "loose beads of a string")
    captions: ClassVar = {
        "strings": Caption("{} strings", always=True),
        "knots": Caption("{} knots", "no knots"),
        "loose": Caption("{} loose", always=True),
        "foreign": Caption("{} foreign"),
    }

    strings: int = 2
    knots: int | None = None
    loose: int = 0
    foreign: int = 0

    @property
    def title(self):
        return f"{self.strings} strings"

    @property
    def metrics(self):
        return {"error": Metric(None, "mm", more_is_better=False)}
"""


@pytest.fixture
def beads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "beads.py").write_text(BEADS, encoding="utf-8")
    monkeypatch.setattr(tasks, "__path__", [*tasks.__path__, str(tmp_path)])
    monkeypatch.delitem(sys.modules, "graphfsl.data.tasks.beads", raising=False)


def row(**fields: Any) -> dict[str, Any]:
    metric = {"value": 3.0, "unit": "mm", "more_is_better": False}
    return {
        "task": "beads",
        "method": "knot by knot",
        "data": "box test",
        "setting": "semi-supervised",
        "metric": "error",
        "error": 3.0,
        "metrics": {"error": metric},
        "ci95": 0.1,
        "strings": 2,
        "knots": None,
        "loose": 0,
        "foreign": 0,
        **fields,
    }


@pytest.mark.usefixtures("beads")
def test_the_pool_of_another_task_is_plotted_in_its_words() -> None:
    rows = [row(knots=k, loose=loose) for k in (None, 4) for loose in (0, 10)]
    pool = tasks.get("beads").pool_curve
    assert pool is not None
    captions = [caption for caption, _ in pool_figures(rows, pool, Colors())]
    assert captions == ["box test, 2 strings", "box test, 2 strings, 4 knots"]
    headings = [heading for heading, drawn in figures_of(rows, {}).items() if drawn]
    assert headings == ["Error against loose beads"]


@pytest.mark.usefixtures("beads")
def test_a_curve_leaves_out_rows_in_which_its_field_changes_nothing() -> None:
    rows = [
        row(loose=loose, foreign=foreign, knots=k)
        for loose in (0, 10)
        for foreign in (0, 3)
        for k in (None, 4)
    ]
    captions = [caption for caption, _ in curve_figures(rows, "foreign", "x", Colors())]
    start = "box test, 2 strings, 10 loose (semi-supervised)"
    assert captions == [f"{start}, no knots", f"{start}, 4 knots"]
