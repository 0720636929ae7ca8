"""A picture of an episode as a graph, in SVG."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import networkx as nx

STYLE: dict[str, tuple[Any, int]] = {
    "support": ("s", 170),
    "query": ("o", 110),
    "unlabeled": ("^", 60),
}
QUIET = 0.02  # of the loudest contribution: less has no ring
# colour and dash of what speaks for and against an answer
FOR, AGAINST = ("#00695c", "-"), ("#c2185b", (0, (2, 1.2)))


def draw(
    graph: nx.DiGraph, title: str = "", strongest: int = 3, classes: Sequence[str] = ()
) -> str:
    """An SVG of a graph from `to_networkx`.

    Squares are support, circles queries, small triangles unlabeled; each has its number. The fill
    is the known or predicted class, the rim the true one; a cross marks a wrong prediction. An edge
    is as wide as its weight.

    With contributions (`explain.add_contributions`) the explained query has a double ring, each
    node a ring as wide as its contribution, and the edges that contribute most are plotted, dashed
    where they speak against the answer; what was no part of the explanation is pale.

    Args:
        graph: of an episode.
        title: stands above it.
        strongest: how many incoming edges each node shows.
        classes: the names of the class columns, for the legend, which shows what there is to see
            and nothing else.
    """
    import io

    from matplotlib import rc_context
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 5.2), layout="constrained")
    axes = figure.add_subplot()
    position, explained = _layout(graph), graph.graph.get("explained")
    told = [
        v for v, node in graph.nodes(data=True) if explained in (None, v) or "contribution" in node
    ]
    for u, v, look in _edges(graph.subgraph(told), strongest):
        (x0, y0), (x1, y1) = position[u], position[v]
        axes.plot([x0, x1], [y0, y1], zorder=1, **look)
    loudest = max((abs(c) for _, c in graph.nodes(data="contribution") if c), default=1.0)
    for v, node in graph.nodes(data=True):
        _draw_node(axes, position[v], node, v, _color(graph), 1.0 if v in told else 0.2)
        _draw_contribution(axes, position[v], node, loudest)
    if explained is not None:
        x, y = position[explained]
        for size in (260, 420):
            axes.scatter(
                x, y, s=size, facecolors="none", edgecolors="black", linewidths=1.2, zorder=3
            )
    handles = _legend(graph, classes)
    axes.legend(
        handles=handles,
        loc="upper center",
        bbox_to_anchor=(0.5, 0),
        ncols=4,
        frameon=False,
        fontsize=9,
    )
    axes.margins(0.1 if explained is not None else 0.05)  # room for the rings
    axes.set_title(title)
    axes.axis("off")
    out = io.StringIO()
    with rc_context({"svg.hashsalt": title}):
        figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()


def _color(graph: nx.DiGraph) -> Callable[[int | None], Any]:
    """Class column -> colour; gray where it is not known."""
    from matplotlib import colormaps

    palette = colormaps["tab10" if _ways(graph) <= 10 else "tab20"]
    return lambda c: palette(c % palette.N) if c is not None else "#bbbbbb"


def _shown_class(node: dict[str, Any]) -> int | None:
    column: int | None = node["label"] if node["label"] is not None else node["prediction"]
    return column


def _is_wrong(node: dict[str, Any]) -> bool:
    return None not in (node["truth"], _shown_class(node)) and node["truth"] != _shown_class(node)


def _draw_node(
    axes: Any,
    place: Any,
    node: dict[str, Any],
    number: int,
    color: Callable[[int | None], Any],
    alpha: float,
) -> None:
    marker, size = STYLE[node["role"]]
    rim = color(node["truth"]) if node["truth"] is not None else "#444444"
    fill = color(_shown_class(node))
    axes.scatter(
        *place,
        s=size,
        marker=marker,
        color=fill,
        edgecolors=rim,
        linewidths=2,
        alpha=alpha,
        zorder=2,
    )
    if _is_wrong(node):
        axes.scatter(*place, s=40, marker="x", color="black", linewidths=1.5, alpha=alpha, zorder=3)
    box = {
        "boxstyle": "round,pad=0.1",
        "facecolor": "white",
        "edgecolor": "none",
        "alpha": 0.6 * alpha,
    }
    text: dict[str, Any] = {
        "fontsize": 6.5,
        "color": "#333333",
        "alpha": alpha,
        "zorder": 4,
        "bbox": box,
    }
    axes.annotate(str(number), place, xytext=(6, 5), textcoords="offset points", **text)


def _draw_contribution(axes: Any, place: Any, node: dict[str, Any], loudest: float) -> None:
    """A ring as wide as what the node contributes.

    There is none for what is hardly seen, and often noise.
    """
    contribution = node.get("contribution")
    if not contribution or abs(contribution) <= QUIET * loudest:
        return
    hue, dash = FOR if contribution > 0 else AGAINST
    size = 2.2 * STYLE[node["role"]][1] + 1300 * abs(contribution) / loudest
    axes.scatter(*place, s=size, facecolors=hue, alpha=0.12, linewidths=0, zorder=0)
    axes.scatter(
        *place,
        s=size,
        facecolors="none",
        edgecolors=hue,
        linestyles=[dash],
        linewidths=1.6,
        zorder=1,
    )


def _legend(graph: nx.DiGraph, classes: Sequence[str]) -> list[Any]:
    """What the picture shows: roles, classes, wrong answers, and what speaks for and against it."""
    from matplotlib.lines import Line2D

    nodes = [node for _, node in graph.nodes(data=True)]
    color = _color(graph)
    columns = sorted(
        {c for node in nodes for c in (_shown_class(node), node["truth"]) if c is not None}
    )
    keys = [
        Line2D([], [], marker=marker, ls="", color="#888888", label=role)
        for role, (marker, _) in STYLE.items()
        if any(node["role"] == role for node in nodes)
    ]
    keys += [
        Line2D([], [], marker="s", ls="", color=color(c), label=classes[c])
        for c in columns
        if c < len(classes)
    ]
    if any(map(_is_wrong, nodes)):
        keys.append(Line2D([], [], marker="x", ls="", color="black", label="wrong prediction"))
    if graph.graph.get("explained") is None:
        return keys
    ring: dict[str, Any] = {"marker": "o", "mfc": "none", "ms": 10}
    keys.append(Line2D([], [], ls="", color="black", label="the explained query", **ring))
    spoken = [
        c
        for c in (
            *nx.get_node_attributes(graph, "contribution").values(),
            *nx.get_edge_attributes(graph, "contribution").values(),
        )
        if c
    ]
    for name, (hue, dash), there in (
        ("for its answer", FOR, any(c > 0 for c in spoken)),
        ("against", AGAINST, any(c < 0 for c in spoken)),
    ):
        keys += [Line2D([], [], color=hue, ls=dash, label=name, **ring)] if there else []
    return keys


def _edges(graph: nx.DiGraph, strongest: int) -> list[tuple[Any, Any, dict[str, Any]]]:
    """Which edges are plotted, and how.

    They are the strongest into each node, or those that contribute most both ways.
    """
    shown = nx.Graph()
    spoken = nx.get_edge_attributes(graph, "contribution")
    if spoken:
        for (u, v), c in spoken.items():
            shown.add_edge(u, v, weight=c + shown.get_edge_data(u, v, {"weight": 0.0})["weight"])
        most = sorted(shown.edges(data="weight"), key=lambda e: (-abs(e[2]), e[:2]))[: len(graph)]
        looks = [(u, v, abs(c), *(FOR if c > 0 else AGAINST), 0.7) for u, v, c in most]
    else:
        for v in graph.nodes:
            best = sorted(graph.in_edges(v, data="weight"), key=lambda e: (-e[2], e[0]))[:strongest]
            shown.add_weighted_edges_from((u, v, weight) for u, v, weight in best)
        looks = [
            (u, v, weight, "#888888", "-", 0.45) for u, v, weight in shown.edges(data="weight")
        ]
    widest = max((look[2] for look in looks), default=0.0) or 1.0
    return [
        (u, v, {"color": hue, "ls": dash, "lw": 0.3 + 2 * size / widest, "alpha": alpha})
        for u, v, size, hue, dash, alpha in looks
    ]


def _layout(graph: nx.DiGraph) -> dict[Any, Any]:
    """Places whose distances follow the similarity, with room between the nodes of one class."""
    far = {u: dict.fromkeys(graph, 3.0) for u in graph}
    for u, v, weight in graph.edges(data="weight"):
        far[u][v] = far[v][u] = 0.6 + math.sqrt(min(max(-math.log(max(weight, 1e-9)), 0.0), 6.0))
    places: dict[Any, Any] = nx.kamada_kawai_layout(graph.to_undirected(), dist=far)
    return places


def _ways(graph: nx.DiGraph) -> int:
    labels = [
        c
        for _, node in graph.nodes(data=True)
        for c in (node["label"], node["prediction"])
        if c is not None
    ]
    return max(labels, default=0) + 1
