"""The command line. Every command imports what it needs when it runs, so that `graphfsl --help` answers at once."""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Graph and semi-supervised few-shot learning.",
)

Overrides = Annotated[list[str] | None, typer.Argument(help="key=value, such as episode.way=20 trainer.device=cuda")]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="where to write")]
Json = Annotated[bool, typer.Option("--json", help="print JSON")]


def _console() -> Any:
    from rich.console import Console

    return Console(highlight=False, soft_wrap=True)


@app.command()
def run(experiment: str, overrides: Overrides = None, out: Out = None) -> None:
    """Train an experiment file, keep the best by validation classes, evaluate it. The same command resumes."""
    from graphfsl import config, progress
    from graphfsl import run as runs

    start, console = time.perf_counter(), _console()
    settings = config.read(experiment, overrides or [])
    path = out or Path("runs") / f"{Path(experiment).stem}-{config.digest(settings)}"
    built, base = runs.prepare(settings, path)
    console.print(f"{path}: {runs.cost(built, base)}")
    built = progress.train(built, base, console)
    rows = runs.evaluate_run(built, say=console.print)
    runs.results(built, rows, time.perf_counter() - start)
    console.print(f"results: {path / 'results.json'}")


@app.command()
def evaluate(run: Path, overrides: Overrides = None, out: Out = None, as_json: Json = False) -> None:
    """Evaluate a run's checkpoint in any setting (episode.way=20) and on any data set (data.name=…)."""
    from graphfsl import run as runs
    from graphfsl.checkpoint import write_json
    from graphfsl.config import digest

    console = _console()
    rows = runs.evaluate_run(runs.load(run), overrides or [], None if as_json else console.print)
    path = out or run / "evaluations" / f"{digest({'changes': overrides or []})}.json"
    write_json(path, {"overrides": overrides or [], "rows": rows})
    if as_json:
        print(json.dumps([{k: v for k, v in r.items() if k != "accuracies"} for r in rows], indent=2))
    else:
        console.print(f"results: {path}")


@app.command()
def predict(
    run: Path,
    support: Annotated[Path, typer.Option(help="a folder per class")],
    query: Annotated[Path, typer.Option(help="a folder of images, or one image")],
    as_json: Json = False,
) -> None:
    """Classify images by a handful of labeled ones."""
    from graphfsl.data.images import image_paths, read_folder_classes
    from graphfsl.predict import load

    queries = image_paths(query)
    answers = load(run).predict(read_folder_classes(support), queries)
    found = [
        {"image": str(q), "label": a.label, "confidence": round(a.confidence, 4)}
        for q, a in zip(queries, answers, strict=False)
    ]
    if as_json:
        print(json.dumps(found, indent=2))
        return
    for answer in found:
        print(f"{answer['image']}\t{answer['label']}\t{answer['confidence']:.3f}")


@app.command()
def report(runs: list[Path], out: Out = None) -> None:
    """One HTML, Markdown and CSV report of finished runs."""
    from graphfsl.report import report_runs

    for file in report_runs(runs, out or Path("report")):
        print(file)


@app.command()
def methods(as_json: Json = False) -> None:
    """The methods that there are, by slot, with their traits and sources."""
    from graphfsl import registry

    rows = [registry.describe(slot, name) for slot, name in registry.find()]
    _table(rows, ("slot", "name", "traits", "source"), as_json)


@app.command()
def data(as_json: Json = False) -> None:
    """The data sets that there are."""
    from graphfsl import data as sets

    rows = [{"name": n, "about": " ".join((sets.about(n)).split())} for n in sets.names()]
    _table(rows, ("name", "about"), as_json)


@app.command()
def demo(overrides: Overrides = None, out: Out = None) -> None:
    """Meta-train a ProtoNet on embedded data and show what unlabeled images are worth (4 minutes on 2 cores)."""
    from graphfsl.demo import demo as show

    show(out or Path("runs/demo"), _console(), overrides or [])


def _table(rows: list[dict[str, Any]], columns: tuple[str, ...], as_json: bool) -> None:
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    from rich.table import Table

    table = Table(*columns, box=None)
    for row in rows:
        table.add_row(*(", ".join(v) if isinstance(v := row[c], list) else str(v) for c in columns))
    _console().print(table)


def main() -> None:
    """Entry point: bad input ends with one line and exit code 2, an interruption with 130."""
    from graphfsl.errors import InputError

    warnings.filterwarnings("ignore", message=".*torch.jit.script.*", category=FutureWarning)
    try:
        app()
    except InputError as error:
        print(f"graphfsl: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except SystemExit as stop:
        if stop.code == 130:  # what Typer makes of Ctrl-C
            print("graphfsl: interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        raise
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
