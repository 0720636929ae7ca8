"""The table of runs on data sets."""

from __future__ import annotations

import scipy.stats
import torch

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


def test_a_further_run_has_its_gain_on_the_same_episodes() -> None:
    a, b = ([0.5, 0.6, 0.7, 0.4], [0.6, 0.8, 0.7, 0.5])
    first = row("x/test", 0.55).replace(values=a, seed=0)
    second = row("x/test", 0.65).replace(values=b, seed=0)
    lines = pairs_table({"a": [first], "b": [second], "c": [second.replace(seed=1)]})
    d = torch.tensor(b) - torch.tensor(a)
    half = scipy.stats.t.ppf(0.975, 3) * float(d.std()) / 2
    cells = [line["x/test 5-way 1-shot"] for line in lines]
    assert cells[0] == "0.55 ± 0.50" and cells[2] == "0.65 ± 0.50"
    assert cells[1] == f"0.65 ± 0.50 ({100 * float(d.mean()):+.2f} ± {100 * half:.2f})"


def test_a_gain_of_errors_has_their_digits() -> None:
    def error(value: float, values: list[float]) -> Row:
        metrics = {"MSE": MetricValue(value, 0.01, "", False)}
        return Row("x/test", {"shot": 1}, "inductive", metrics).replace(values=values, seed=0)

    rows = {"a": [error(0.0215, [0.02, 0.023])], "b": [error(0.006, [0.005, 0.007])]}
    cell = pairs_table(rows)[1]["x/test 5-way 1-shot"]
    assert cell.startswith("0.006") and cell.partition("(")[2].startswith("-0.0155 ± ")


def test_runs_of_another_kind_say_so_and_have_ranks_of_their_own() -> None:
    rows = {
        "a": [row("x/test", 90)],
        "b": [row("x/test", 95).replace(setting="transductive")],
        "c": [row("x/test", 80)],
    }
    lines = pairs_table(rows)
    assert [line["run"] for line in lines] == ["a", "b (transductive)", "c"]
    assert [line["mean rank"] for line in lines] == ["1.00", "1.00", "2.00"]


def test_runs_of_other_settings_do_not_share_a_table() -> None:
    with refused("b is asked x/test 5-way 5-shot"):
        pairs_table({"a": [row("x/test", 90)], "b": [row("x/test", 90, shot=5)]})
