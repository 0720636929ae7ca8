"""`graphfsl demo`: what few labels and unlabeled images are worth, on embedded data.

Distractors, unlabeled images of other classes, are shown too.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from graphfsl.apply.explain.attributions import add_contributions, explain
from graphfsl.core import registry
from graphfsl.core.graph import similarity, to_networkx
from graphfsl.core.learner import Learner
from graphfsl.core.pipeline import Pipeline
from graphfsl.core.schema import make
from graphfsl.core.task import Task
from graphfsl.data import Episodes, Split
from graphfsl.experiment import run as runs
from graphfsl.experiment import runner
from graphfsl.experiment.builder import build, build_learner
from graphfsl.experiment.experiment import Experiment
from graphfsl.experiment.results import full_row, history, write_results
from graphfsl.functional.comparison import paired_difference
from graphfsl.io.checkpoint import read_json, write_json
from graphfsl.io.errors import require
from graphfsl.io.lock import locked
from graphfsl.loops.encode import encode_split
from graphfsl.loops.evaluation import evaluate
from graphfsl.loops.row import Row, text_of
from graphfsl.report.drawing import draw
from graphfsl.report.figures import Figure
from graphfsl.report.write import write_report
from graphfsl.study.findings import best

SHOTS = (1, 5)
# of the pools, which are tried with one labeled letter of each class
UNLABELED, DISTRACTORS = 10, (0, 5)
REFINERS = {
    "soft k-means": "soft_kmeans",
    "self-training": "pseudo_label",
    "propagation": "logit_propagation",
    "iLPC": "ilpc",
    "gated propagation": "gated_propagation",
}
PROTONET, PIXELS, UNTRAINED = "ProtoNet", "raw pixels", "untrained encoder"


@dataclass(frozen=True)
class Cell:
    """What is measured for one row of the table."""

    name: str
    learner: Learner
    split: Split
    setting: Task

    @property
    def key(self) -> str:
        """The name of the cell in the file of finished ones."""
        s: Any = self.setting
        return f"{self.name}, {s.shot}-shot, {s.unlabeled} unlabeled, {s.distractors} distractors"


def demo(out: Path, console: Console, overrides: Sequence[str] = ()) -> None:
    """Train, evaluate every combination, print the table, and write report.html into `out`.

    All are evaluated on the same episodes.
    """
    start = time.perf_counter()
    experiment = Experiment.read("demo.yaml", overrides)
    _check_is_protonet(experiment)
    path = out / f"protonet-{experiment.digest()}"
    with locked(path):
        run, base = runs.prepare(experiment, path)
        test = experiment.data.split(experiment.evaluation.split)
        scripts = ", ".join(sorted(set(test.groups or ())))
        console.print(
            f"{path}: {runs.cost(run, base)}; tested on {len(test.classes)} letters of {scripts}"
        )
        run = runner.train(run, base, console)
        rows = measure(run, cells(run, base, test), console)
    found = tell(rows)
    show(rows, console)
    for sentence in found:
        console.print(f"• {sentence}", markup=False)
    write_results(run.path, run.experiment, rows, time.perf_counter() - start)
    notes = [
        "Meta-trained on letters of some scripts, tested on letters of a script that it never saw.",
        f"Made by `graphfsl demo` in {time.perf_counter() - start:.0f} s on "
        f"{torch.get_num_threads()} CPU threads.",
    ]
    drawn = episode_pictures(run, test)
    files = write_report(
        out, "graphfsl demo", rows, {PROTONET: history(run.path)}, drawn, notes, found
    )
    console.print(f"{time.perf_counter() - start:.0f} s; report: {files[0]}")


def _check_is_protonet(experiment: Experiment) -> None:
    """InputError for overrides after which the demo would say ProtoNet of something else."""
    learner = experiment.learner
    others = (*learner.augment, *learner.graph, *learner.refine, learner.acquire, learner.novelty)
    plain = not any(others) and learner.adapt is None
    require(
        plain and learner.head is not None and learner.head.name == "protonet",
        f"the demo is of a ProtoNet and not of {learner.method_name}; train that by `graphfsl run`",
    )
    require(
        experiment.seeds == 1,
        f"the demo trains once; leave seeds={experiment.seeds} out, or give it to `graphfsl run`",
    )


def cells(run: runs.Run, base: Split, test: Split) -> list[Cell]:
    """The combinations that the demo measures.

    They are baselines and ProtoNet for each shot, and what each refiner makes of a pool without and
    with distractors. A refiner that learns from base classes does so here.
    """
    trained = run.learner
    assert isinstance(trained, Pipeline)
    torch.manual_seed(0)
    untrained = build_learner(run.experiment.learner, run.shape, run.way)
    pixels = build({"encoder": "pixels", "head": "protonet"}, run.shape, run.way)
    features = encode_split(trained, test, run.transform)
    plain = trained.on_features()
    found = []
    for shot in SHOTS:
        setting = run.experiment.variant({"shot": shot})
        found += [Cell(PIXELS, pixels, test, setting), Cell(UNTRAINED, untrained, test, setting)]
        found += [Cell(PROTONET, plain, features, setting)]
    refined = {}
    for name, part in REFINERS.items():
        refiner = make(registry.get("refine", part), {}, part, way=run.experiment.task.demands.way)
        learner = Pipeline(trained.encoder, head=trained.head, refine=refiner).eval()
        runs.fit_base(learner, base, run.transform, base.y)
        refined[name] = learner.on_features()
    for distractors in DISTRACTORS:
        pool = {"shot": SHOTS[0], "unlabeled": UNLABELED, "distractors": distractors}
        setting = run.experiment.variant(pool)
        for name, learner in refined.items():
            found.append(Cell(f"{PROTONET} + {name}", learner, features, setting))
    return found


def measure(run: runs.Run, cells: Sequence[Cell], console: Console) -> list[Row]:
    """A row of each cell.

    Those that an interrupted demo has measured are read from measured.json in the run.
    """
    file = run.path / "measured.json"
    done: dict[str, Any] = read_json(file) if file.is_file() else {}
    episodes = run.experiment.evaluation.episodes
    for cell in track(cells, "measuring", console=console, transient=True):
        if cell.key in done:
            continue
        result = evaluate(cell.learner, cell.split, cell.setting, episodes, transform=run.transform)
        row = full_row(run.experiment, result, str(cell.split.x.device), run.steps)
        row = row.replace(method=cell.name)
        if cell.name in (PIXELS, UNTRAINED):
            row = row.replace(baseline=True, steps=0)
        done[cell.key] = row.to_dict()
        write_json(file, done)
        value, unit = row.value.value, row.value.unit
        console.print(f"{cell.key}: {text_of(value, unit)} {unit}", markup=False)
    rows = [Row.from_dict(done[cell.key]) for cell in cells]
    return [row.replace(best=top) for row, top in zip(rows, best(rows), strict=True)]


def tell(rows: Sequence[Row]) -> list[str]:
    """What the table shows, in two or three sentences.

    All numbers are differences on the same episodes.
    """
    one = [r for r in rows if r.asked["shot"] == SHOTS[0]]
    plain = next(r for r in one if r.method == PROTONET)
    others = {r.method: f"{r.value.value:.1f}" for r in one if r.baseline}
    told = [
        f"From one labeled letter of each of {plain.asked['way']} classes, ProtoNet names "
        f"{plain.value.value:.1f} % of the "
        f"others rightly; raw pixels name {others[PIXELS]} %, the encoder before training "
        f"{others[UNTRAINED]} %."
    ]
    for distractors in DISTRACTORS:
        pool = [r for r in one if r.asked["unlabeled"] and r.asked["distractors"] == distractors]
        top = max(pool, key=lambda r: r.score)
        d, half = paired_difference(_values(top), _values(plain))
        company = f", in a pool with letters of {distractors} other classes," if distractors else ""
        told.append(
            f"{UNLABELED} unlabeled letters of each class{company} are worth "
            f"{100 * float(d):+.1f} points more "
            f"(95% interval {100 * float(d - half):+.1f} to {100 * float(d + half):+.1f}) to "
            f"{top.method}."
        )
    return told


def _values(row: Row) -> torch.Tensor:
    return torch.tensor(row.values, dtype=torch.float64)


def show(rows: Sequence[Row], console: Console) -> None:
    """Print the table on the terminal."""
    columns = ("method", "shot", "unlabeled", "distractors", "accuracy %", "setting")
    table = Table(
        *columns,
        title="5-way, letters of a script that was not trained on",
        box=None,
        padding=(0, 1, 0, 0),
    )
    for r in rows:
        cells = (
            r.method,
            r.asked["shot"],
            r.asked["unlabeled"],
            r.asked["distractors"],
            r.value.number,
            r.setting,
        )
        table.add_row(*map(str, cells))
    console.print(table)


def episode_pictures(run: runs.Run, test: Split) -> list[Figure]:
    """One episode as a graph with its predictions, and why its least certain answer came out."""
    trained = run.learner
    assert isinstance(trained, Pipeline)
    refined = Pipeline(
        trained.encoder, head=trained.head, refine=registry.get("refine", "soft_kmeans")()
    ).eval()
    setting = run.experiment.variant({"query": 3, "unlabeled": 5})
    device = next(trained.parameters()).device
    episode, target = Episodes(test, setting, transform=run.transform.plain(), device=device).batch(
        [0]
    )
    with torch.no_grad():
        features = refined.encode(episode)
        scores = refined.score_features(features)
    known = torch.cat([episode.w[:, episode.support].argmax(-1), target.query, target.unlabeled], 1)
    graph = to_networkx(features, similarity(features.x), 0, scores, known)
    caption = "One 5-way 1-shot episode with 5 unlabeled letters per class, after soft k-means"
    names = [test.classes[c].rpartition("/")[2] for c in target.classes[0].tolist()]
    plain = (caption, draw(graph, classes=names))
    least = int(scores[0, episode.query].softmax(-1).amax(-1).argmin())
    found = explain(refined, episode, least)
    add_contributions(graph, found)
    why = (
        f"What spoke for and against its least certain answer (p = {found.probability:.2f}); "
        f"other queries are pale"
    )
    return [plain, (why, draw(graph, classes=names))]
