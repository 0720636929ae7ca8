"""A paper's row trained and evaluated again, published beside ours; and the README's tables from
committed results.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from graphfsl.experiment import config as conf
from graphfsl.experiment import runner
from graphfsl.experiment.builder import named
from graphfsl.experiment.results import history, seed_runs
from graphfsl.io.checkpoint import read_json
from graphfsl.io.errors import InputError, unknown
from graphfsl.io.package_data import experiments_dir, find_experiments
from graphfsl.loops.evaluation import with_interval
from graphfsl.report.tables import SETTINGS

Row = Mapping[str, Any]
HEADLINES = "headlines"  # the table of the README
PLACE = ("data.root", "data.download", "trainer.device", "trainer.logger")  # say where, not what


def reproduce(paper: str, overrides: Sequence[str], out: Path | None, console: Console) -> None:
    """Run the experiments of a paper (a finished one is measured only) and print published against
    ours.
    """
    files = [Path(paper)] if paper.endswith(".yaml") else find_experiments(paper)
    configs = [conf.read(file, overrides) for file in files]
    changed = [f"override {o}" for o in overrides if o.partition("=")[0] not in PLACE]
    for file, config in zip(files, configs, strict=True):
        path = (out or Path("runs")) / f"{file.stem}-{conf.digest(config)}"
        rows = runner.run(config, path, console)
        if rows:  # under torchrun only the first process has them
            histories = [history(p) for p in seed_runs(path) or [path]]
            _show(file.stem, config, rows, histories, changed, console)


def _show(
    name: str,
    config: Mapping[str, Any],
    rows: Sequence[Row],
    histories: Sequence[Sequence[Row]],
    changed: Sequence[str],
    console: Console,
) -> None:
    """The table of an experiment. histories: the metrics of each seed. changed: deviations beside
    the listed ones.
    """
    paper = config.get("paper") or {}
    grid = Table(
        "setting",
        "published",
        "ours",
        "difference",
        "source",
        title=f"{name}: {paper.get('title', '')}",
    )
    for r in rows:
        published = r.get("published")
        grid.add_row(
            f"{column(r)}, {r['data']}, {r['setting']}",
            "none" if published is None else f"{published:.2f}",
            with_interval(r),
            "" if r.get("difference") is None else f"{r['difference']:+.2f}",
            r.get("source") or "",
        )
    console.print(grid)
    n, last = len(histories), [lines[-1] for lines in histories if lines]
    minutes = sum(line["seconds"] for line in last) / 60
    steps = f"{max((line['step'] for line in last), default=0):,}" + (
        f" for each of {n} seeds" if n > 1 else ""
    )
    theirs = f"{paper['steps']:,}" if isinstance(paper.get("steps"), int) else "not stated"
    console.print(
        f"steps: {steps} (paper: {theirs}); training: {minutes:.1f} minutes on {rows[0]['device']}"
    )
    for deviation in [*(config.get("deviations") or []), *changed] or ["none are known"]:
        console.print(f"deviation: {deviation}", markup=False)


def table(name: str, folder: Path | None = None) -> str:
    """The committed results on a data set as Markdown, each kind of setting in a table of its own;
    or those of a study, or the headlines.

    folder: what holds the run directories, STUDY.csv and headlines.json; experiments/results where
        it is not given.
    """
    folder = folder or experiments_dir() / "results"
    if (file := folder / f"{name}.csv").is_file():
        return _study(file)
    if name == HEADLINES and (file := folder / f"{HEADLINES}.json").is_file():
        return _headlines(file)
    runs = {p.parent: read_json(p) for p in sorted(folder.glob("*/results.json"))}
    if not runs:
        raise InputError(
            f"{folder} holds no results; they are in the repository, not in an installed package"
        )
    own = {
        p: f for p, f in runs.items() if f["rows"] and str(f["rows"][0]["data"]).startswith(name)
    }
    if not own:
        sets = {str(f["rows"][0]["data"]).split("/")[0] for f in runs.values() if f["rows"]}
        raise unknown("table", name, sets | {p.stem for p in folder.glob("*.csv")} | {HEADLINES})
    parts = []
    measured = [m for path, facts in own.items() for m in _measured(path, facts, name)]
    kinds = {r["setting"] for m in measured for r in m["rows"]}
    for kind in sorted(kinds, key=list(SETTINGS).index):
        columns = sorted(
            {(*size(r), column(r)) for m in measured for r in m["rows"] if r["setting"] == kind}
        )
        heads = [c[-1] for c in columns]
        lines = [["", *heads]]
        for m in measured:
            rows = {column(r): r for r in m["rows"] if r["setting"] == kind}
            # A paper's numbers stand there once, however many of its rows were measured.
            lines += [line for line in _lines(m, rows, heads) if line not in lines]
        parts.append(_markdown(kind, lines))
    return "\n\n".join(parts) + "\n"


def _headlines(file: Path) -> str:
    """The rows that headlines.json names by run, data and episode: published beside ours."""
    kinds: dict[str, list[list[str]]] = {}
    for wanted in read_json(file):
        path = file.parent / wanted["run"]
        facts = read_json(path / "results.json")
        (own,) = (m for m in _measured(path, facts, "") if m["file"].endswith("/results.json"))
        row = next(r for r in own["rows"] if size(r) == size(_EPISODE | wanted["episode"]))
        episode = column(row)
        ours, *theirs = _lines(own, {episode: row}, [episode])
        published = (
            f"{theirs[0][1]} ({theirs[0][0].removeprefix('published').strip(': ')})"
            if theirs
            else ""
        )
        line = [ours[0], f"{wanted['data']}, {episode}", ours[1], published]
        kinds.setdefault(row["setting"], []).append(line)
    head = ["", "episode", "ours", "published"]
    order = sorted(kinds, key=list(SETTINGS).index)
    return "\n\n".join(_markdown(kind, [head, *kinds[kind]]) for kind in order) + "\n"


def _study(file: Path) -> str:
    """The cells of a study: its first axis downwards, the others across; seeds are averaged."""
    with file.open(newline="") as lines:
        cells = list(csv.DictReader(lines))
    names = list(cells[0])
    first, *rest = (n for n in names[: names.index("setting")] if not n.endswith("seed"))
    found: dict[str, dict[str, dict[str, list[Row]]]] = {}
    for cell in cells:
        across = (
            ", ".join(f"{n.rpartition('.')[2]} {cell[n] or 'none'}" for n in rest) or "accuracy"
        )
        rows = found.setdefault(cell["setting"], {}).setdefault(cell[first] or "none", {})
        rows.setdefault(across, []).append(cell)
    parts = []
    for kind in sorted(found, key=list(SETTINGS).index):
        heads = list(dict.fromkeys(h for row in found[kind].values() for h in row))
        body = [
            [row, *(_mean(of[h]) if h in of else "" for h in heads)]
            for row, of in found[kind].items()
        ]
        parts.append(_markdown(kind, [[first.rpartition(".")[2], *heads], *body]))
    return "\n\n".join(parts) + "\n"


def _markdown(kind: str, lines: Sequence[Sequence[str]]) -> str:
    head, *body = (f"| {' | '.join(line)} |" for line in lines)
    return "\n".join(
        [f"{kind.capitalize()}:\n", head, f"| {' | '.join('---' for _ in lines[0])} |", *body]
    )


def _mean(cells: Sequence[Row]) -> str:
    """The mean over seeds, which share their test episodes: the mean of their intervals is wide
    enough.
    """
    accuracy, half = (sum(float(c[k]) for c in cells) / len(cells) for k in ("accuracy", "ci95"))
    return f"{accuracy:.2f} ± {half:.2f}"


def _measured(path: Path, facts: Mapping[str, Any], name: str) -> Iterator[dict[str, Any]]:
    """A run's own evaluation, and those that `graphfsl evaluate` left in its folder: rows, config,
    file, changes.
    """
    own = {"config": facts["config"], "file": f"{path.name}/results.json", "changes": ""}
    yield from _by_policy(facts["rows"], own)
    for file in sorted((path / "evaluations").glob("*.json")):
        found = read_json(file)
        where = {"config": facts["config"], "file": f"{path.name}/evaluations/{file.name}"}
        rows = [r for r in found["rows"] if str(r["data"]).startswith(name)]
        yield from _by_policy(rows, {"changes": f", {' '.join(found['overrides'])}", **where})


def _by_policy(rows: Sequence[Row], facts: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A run's rows under its own BatchNorm policy, and those under another, which the published
    numbers are not of.
    """
    for policy in dict.fromkeys(r.get("batch_norm") for r in rows):
        same = [r for r in rows if r.get("batch_norm") == policy]
        if policy == rows[0].get("batch_norm"):
            yield {**facts, "rows": same}
        else:
            named = [p for p in facts["config"].get("published") or [] if "setting" in p]
            config = {**facts["config"], "published": named}
            yield {
                **facts,
                "rows": same,
                "config": config,
                "changes": f"{facts['changes']}, {policy} BatchNorm",
            }


def _lines(
    facts: Mapping[str, Any], rows: Mapping[str, Row], heads: Sequence[str]
) -> Iterator[list[str]]:
    """Numbers of a run, and below them the published ones."""
    if not rows:
        return
    first = next(iter(rows.values()))
    split = str(first["data"]).partition("/")[2]
    where = "" if split == "test" else f", *{split}* classes"
    pretrain = facts["config"].get("pretrain")
    start = f" from {named(pretrain['objective'], 'pretrain.objective')[0]}" if pretrain else ""
    label = (
        f"{first['method']}{start}{facts['changes']}{where} "
        f"([run](experiments/results/{facts['file']}))"
    )
    yield [label, *(with_interval(rows[h]) if h in rows else "" for h in heads)]
    listed = {
        column({**_EPISODE, **facts["config"].get("episode", {}), **p}): p
        for p in facts["config"].get("published") or []
        if p.get("setting", first["setting"]) == first["setting"]
    }
    numbers = {h: p for h, p in listed.items() if h in rows}
    if numbers:
        on = "" if split == "test" else " on the test classes"
        yield [
            f"published{on}: {next(iter(numbers.values())).get('source', '')}",
            *(str(numbers[h]["accuracy"]) if h in numbers else "" for h in heads),
        ]


_EPISODE = {"way": 5, "shot": 1, "unlabeled": 0, "distractors": 0}


def size(r: Row) -> tuple[int, int, int, int]:
    return (
        int(r["way"]),
        int(r["shot"]),
        int(r.get("unlabeled") or 0),
        int(r.get("distractors") or 0),
    )


def column(r: Row) -> str:
    """5-way 1-shot, 5 unlabeled, 5 distractors"""
    way, shot, unlabeled, distractors = size(r)
    text = f"{way}-way {shot}-shot"
    text += f", {unlabeled} unlabeled" if unlabeled else ""
    text += f", {distractors} distractors" if distractors else ""
    text += f", Dirichlet {r['dirichlet']:g}" if r.get("dirichlet") else ""
    return text + (
        f", pool of Dirichlet {r['pool_dirichlet']:g}" if r.get("pool_dirichlet") else ""
    )
