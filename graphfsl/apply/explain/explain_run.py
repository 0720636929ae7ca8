"""`graphfsl explain`: one answer of a trained run, explained.

There are numbers, a picture and a page.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import networkx as nx
import torch
from PIL import Image
from torch import Tensor

from graphfsl.apply.explain.attributions import (
    Explanation,
    Faithfulness,
    add_contributions,
    explain,
    faithfulness,
)
from graphfsl.apply.explain.correspondence import framed
from graphfsl.apply.explain.counterfactual import counterfactual
from graphfsl.apply.explain.explain_values import explain_values
from graphfsl.apply.explain.where import curves, overlays, tell_where
from graphfsl.core.asking import shown
from graphfsl.core.episode import Episode, Target
from graphfsl.core.graph import QUERY, ROLES, SUPPORT, UNLABELED, similarity, to_networkx
from graphfsl.core.protocol import check_protocol
from graphfsl.data import Episodes, Setting, Transform
from graphfsl.experiment import run as runs
from graphfsl.experiment.experiment import digest
from graphfsl.experiment.measure import asked_of, check_shape
from graphfsl.io.checkpoint import read_json, write_atomically, write_json
from graphfsl.io.errors import InputError, require
from graphfsl.loops.image_change import pixels
from graphfsl.report.drawing import draw
from graphfsl.report.figures import COLORS, line
from graphfsl.report.figures import draw as draw_panel
from graphfsl.report.html import data_url, html_table, listed, page, pictures, words_first

# random orders that the contributions are averaged over, and others that the curves stand beside
ORDERS = 16
SHOWN = 12  # nodes of either table


def write_explanation(
    run: str | Path,
    changes: Sequence[str] = (),
    episode: int = 0,
    query: int = 0,
    out: str | Path | None = None,
) -> list[Path]:
    """Explain the answer to one query of an evaluation episode, in three files.

    Of a run that answers with values all queries of some episodes are shown, in two files.

    Args:
        run: the directory of a trained run.
        changes: overrides, such as episode.unlabeled=10 or learner.refine=soft_kmeans.
        episode: which of the evaluation's episodes; the first one, where some are shown.
        query: which of its queries; of values, none is chosen.
        out: the folder; None takes one in the run's directory.

    Returns:
        explanation.json, .svg and .html; of values without the last.

    Raises:
        InputError: where there is no such query, for a task without classes or curves, and for a
            folder that holds another explanation.
    """
    trained = runs.load(run)
    asks = {"run": str(run), "overrides": list(changes), "episode": episode, "query": query}
    marked = f"-{digest({'changes': list(changes)})}" if changes else ""
    folder = Path(out or Path(run) / "explanations" / f"episode-{episode}-query-{query}{marked}")
    _check_folder(folder, asks)
    asked = asked_of(trained, changes)
    experiment, task, learner = asked.experiment, asked.tasks[0], asked.learner
    if task.demands.answers == "values":
        require(query == 0, "all queries of a function are shown; leave --query out")
        told, svg = explain_values(trained, changes, episode)
        files = [folder / f"explanation.{ending}" for ending in ("json", "svg")]
        write_json(files[0], {**asks, **told})
        write_atomically(files[1], svg.encode())
        return files
    options = experiment.evaluation
    split = experiment.data.split(options.split)
    require(
        isinstance(task, Setting),
        f"an explanation is of a query's class, and {task.title} has none",
    )
    check_shape(trained.shape, task, split)
    check_protocol(learner, task, options.unbalanced)
    require(
        not learner.asks,
        "an answer that took asking for a label is not explained; choose a head that asks for none",
    )
    require(
        task.demands.support,
        "no sample is labeled, so that none could be taken away; set episode.shot=1",
    )
    device = experiment.trainer.fabric().device
    loader = Episodes(split, task, options.seed, trained.transform.plain(), device)
    batch, target = loader.batch([episode])
    batch = shown(batch, target, learner)
    found = explain(learner.to(device), batch, query, orders=ORDERS)
    faithful = faithfulness(found.question, found.order, ORDERS)
    names = [split.classes[c] if c >= 0 else "" for c in target.classes[0].tolist()]
    facts: dict[str, Any] = {**asks, "data": split.name}
    facts |= tell(found, target, names) | judge(faithful)
    facts["counterfactual"] = _told_counterfactual(found, names)
    facts["where"] = tell_where(learner.eval(), batch, query)
    svg = picture(found, target, f"{facts['answer']}, p = {found.probability:.2f}", names)
    name = (
        f"{trained.path.resolve().name}: why query {query} of episode {episode} was answered "
        f"{facts['answer']}"
    )
    files = [folder / f"explanation.{ending}" for ending in ("json", "svg", "html")]
    write_json(files[0], facts)
    write_atomically(files[1], svg.encode())
    seen = seen_images(batch, trained.transform)
    images = thumbnails(seen)
    more = [*without(facts, images), *places(facts, seen, names)]
    write_atomically(files[2], to_page(name, facts, svg, images, more).encode())
    return files


def _check_folder(folder: Path, asks: Mapping[str, Any]) -> None:
    """InputError where a folder holds the explanation of another answer."""
    if not (folder / "explanation.json").is_file():
        return
    before = read_json(folder / "explanation.json")
    if not isinstance(before, dict) or any(before.get(k) != v for k, v in asks.items()):
        raise InputError(
            f"{folder} holds the explanation of another answer; choose another --out, or remove it"
        )


def tell(found: Explanation, target: Target, names: Sequence[str]) -> dict[str, Any]:
    """An explanation in numbers and names.

    All nodes but the query stand in the order of their contributions (Shapley values), what speaks
    for the answer first; of the edges those that contribute.
    """
    question = found.question
    node = int(question.origin[question.query])  # its number in the episode
    true = int(_truth(found, target)[question.query])
    edges = None if found.edges is None else _told_edges(found)
    return {
        "node": node,
        "sample": int(target.ids[0, node]),
        "answer": names[question.answer],
        "true": names[true] if true >= 0 else None,
        "probability": found.probability,
        "nodes": _told_nodes(found, target, names),
        "edges": edges,
    }


def _told_nodes(found: Explanation, target: Target, names: Sequence[str]) -> list[dict[str, Any]]:
    """The nodes of an explanation, in the order of their contributions."""
    graph = found.question.graph
    numbers = found.question.origin.tolist()  # in the episode
    samples = target.ids[0].tolist()
    labeled = (graph.w[0].sum(-1) > 0).tolist()
    label = graph.w[0].argmax(-1).tolist()
    predicted = _answers(found).argmax(-1)[0].tolist()
    told = []
    for v in found.order.tolist():
        number = numbers[v]
        name = names[label[v]] if labeled[v] else None
        answer = None if labeled[v] else names[predicted[v]]
        gradient = None if found.gradient is None else float(found.gradient[v])
        node = {
            "node": number,
            "sample": samples[number],
            "role": _role(graph, v),
            "class": name,
            "predicted": answer,
            "contribution": float(found.nodes[v]),
            "leave_one_out": float(found.leave_one_out[v]),
            "gradient": gradient,
        }
        told.append(node)
    return told


def _told_counterfactual(found: Explanation, names: Sequence[str]) -> dict[str, Any]:
    """The fewest labeled nodes without which the answer is another, and which one it is then."""
    other = counterfactual(found.question, found.order)
    return {
        "nodes": sorted(found.question.origin[list(other.nodes)].tolist()),
        "answer": None if other.answer is None else names[other.answer],
        "smallest": other.smallest,
    }


def _role(graph: Episode, v: int) -> str:
    """Whether a node is support, query or unlabeled, in which order they lie."""
    if v < graph.n_support:
        return ROLES[SUPPORT]
    return ROLES[QUERY if v < graph.unlabeled.start else UNLABELED]


def _told_edges(found: Explanation) -> list[dict[str, Any]]:
    """The edges that contribute."""
    assert found.edges is not None
    number = found.question.origin.tolist()
    return [
        {"from": number[j], "to": number[i], "contribution": float(found.edges[i, j])}
        for i, j in found.edges.nonzero().tolist()
    ]


def judge(faithful: Faithfulness) -> dict[str, Any]:
    """How faithful an explanation is, as numbers: its curves, their areas, and random orders."""
    below, above = faithful.areas
    return {
        "faithfulness": {"deletion": below, "insertion": above},
        "deletion": faithful.deletion.tolist(),
        "insertion": faithful.insertion.tolist(),
        "random_deletion": faithful.random.tolist(),
    }


def picture(found: Explanation, target: Target, title: str = "", names: Sequence[str] = ()) -> str:
    """The query's graph with the explanation on it, as SVG; `names` are of the class columns.

    Args:
        found: the explanation.
        target: what is true of the episode.
        title: stands above the picture.
        names: of the class columns.
    """
    graph, truth = found.question.graph, _truth(found, target)
    shown = to_networkx(graph, similarity(graph.x.flatten(2)), 0, _answers(found), truth[None])
    shown = nx.relabel_nodes(shown, dict(enumerate(found.question.origin.tolist())))
    add_contributions(shown, found)
    return draw(shown, title, classes=names)


@torch.no_grad()
def _answers(found: Explanation) -> Tensor:
    """(1, g, C) the scores of all nodes of the query's graph."""
    return found.question.score(found.question.graph)


def _truth(found: Explanation, target: Target) -> Tensor:
    """(g,) the true class columns of the graph's nodes, negative where they are not known.

    They are for the reader only.
    """
    support = found.question.graph.w[0, found.question.graph.support].argmax(-1)
    return torch.cat([support, target.query[0], target.unlabeled[0]])[found.question.origin]


def seen_images(episode: Episode, transform: Transform) -> Tensor | None:
    """The images (n, C, H, W) of one task in bytes, as the learner sees them.

    They are not those of the split where a task alters them. None where samples are features.
    """
    if episode.x.ndim != 5:
        return None
    return (255 * pixels(episode.x[0], transform)).round().to(torch.uint8).cpu()


def thumbnails(seen: Tensor | None) -> list[str]:
    """The samples of an episode as small images in HTML; none where they are not images."""
    out = []
    for x in [] if seen is None else seen:
        file = io.BytesIO()
        Image.fromarray(x.permute(1, 2, 0).squeeze(-1).numpy()).save(file, "png")
        out.append(f'<img src="{data_url("png", file.getvalue())}" alt="">')
    return out


def places(facts: dict[str, Any], seen: Tensor | None, names: Sequence[str]) -> list[str]:
    """Where in the query's image the answer comes from, in HTML, or why that is not shown."""
    heading, where = "<h2>Where in the image</h2>", facts["where"]
    if "left_out" in where or seen is None:
        return [heading, *listed([f"No map: {where['left_out']}."])]
    margin, of_cells = where["margin"], where["margin_of_cells"]
    answer, other = names[where["answer"]], names[where["other"]]
    notes = [
        "The cells of the encoder's map, and what no cell adds, sum to the score exactly; a "
        "class's score stands beside the mean of all classes.",
        f"The score of {answer} is {margin:.2f} above that of {other}: {of_cells:+.2f} comes from "
        f"the cells, {margin - of_cells:+.2f} from no cell, but from where the classes lie.",
        "Blurring the cells that speak most for the answer should cost it more than blurring "
        "others.",
        f"Frames of one number are the places of the query that speak most for {answer}, and those "
        f"of its labeled samples that the encoder finds most like them.",
    ]
    node = facts["node"]
    size = len(where["map"]), len(where["map"][0])
    alike = framed(seen, node, where["alike"], size, answer)
    drawn = [*overlays(seen[node], where, names), *alike, curves(where)]
    return [heading, *listed(notes), *pictures(drawn)]


def without(facts: dict[str, Any], images: Sequence[str]) -> list[str]:
    """Without which labeled samples the answer would be another, in HTML."""
    other = facts["counterfactual"]
    count = len(other["nodes"])
    heading = "<h2>What would change the answer</h2>"
    if not count:
        return [heading, *listed(["Without any labeled sample the answer would be the same."])]
    these = "this labeled sample" if count == 1 else f"these {count} labeled samples"
    then = "there would be none" if other["answer"] is None else f"it would be {other['answer']}"
    known = "No smaller set does." if other["smallest"] else "A smaller set may do, too."
    heads = ["", "class", "node"]
    of_node = {n["node"]: n["class"] for n in facts["nodes"]}
    rows = [
        [images[node] if images else "", escape(of_node[node]), str(node)]
        for node in other["nodes"]
    ]
    return [
        heading,
        *listed([f"Without {these} {then}. {known}"]),
        *html_table(heads, rows, words_first(heads, 2)),
    ]


def to_page(
    title: str, facts: dict[str, Any], svg: str, images: Sequence[str], more: Sequence[str] = ()
) -> str:
    """An explanation as one self-contained web page.

    Args:
        title: of the page.
        facts: as `tell` and `judge` make them.
        svg: the picture.
        images: the samples in HTML, as `thumbnails` makes them.
        more: further sections in HTML, as `without` and `places` make them.
    """
    nodes = facts["nodes"]
    guess, areas = (
        facts["probability"] - sum(n["contribution"] for n in nodes),
        facts["faithfulness"],
    )
    query = [
        images[facts["node"]] if images else "",
        *(escape(str(facts[k])) for k in ("answer", "true")),
    ]
    notes = [
        f"A contribution is what a node adds to that probability, averaged over {ORDERS} random "
        f"orders in which all "
        f"nodes leave (Shapley values): together they lead from {guess:.2f}, without any node, to "
        f"the answer.",
        f"Removing nodes in this order keeps the probability {areas['deletion']:+.2f} below that "
        f"of random orders, "
        f"inserting them {areas['insertion']:+.2f} above it, on average over all steps. Above 0 "
        f"is faithful.",
        "Gradient × input is the first-order change of the answer's log-odds with a node's label "
        "weight (of an "
        "unlabeled node: with its features, beside an average node). Where classes are means it "
        "sums to zero in each.",
        f"Made by `graphfsl explain {' '.join([facts['run'], *facts['overrides']])} --episode "
        f"{facts['episode']} "
        f"--query {facts['query']}`. All numbers are in explanation.json.",
    ]
    seen = ("Rings are as wide as contributions") + (
        ", lines as contributions of edges" if facts["edges"] else ""
    )
    drawn = [(f"{seen}; dashed is against the answer", svg), *panels(facts)]
    heads = ["", "answer", "true class", "probability of the answer"]
    parts = [
        *html_table(heads, [[*query, f"{facts['probability']:.3f}"]], words_first(heads, 3)),
        *listed(notes),
        *pictures(drawn),
        *more,
    ]
    sides = (
        [n for n in nodes if n["contribution"] > 0],
        [n for n in reversed(nodes) if n["contribution"] < 0],
    )
    for heading, side in zip(("For the answer", "Against it"), sides, strict=True):
        more = f", the first {SHOWN} of {len(side)} nodes" if len(side) > SHOWN else ""
        parts += [f"<h2>{heading}{more}</h2>", *_nodes(side[:SHOWN], facts["probability"], images)]
    return page(title, parts)


def _nodes(nodes: Sequence[dict[str, Any]], p: float, images: Sequence[str]) -> list[str]:
    heads = ["", "class", "role", "node", "contribution", "answer without it", "gradient × input"]
    rows = [
        [
            images[n["node"]] if images else "",
            escape(n["class"] or f"{n['predicted']} (predicted)"),
            n["role"],
            str(n["node"]),
            f"{n['contribution']:+.3f}".replace("-", "−"),
            f"{p - n['leave_one_out']:.3f}",
            "" if n["gradient"] is None else f"{n['gradient']:+.3f}".replace("-", "−"),
        ]
        for n in nodes
    ]
    return html_table(heads, rows, words_first(heads, 3))


def panels(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """Plot the deletion and the insertion curve beside those of random orders."""
    out = []
    removed = torch.tensor(facts["random_deletion"])
    for name, random in (("deletion", removed), ("insertion", removed.flip(-1))):
        mean, spread = random.mean(0).tolist(), random.std(0, correction=0).tolist()

        def plot(
            axes: Any, name: str = name, mean: list[float] = mean, spread: list[float] = spread
        ) -> None:
            band = [(i, m, s) for i, (m, s) in enumerate(zip(mean, spread, strict=True))]
            line(axes, band, color="#888888", label="random orders, with their standard deviation")
            line(
                axes,
                [(i, p, 0) for i, p in enumerate(facts[name])],
                color=COLORS[0],
                label="this explanation",
            )
            axes.set_ylim(-0.02, 1.02)

        done = "removed" if name == "deletion" else "inserted"
        caption = (
            f"{name.capitalize()}: {facts['faithfulness'][name]:+.3f} better than random orders"
        )
        out.append(
            (
                caption,
                draw_panel(plot, f"nodes {done}, the loudest for the answer first", "probability"),
            )
        )
    return out
