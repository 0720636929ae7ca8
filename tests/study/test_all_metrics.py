"""All metrics of a study's cells, and values by class."""

from __future__ import annotations

from typing import Any

from graphfsl.loops.row import MetricValue, Row
from graphfsl.study.all_metrics import metric_sections


def row(head: str, overlaps: dict[str, float], **metrics: float) -> Row:
    """A finished cell of a study of segmentation."""
    values = {name: MetricValue(value, 0.5) for name, value in metrics.items()}
    found: dict[str, Any] = {"overlaps": overlaps} if overlaps else {}
    asked = {"way": 1, "shot": 1}
    return Row("camvid/val", asked, "inductive", values, task="pixels", cell={"head": head},
               diagnosis=found)  # fmt: skip


def test_every_metric_stands_beside_the_cell() -> None:
    rows = [row("panet", {}, mIoU=40.0, ECE=3.0), row("ppnet", {}, mIoU=50.0)]
    (found,) = metric_sections(rows)
    assert found.headers == ["head", "mIoU", "ECE"] and found.words == 1
    assert found.lines == [["panet", "40.00 ± 0.50", "3.00 ± 0.50"], ["ppnet", "50.00 ± 0.50", ""]]


def test_classes_are_columns_and_what_a_cell_lacks_is_empty() -> None:
    rows = [row("panet", {"sky": 0.5}, mIoU=40.0), row("ppnet", {"car": 0.25}, mIoU=50.0)]
    (found,) = metric_sections(rows)
    assert found.headers == ["head", "sky", "car"]
    assert found.lines == [["panet", "50.00", ""], ["ppnet", "", "25.00"]]


def test_a_single_metric_makes_no_further_table() -> None:
    assert metric_sections([row("panet", {}, mIoU=40.0)]) == []
