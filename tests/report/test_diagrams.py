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
