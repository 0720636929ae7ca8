"""What a learner makes of functions of which a few points are known, as one picture."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from graphfsl.core.episode import Episode, ValueTarget
from graphfsl.io.errors import require
from graphfsl.report.figures import COLORS

WIDTH, HEIGHT = 2.6, 2.2  # of a panel, in inches
STYLES = (":", "--", "-")
# digits past a hundredth of a point, which nobody sees and which are most of the file
TOO_EXACT = re.compile(r"(\d\.\d\d)\d+")


def function_figure(
    episode: Episode, target: ValueTarget, answers: Mapping[str, Tensor], columns: int = 4
) -> str:
    """The first `columns` tasks side by side: the function, its known points, and what is answered.

    All panels have the same axes, so that heights can be compared.

    Args:
        episode: of functions of one number, one value each; its queries are plotted as a curve, so
            that they best lie on a grid (`episode.query_points=grid`).
        target: the true values of the queries.
        answers: what each curve is called, such as "after 10 steps" -> (B, Q, 1) values.
        columns: how many tasks are shown.

    Returns:
        An SVG, the same bytes for the same numbers.

    Raises:
        InputError: for functions of several numbers, or answers of another shape.
    """
    shape = tuple(target.query.shape)
    one_number = tuple(episode.x.shape[2:]) == (1,) and shape[-1] == 1
    require(
        episode.values is not None and one_number,
        "only functions of one number, of one value each, are plotted as curves",
    )
    for name, found in answers.items():
        require(
            tuple(found.shape) == shape,
            f"the answers {name!r} are of shape {tuple(found.shape)}, but the queries {shape}",
        )

    import matplotlib  # here, since it takes longer to import than most commands run
    from matplotlib.figure import Figure

    tasks = min(columns, len(episode.x))
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rc("svg", hashsalt="graphfsl")
        figure = Figure(figsize=(WIDTH * tasks, HEIGHT + 0.4), layout="constrained")
        panels = figure.subplots(1, tasks, sharex=True, sharey=True, squeeze=False)[0]
        for i, axes in enumerate(panels):
            _plot_task(axes, i, episode, target, answers)
            axes.set_xlabel("x", fontsize=8)
        panels[0].set_ylabel("y", fontsize=8)
        handles, labels = panels[0].get_legend_handles_labels()
        place: dict[str, Any] = {"loc": "outside lower center", "ncols": len(labels)}
        figure.legend(handles, labels, fontsize=8, frameon=False, **place)
        file = io.StringIO()
        figure.savefig(
            file, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type"))
        )
    return TOO_EXACT.sub(r"\1", file.getvalue())


def _plot_task(
    axes: Any, i: int, episode: Episode, target: ValueTarget, answers: Mapping[str, Tensor]
) -> None:
    """One panel: the i-th task."""
    assert episode.values is not None
    known = (episode.w[i, episode.support, 0] > 0).cpu()
    x = episode.x[i, episode.query, 0].cpu()
    order = x.argsort()

    def curve(values: Tensor, **look: Any) -> None:
        axes.plot(x[order].numpy(), values[i, :, 0].detach().cpu()[order].numpy(), **look)

    curve(target.query, color="#444444", linewidth=1.0, label="true function")
    for number, (name, found) in enumerate(answers.items()):
        color, style = COLORS[number % len(COLORS)], STYLES[number % len(STYLES)]
        curve(found, color=color, linestyle=style, linewidth=1.5, label=name)
    at = episode.x[i, episode.support, 0].detach().cpu()[known].numpy()
    value = episode.values[i, episode.support, 0].detach().cpu()[known].numpy()
    axes.plot(at, value, "o", color="#000000", markersize=4, label="known points", zorder=3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e8e8e8")
    axes.tick_params(labelsize=7)
    axes.locator_params(nbins=5)
