"""`graphfsl demo`: what few labels, unlabeled images and distractors are worth, on embedded data."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from graphfsl import config as conf
from graphfsl import progress, registry
from graphfsl import run as runs
from graphfsl.builder import build
from graphfsl.data import Episodes, Setting, Split
from graphfsl.evaluation import evaluate
from graphfsl.explain import add_contributions, explain
from graphfsl.features import encode_split
from graphfsl.graph import draw, similarity, to_networkx
from graphfsl.learner import Pipeline
from graphfsl.lock import locked
from graphfsl.plots import Figure
from graphfsl.report import write_report
from graphfsl.results import full_row, history, write_results

SHOTS, UNLABELED, DISTRACTORS = (1, 5), (0, 5, 10), (0, 5)
REFINERS = {
    "soft k-means": "soft_kmeans",
    "self-training": "pseudo_label",
    "propagation": "logit_propagation",
    "iLPC": "ilpc",
}


def demo(out: Path, console: Console, overrides: Sequence[str] = ()) -> None:
    """Train, evaluate every combination on the same episodes, print the table, write report.html into `out`."""
    start = time.perf_counter()
    config = conf.read("demo.yaml", overrides)
    path = out / f"protonet-{conf.digest(config)}"
    with locked(path):
        run, base = runs.prepare(config, path)
        test = conf.load_split(config["data"], conf.evaluation(config).split)
        scripts = ", ".join(sorted(set(test.groups or ())))
        console.print(f"{path}: {runs.cost(run, base)}; tested on {len(test.classes)} letters of {scripts}")
        run = progress.train(run, base, console)
    console.print("measuring baselines and refiners, with and without pools, on the same test episodes: some minutes")
    rows = compare(run, test)
    show(rows, console)
    write_results(run.path, run.config, rows, time.perf_counter() - start)
    notes = [
        "Meta-trained on letters of some scripts, tested on letters of a script that it never saw.",
        f"Made by `graphfsl demo` in {time.perf_counter() - start:.0f} s on {torch.get_num_threads()} CPU threads.",
    ]
    files = write_report(
        out, "graphfsl demo", rows, {"ProtoNet": history(run.path)}, episode_pictures(run, test), notes
    )
    console.print(f"{time.perf_counter() - start:.0f} s; report: {files[0]}")


def compare(run: runs.Run, test: Split) -> list[dict[str, Any]]:
    """Rows for each shot, pool and distractors: baselines, ProtoNet, ProtoNet with each refiner."""
    trained = run.learner
    assert isinstance(trained, Pipeline)
    torch.manual_seed(0)
    untrained = build(run.config["learner"], run.shape, run.way)
    pixels = build({"encoder": "pixels", "head": "protonet"}, run.shape, run.way)
    features = encode_split(trained, test, run.transform)
    plain = trained.on_features()
    refined = {k: Pipeline(head=trained.head, refine=registry.get("refine", v)()) for k, v in REFINERS.items()}
    episodes = conf.evaluation(run.config).episodes
    rows = []

    def add(name: str, learner: Any, split: Split, setting: Setting) -> None:
        result = evaluate(learner, split, setting, episodes, transform=run.transform)
        row = full_row(run.config, result, str(split.x.device), run.steps) | {"method": name}
        rows.append(row | ({"baseline": True, "steps": 0} if learner in (pixels, untrained) else {}))

    for shot in SHOTS:
        setting = conf.setting(run.config, {"shot": shot})
        add("raw pixels", pixels, test, setting)
        add("untrained encoder", untrained, test, setting)
        for unlabeled in UNLABELED:
            for distractors in DISTRACTORS if unlabeled else (0,):
                pool = replace(setting, unlabeled=unlabeled, distractors=distractors)
                add("ProtoNet", plain, features, pool)
                for name, learner in refined.items():
                    add(f"ProtoNet + {name}", learner, features, pool)
    return rows


def show(rows: list[dict[str, Any]], console: Console) -> None:
    """The table on the terminal."""
    columns = ("method", "shot", "unlabeled", "distractors", "accuracy %", "setting")
    table = Table(*columns, title="5-way, letters of a script that was not trained on", box=None, padding=(0, 1, 0, 0))
    for r in rows:
        accuracy = f"{r['accuracy']:.2f} ± {r['ci95']:.2f}"
        cells = (r["method"], r["shot"], r["unlabeled"], r["distractors"], accuracy, r["setting"])
        table.add_row(*map(str, cells))
    console.print(table)


def episode_pictures(run: runs.Run, test: Split) -> list[Figure]:
    """One episode as a graph with its predictions, and what spoke for and against its least certain answer."""
    trained = run.learner
    assert isinstance(trained, Pipeline)
    refined = Pipeline(trained.encoder, head=trained.head, refine=registry.get("refine", "soft_kmeans")()).eval()
    setting = conf.setting(run.config, {"query": 3, "unlabeled": 5})
    device = next(trained.parameters()).device
    episode, target = Episodes(test, setting, transform=run.transform.plain(), device=device).batch([0])
    with torch.no_grad():
        features = refined.encode(episode)
        scores = refined.score_features(features)
    known = torch.cat([episode.w[:, episode.support].argmax(-1), target.query, target.unlabeled], 1)
    graph = to_networkx(features, similarity(features.x), 0, scores, known)
    caption = "One 5-way 1-shot episode with 5 unlabeled letters per class, after soft k-means"
    plain = (caption, draw(graph))
    least = int(scores[0, episode.query].softmax(-1).amax(-1).argmin())
    found = explain(refined, episode, least)
    add_contributions(graph, found)
    why = f"What spoke for and against its least certain answer (p = {found.probability:.2f}); other queries are pale"
    return [plain, (why, draw(graph))]
