"""What colours of a report's diagrams say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from matplotlib.figure import Figure

from graphfsl.report import diagrams


def row(what: str, values: list[list[float]]) -> dict[str, Any]:
    matrix = {"what": what, "across": "asked after", "down": "learned in", "values": values}
    return {"method": "protonet", "setting": "inductive", "matrix": matrix}


def limits_of(plot: Callable[[Any], None], *_: object) -> tuple[float, float]:
    """The numbers at the ends of the colours of what is plotted."""
    axes = Figure().add_subplot()
    plot(axes)
    low, high = axes.images[0].get_clim()
    assert low is not None and high is not None
    return low, high


def test_matrices_of_one_kind_share_their_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagrams, "draw", limits_of)
    rows = [
        row("accuracy", [[90.0], [80.0, 70.0]]),
        row("accuracy", [[60.0], [50.0, 55.0]]),
        row("loss", [[0.5], [1.0, 2.0]]),
    ]
    found = [figure for _, figure in diagrams.own_matrices(rows)]
    assert found == [(50.0, 90.0), (50.0, 90.0), (0.5, 2.0)]


def test_long_names_of_a_heat_map_stand_in_its_caption(monkeypatch: pytest.MonkeyPatch) -> None:
    def ticks(plot: Callable[[Any], None], *_: object) -> list[list[str]]:
        axes = Figure().add_subplot()
        plot(axes)
        axis = (axes.get_xticklabels(), axes.get_yticklabels())
        return [[label.get_text() for label in labels] for labels in axis]

    monkeypatch.setattr(diagrams, "draw", ticks)
    long, longer = "conv4 (weights a/model.safetensors)", "conv4 (weights b/model.safetensors)"
    rows = [
        {"setting": "inductive", "cell": {"encoder": name, "shot": shot}, "accuracy": 50.0 + shot}
        for name in (long, longer)
        for shot in (1, 5)
    ]
    ((caption, found),) = diagrams.heat_maps(rows)
    assert sorted(found) == [["1", "5"], ["1.", "2."]]
    assert caption.endswith(f". encoder: 1. {long}; 2. {longer}")

    short = [r | {"cell": r["cell"] | {"encoder": r["cell"]["encoder"][15]}} for r in rows]
    ((caption, found),) = diagrams.heat_maps(short)
    assert sorted(found) == [["1", "5"], ["a", "b"]] and "encoder:" not in caption
