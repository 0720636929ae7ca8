"""The reliability diagram, of a results row or of a labelled pool."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from graphfsl.report.figures import COLORS, Figure, draw


def reliability_diagram(bins: Sequence[Sequence[float]], caption: str, x: str) -> Figure:
    """Accuracy by probability, a dot for each bin: on the diagonal they agree.

    Args:
        bins: (answers, mean probability, accuracy) of equal bins of the probability, as
            `functional.calibration.reliability` gives them; a larger dot holds more answers.
        caption: of the figure.
        x: what the probability is called.
    """
    filled = [b for b in bins if b[0]]
    confidence = [c for _, c, _ in filled]
    accuracy = [a for _, _, a in filled]
    most = max((n for n, _, _ in filled), default=1)
    size = [10 + 90 * n / most for n, _, _ in filled]

    def plot(axes: Any) -> None:
        axes.plot([0, 1], [0, 1], color="#999999", linewidth=1, linestyle="--")
        axes.bar(confidence, accuracy, width=0.8 / len(bins), color=COLORS[0], alpha=0.35)
        axes.scatter(confidence, accuracy, s=size, color=COLORS[0], zorder=3)
        axes.set(xlim=(0, 1.02), ylim=(0, 1.02))

    return caption, draw(plot, x, "accuracy")
