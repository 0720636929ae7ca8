"""What `graphfsl label` says of itself, beside the truth: pools drawn from real classes, some of
them foreign.

`python -m benchmarks.pool_quality --data ROOT` draws pools of validation classes of CIFAR-FS
(EfficientNet-Lite0 at 112 pixels), of Omniglot's novel characters and of glyphs (ProtoNet's
committed runs), with 1, 2, 3 and 5 labels a class and 0, 30 and 70 % samples of other classes.
`--split train` draws from training classes, on which anything is chosen. `--sets mixture --nodes
10000 --classes 100` draws normal clusters. Draw i of a cell is the same
pool for any version of the program: `--save FILE` keeps every draw's numbers, and `--against FILE`
shows the mean difference to those, paired by draw. `--gates RUN` asks the gates that a run's
`gated_propagation` has learned in place of `label`, whatever the encoder of the pool.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from sklearn.metrics import roc_auc_score

from graphfsl import data
from graphfsl.apply.folder_encoder import folder_encoder
from graphfsl.apply.label.label_pool import Labels, label_pool
from graphfsl.core.pipeline import Pipeline
from graphfsl.data.transforms import Transform
from graphfsl.experiment import run
from graphfsl.functional.calibration import expected_calibration_error, reliability
from graphfsl.functional.task_pool_graph import TaskPoolGraph
from graphfsl.loops.feature_cache import cached_features
from graphfsl.methods.refine.gated_propagation import GatedPropagation

RESULTS = Path(__file__).parents[1] / "experiments/results"
SETS = ("cifar_fs", "omniglot", "glyphs")
RUNS = {"omniglot": "snell2017_omniglot_20w1s", "glyphs": "snell2017_glyphs_5w1s"}
LABELS, FOREIGN = (1, 2, 3, 5), (0.0, 0.3, 0.7)
EACH = {"cifar_fs": 300}  # images of a class that are encoded
# of a pool: its classes, and the most members of each that are not labeled
CLASSES, MEMBERS = 5, 60
MEASURES = ("accuracy", "called none", "ECE", "gap", "AUROC", "borne out", "ECE there")
BINS = 10  # of the error over the answers of all pools of a cell
# of the clusters of a mixture: numbers, and the deviation of the centers where a member's is 1
LENGTH, APART = 64, 0.7

# features, classes, and positions of the labeled ones, by labels of a class, share of foreign
# samples, and number of the draw
Pool = tuple[np.ndarray, np.ndarray, np.ndarray]
Draw = Callable[[int, float, int], Pool]


def features(name: str, split: str, root: str | None) -> tuple[np.ndarray, np.ndarray]:
    """Features (n, d) and classes (n,) of a data set's split."""
    images = data.load(name, split, **({"root": root} if data.takes_root(name) else {}))
    y = images.y.numpy()
    kept = np.concatenate(
        [np.flatnonzero(y == c)[: EACH.get(name)] for c in range(len(images.classes))]
    )
    images = replace(images, x=images.x[kept], y=images.y[kept], stored=None)
    if name in RUNS:
        trained = run.load(RESULTS / RUNS[name])
        learner, transform = trained.learner, trained.transform
    else:
        learner, transform, *_ = folder_encoder("efficientnet_lite0", None, None)
        learner.encoder.size = 112  # type: ignore[assignment]
    assert isinstance(learner, Pipeline) and isinstance(transform, Transform)
    return cached_features(learner, images, transform).x.numpy(), y[kept]


def drawn(
    y: np.ndarray, labels: int, foreign: float, draw: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A pool: ids (n,) of samples in mixed order, classes 0 .. 4 or -1 (n,), and the positions of
    the labeled ones.
    """
    rng = np.random.default_rng([labels, int(100 * foreign), draw])
    order = rng.permutation(y.max() + 1)
    ids: list[Any] = []
    classes: list[Any] = []
    given: list[Any] = []
    for c in order[:CLASSES]:
        mine = rng.permutation(np.flatnonzero(y == c))[: labels + MEMBERS]
        ids.append(mine)
        classes.append(np.full(len(mine), len(classes)))
        given.append(np.arange(len(mine)) < labels)
    members = sum(map(len, ids)) - CLASSES * labels
    others = rng.permutation(np.flatnonzero(np.isin(y, order[CLASSES:])))
    others = others[: round(members * foreign / (1 - foreign))]
    ids.append(others)
    classes.append(np.full(len(others), -1))
    given.append(np.zeros(len(others), bool))
    mixed = rng.permutation(sum(map(len, ids)))
    known = np.flatnonzero(np.concatenate(given)[mixed])
    return np.concatenate(ids)[mixed], np.concatenate(classes)[mixed], known


def mixture(nodes: int, classes: int, labels: int, foreign: float, draw: int) -> Pool:
    """A pool of normal clusters, half of whose kinds are foreign: features (n, 64), classes (n,)
    with -1 for foreign ones, and the positions of the labeled ones.
    """
    rng = np.random.default_rng([nodes, classes, labels, int(100 * foreign), draw])
    spread = 1 / np.sqrt(1 + np.arange(LENGTH) / 8)
    centers = APART * rng.normal(size=(2 * classes, LENGTH))
    members = max(labels + 1, round(nodes * (1 - foreign) / classes))
    y = np.arange(classes).repeat(members)
    others = classes + rng.integers(0, classes, round(len(y) * foreign / (1 - foreign)))
    y = rng.permutation(np.concatenate([y, others]))
    # far from zero on one side, as features of a network are
    x = (centers[y] + rng.normal(size=(len(y), LENGTH)) + 6) * spread
    known = np.concatenate([np.flatnonzero(y == c)[:labels] for c in range(classes)])
    return x.astype(np.float32), np.where(y < classes, y, -1), known


def pools_of(name: str, options: argparse.Namespace) -> Draw:
    """What draws pools of a set."""
    if name == "mixture":
        return partial(mixture, options.nodes, options.classes)
    split = options.split or ("val" if name == "cifar_fs" else "test")
    x, y = features(name, split, options.data)

    def draw(labels: int, foreign: float, number: int) -> Pool:
        ids, truth, known = drawn(y, labels, foreign, number)
        return x[ids], truth, known

    return draw


@dataclass(frozen=True)
class Gated:
    """What the last gate says of a pool, in the words of `Labels`."""

    given: np.ndarray
    best: np.ndarray
    label: np.ndarray
    score: np.ndarray
    none: np.ndarray
    facts: dict[str, bool] = field(default_factory=dict)


def gates_of(path: Path) -> GatedPropagation:
    """The gates that a run has learned."""
    learner = run.load(path).learner
    assert isinstance(learner, Pipeline)
    (gated,) = [part for part in learner.refine if isinstance(part, GatedPropagation)]
    return gated


@torch.no_grad()
def gated_labels(gated: GatedPropagation, x: np.ndarray, known: np.ndarray, y: np.ndarray) -> Gated:
    """The most probable class of each sample, and the gate's P(member) P(right) of it.

    Args:
        gated: whose gates are asked.
        x: (n, d) features.
        known: (k,) the positions of the labeled ones.
        y: (k,) their classes.
    """
    given = np.zeros(len(x), bool)
    given[known] = True
    order = np.concatenate([known, np.flatnonzero(~given)])
    labels = torch.nn.functional.one_hot(torch.from_numpy(y)).float()[None]
    nodes = torch.from_numpy(x[order])[None].float()
    mask = torch.ones(nodes.shape[:2], dtype=torch.bool)
    graph = TaskPoolGraph.of(nodes, labels, mask, gated.k, gated.alpha)
    weights = labels.new_zeros(1, len(x) - len(known), labels.shape[-1])
    for gate in gated.gates:
        reading = graph.read(weights)
        logits = gate.logits(reading.statistics)
        weights = gate.weights(reading, logits, graph.real)
    member, right = logits[0].sigmoid().unbind(-1)
    best, score, none = np.zeros(len(x), np.int64), np.ones(len(x)), np.zeros(len(x))
    best[known] = y
    best[~given] = reading.best[0].numpy()
    score[~given] = (member * right).numpy()
    none[~given] = (1 - member).numpy()
    return Gated(given, best, np.where(none > 0.5, -1, best), score, none)


def said(found: Labels | Gated, truth: np.ndarray) -> dict[str, Any]:
    """In percent: members of which `best` is right, members called none, calibration error of the
    score that `best` is right (a foreign sample's never is), the difference of their means, how
    well `none` ranks foreign samples above members, and whether the score is called a confidence,
    with its calibration error there; and the bins that are summed over pools.
    """
    asked = ~found.given
    member = asked & (truth >= 0)
    wrong = torch.from_numpy(((found.best != truth) | (truth < 0))[asked].astype(np.int64))
    score = torch.from_numpy(found.score[asked, None].clip(1e-9))
    error = 100 * float(expected_calibration_error(reliability(score, wrong)))
    borne_out = found.facts.get("borne out", True)
    both = (truth[asked] < 0).any()
    return {
        "accuracy": 100 * float((found.best == truth)[member].mean()),
        "called none": 100 * float((found.label[member] < 0).mean()),
        "ECE": error,
        "gap": 100 * abs(float(score.mean()) - float((wrong == 0).double().mean())),
        "AUROC": 100 * float(roc_auc_score(truth[asked] < 0, found.none[asked]))
        if both
        else math.nan,
        "borne out": 100 * float(borne_out),
        "ECE there": error if borne_out else math.nan,
        "bins": reliability(score, wrong, BINS).tolist(),
    }


def pooled(draws: list[dict[str, Any]]) -> float:
    """The calibration error over the answers of all pools, in percent."""
    bins = torch.tensor([d["bins"] for d in draws], dtype=torch.float64)
    count = bins[..., 0].sum(0)
    total = (bins[..., :1] * bins[..., 1:]).sum(0) / count.clamp_min(1)[:, None]
    summed = torch.cat([count[:, None], total], 1)
    return 100 * float(expected_calibration_error(summed))


def cells(
    options: argparse.Namespace, gated: GatedPropagation | None = None
) -> dict[str, list[dict[str, Any]]]:
    """A cell's name -> what every draw of it said."""
    found = {}
    for name in options.sets:
        pools = pools_of(name, options)
        if name == "mixture":
            name = f"{name} of {options.nodes} nodes, {options.classes} classes"
        for labels, foreign in itertools.product(options.labels, FOREIGN):
            draw = []
            for i in track(range(options.draws), f"{name} {labels} {foreign}", transient=True):
                x, truth, known = pools(labels, foreign, i)
                answers = (
                    label_pool(x, known, truth[known])
                    if gated is None
                    else gated_labels(gated, x, known, truth[known])
                )
                draw.append(said(answers, truth))
            found[f"{name}, {labels} a class, {100 * foreign:.0f} % foreign"] = draw
    return found


def interval(values: list[float]) -> str:
    """Mean and 95 % interval of the draws that have the number."""
    values = [v for v in values if not math.isnan(v)]
    if len(values) < 2:
        return ""
    return f"{np.mean(values):.1f} ± {1.96 * np.std(values, ddof=1) / len(values) ** 0.5:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", default=os.environ.get("GRAPHFSL_DATA"), metavar="ROOT")
    parser.add_argument("--sets", nargs="*", default=SETS)
    parser.add_argument("--split")
    parser.add_argument("--labels", nargs="*", type=int, default=LABELS, help="of a class")
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--nodes", type=int, default=1000, help="of a pool of `mixture`, at least")
    parser.add_argument("--classes", type=int, default=5, help="of a pool of `mixture`")
    parser.add_argument("--save", type=Path)
    parser.add_argument("--against", type=Path)
    parser.add_argument("--gates", type=Path, metavar="RUN")
    options = parser.parse_args()
    gated = gates_of(options.gates) if options.gates else None
    found = cells(options, gated)
    if options.save:
        options.save.write_text(json.dumps(found))
    before = json.loads(options.against.read_text()) if options.against else {}
    table = Table(title=f"{options.draws} pools a cell, in percent", width=180)
    table.add_column("", width=38)
    for measure in MEASURES:
        table.add_column(measure, justify="right")
        if before and measure in next(iter(before.values()))[0]:
            table.add_column("less before", justify="right")
    table.add_column("ECE of all pools", justify="right")
    for name, draw in found.items():
        row = [name]
        for measure in MEASURES:
            values = [d[measure] for d in draw]
            row.append(interval(values))
            if before and measure in before[name][0]:
                row.append(
                    interval([a - b[measure] for a, b in zip(values, before[name], strict=True)])
                )
        table.add_row(*row, f"{pooled(draw):.1f}")
    Console(width=180).print(table)


if __name__ == "__main__":
    main()
