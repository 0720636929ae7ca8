"""Results as one self-contained web page, as Markdown, CSV and LaTeX."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from graphfsl.experiment.results import seed_runs
from graphfsl.io.checkpoint import read_json, read_lines, write_atomically
from graphfsl.io.errors import InputError
from graphfsl.report.diagrams import confusion, heat_maps, reliability
from graphfsl.report.figures import Colors, Figure, averaged, curve_figures, curves, pool_figures
from graphfsl.report.html import to_html
from graphfsl.report.tables import DRAWN, Row, group, to_csv, to_latex, to_markdown

DIAGNOSED = 4  # rows with diagrams of their own


def write_report(
    out: Path,
    title: str,
    rows: Sequence[Row],
    histories: Mapping[str, Sequence[Row]] | None = None,
    pictures: Sequence[Figure] = (),
    notes: Sequence[str] = (),
    findings: Sequence[str] = (),
    effects: Sequence[Row] = (),
    failures: Sequence[tuple[str, str]] = (),
) -> list[Path]:
    """report.html, report.md, report.csv and report.tex in `out`, from rows as `results.full_row`
    makes them.

    histories: the lines of metrics.jsonl by label. pictures: (caption, SVG), above the tables.
    notes, findings: lines of text, with `code`. effects: a study's comparisons, as
    `findings.findings` lists them. failures: (cell, what went wrong).
    """
    rows = [
        {"unlabeled": 0, "distractors": 0}
        | {k: _told(v) for k, v in r.items() if k != "accuracies"}
        for r in rows
    ]
    rows.sort(key=group)
    figures = figures_of(rows, histories or {})
    bare = [{k: v for k, v in r.items() if k not in DRAWN} for r in rows]
    texts = {
        "html": to_html(title, bare, figures, pictures, notes, findings, effects, failures),
        "md": to_markdown(title, bare, notes, findings),
        "csv": to_csv(bare),
        "tex": to_latex(title, bare),
    }
    for ending, text in texts.items():
        write_atomically(Path(out) / f"report.{ending}", text.encode())
    return [Path(out) / f"report.{ending}" for ending in texts]


def _told(value: Any) -> Any:
    """A value of a row; None for a number that is none, as earlier versions wrote for the interval
    of one episode.
    """
    return None if isinstance(value, float) and not math.isfinite(value) else value


def figures_of(
    rows: Sequence[Row], histories: Mapping[str, Sequence[Row]]
) -> dict[str, list[Figure]]:
    """All pictures of some rows (with what `diagnose` found of them) and trainings, by heading.
    Each picture is of one kind of setting, but that against unlabeled samples, whose lines name
    theirs."""
    best = [r for r in rows if r.get("best")] or [r for r in rows if not r.get("baseline")]
    shown = list(
        {(r.get("setting"), *group(r)): r for r in reversed(best) if r.get("reliability")}.values()
    )[::-1]
    colors = Colors()
    return {
        "Accuracy against unlabeled samples": pool_figures(averaged(rows), colors),
        "Accuracy against shots": curve_figures(rows, "shot", "labeled samples per class", colors),
        "Accuracy against distractors": curve_figures(
            rows, "distractors", "distractor classes", colors
        ),
        "One axis against another": heat_maps(rows),
        "Which classes are taken for which": [
            confusion(r) for r in shown[:DIAGNOSED] if r.get("confusion")
        ],
        "How far the probabilities can be trusted": [reliability(r) for r in shown[:DIAGNOSED]],
        "Training": [f for label, lines in histories.items() for f in curves(label, lines)],
    }


def report_runs(paths: Sequence[Path], out: Path) -> list[Path]:
    """The report of finished run directories; those of `seeds=` stand with one row for all seeds,
    as they were run.
    """
    names = [Path(p).resolve().name for p in paths]
    rows: list[Row] = []
    histories: dict[str, list[Row]] = {}
    notes: list[str] = []
    for path, name in zip(map(Path, paths), names, strict=True):
        label = name if names.count(name) == 1 else str(path)
        seeds = seed_runs(path)
        facts = read_json(_existing(path / "results.json", seeds))
        try:
            rows += [{"run": label, **r} for r in _checked(facts["rows"])]
            for folder in seeds or [path]:
                log = folder / "metrics.jsonl"
                # nothing to train leaves no metrics
                if log.is_file() or any(r.get("steps") for r in facts["rows"]):
                    histories[f"{label}/{folder.name}" if seeds else label] = [
                        *read_lines(_existing(log))
                    ]
            deviations = list((facts.get("config") or {}).get("deviations") or [])
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{path / 'results.json'} is damaged ({error!r}); run it again"
            ) from None
        where = (f"{k} {facts[k]}" for k in ("graphfsl", "torch", "python", "when") if facts.get(k))
        notes.append(f"`{label}`: {', '.join(where)}")
        if deviations:
            notes.append(f"`{label}` differs from its paper: {'; '.join(map(str, deviations))}")
    title = ", ".join(names) if len(names) < 4 else f"{len(names)} runs"
    return write_report(out, f"graphfsl: {title}", rows, histories, notes=notes)


# What every row of a report must have; a file that lacks it was cut, or is of another program.
NEEDED: dict[str, Any] = {
    "data": str,
    "way": int,
    "shot": int,
    "setting": str,
    "method": str,
    "accuracy": (int, float),
}


def _checked(rows: Sequence[Row]) -> Sequence[Row]:
    for row in rows:
        for key, kind in NEEDED.items():
            if not isinstance(row[key], kind):
                raise TypeError(f"{key} is {row[key]!r}")
        if row.get("reliability") is not None and not _is_of_numbers(row["reliability"], 3):
            raise TypeError("reliability is no list of bins")
        if (table := row.get("confusion")) is not None and not _is_of_numbers(
            table["counts"], len(table["classes"])
        ):
            raise TypeError("confusion is no table of counts")
    return rows


def _is_of_numbers(lines: Any, width: int) -> bool:
    """Whether a value is a list of lists of so many numbers."""
    return isinstance(lines, list) and all(
        isinstance(line, list)
        and len(line) == width
        and all(isinstance(v, (int, float)) for v in line)
        for line in lines
    )


def _existing(file: Path, seeds: Sequence[Path] = ()) -> Path:
    if not file.is_file():
        each = f", or name one seed: {', '.join(map(str, seeds))}" if seeds else ""
        raise InputError(f"{file} not found; has this run finished? run `graphfsl run` again{each}")
    return file
