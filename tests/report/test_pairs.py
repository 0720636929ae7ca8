"""The table of runs on data sets."""

from __future__ import annotations

from graphfsl.loops.row import MetricValue, Row
from graphfsl.report.pairs import pairs_table
from tests.support.refusal import refused


def row(data: str, value: float, shot: int = 1) -> Row:
    return Row(data, {"shot": shot}, "inductive", {"accuracy": MetricValue(value, 0.5)})


def test_ranks_are_means_over_columns_and_equal_values_share_theirs() -> None:
    lines = pairs_table(
        {
            "a": [row("x/test", 90), row("y/test", 50), row("z/test", 30)],
            "b": [row("x/test", 80), row("y/test", 60), row("z/test", 30)],
        }
    )
    assert [line["run"] for line in lines] == ["a", "b"]
    assert lines[0]["x/test 5-way 1-shot"] == "90.00 ± 0.50"
    assert [line["mean rank"] for line in lines] == ["1.50", "1.50"]


def test_runs_of_other_settings_do_not_share_a_table() -> None:
    with refused("b is asked x/test 5-way 5-shot"):
        pairs_table({"a": [row("x/test", 90)], "b": [row("x/test", 90, shot=5)]})
