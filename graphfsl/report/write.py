"""Results as one self-contained web page, as Markdown, CSV and LaTeX."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from graphfsl.core.task import Task
from graphfsl.data.tasks import get
from graphfsl.experiment.results import read_results, seed_runs
from graphfsl.io.checkpoint import read_lines, write_atomically
from graphfsl.io.errors import InputError, require
from graphfsl.loops.row import Row, as_row
from graphfsl.report.diagrams import confusion, heat_maps, own_curves, own_matrices, reliability
from graphfsl.report.figures import Colors, Figure, averaged, curve_figures, curves, pool_figures
from graphfsl.report.html import to_html
from graphfsl.report.tables import (
    PLOTTED,
    Line,
    Section,
    group,
    metric_of,
    task_of,
    to_csv,
    to_latex,
    to_markdown,
)

DIAGNOSED = 4  # rows with diagrams of their own
MATRICES = 6  # rows whose matrix is shown


def write_report(
    out: Path,
    title: str,
    rows: Sequence[Row | Line],
    histories: Mapping[str, Sequence[Line]] | None = None,
    pictures: Sequence[Figure] = (),
    notes: Sequence[str] = (),
    findings: Sequence[str] = (),
    effects: Sequence[Line] = (),
    failures: Sequence[tuple[str, str]] = (),
    sections: Sequence[Section] = (),
) -> list[Path]:
    """Write report.html, report.md, report.csv and report.tex into `out`.

    Args:
        out: the folder.
        title: of the report.
        rows: as `results.full_row` makes them.
        histories: the lines of metrics.jsonl by label.
        pictures: (caption, SVG), above the tables.
        notes: lines of text, with `code`.
        findings: lines of text, with `code`.
        effects: a study's comparisons, as `findings.findings` lists them.
        failures: (cell, what went wrong).
        sections: further tables, below those of the rows.

    Returns:
        The files.
    """
    lines = [_line(as_row(row)) for row in rows]
    lines.sort(key=group)
    figures = figures_of(lines, histories or {})
    bare = [{k: v for k, v in line.items() if k not in PLOTTED} for line in lines]
    texts = {
        "html": to_html(
            title, bare, figures, pictures, notes, findings, effects, failures, sections
        ),
        "md": to_markdown(title, bare, notes, findings, sections),
        "csv": to_csv(lines),
        "tex": to_latex(title, bare),
    }
    files = []
    for ending, text in texts.items():
        file = Path(out) / f"report.{ending}"
        write_atomically(file, text.encode())
        files.append(file)
    return files


def _line(row: Row) -> dict[str, Any]:
    """A row as tables take it, with the task's fields that it does not name."""
    fields = {f.name: f.default for f in dataclasses.fields(get(row.task))}
    named = {name: value for name, value in fields.items() if name in ("unlabeled", "distractors")}
    return named | {key: _told(value) for key, value in row.to_dict().items()}


def _told(value: Any) -> Any:
    """A value of a row; None for a number that is none.

    Earlier versions wrote one for the interval of one episode.
    """
    return None if isinstance(value, float) and not math.isfinite(value) else value


def figures_of(
    rows: Sequence[Line], histories: Mapping[str, Sequence[Line]]
) -> dict[str, list[Figure]]:
    """All pictures of some rows, with what `diagnose` found of them, and of trainings, by heading.

    Each picture is of one kind of setting, but that against unlabeled samples, whose lines name
    theirs.
    """
    heat: list[Figure] = []
    for metric in dict.fromkeys(map(metric_of, rows)):
        heat += heat_maps([row for row in rows if metric_of(row) == metric])
    training: list[Figure] = []
    for label, lines in histories.items():
        training += curves(label, lines)
    shown = _diagnosed(rows)
    return {
        **_curves(rows, Colors()),
        "One axis against another": heat,
        "Which classes are taken for which": [confusion(r) for r in shown if r.get("confusion")],
        "How far the probabilities can be trusted": [reliability(r) for r in shown],
        "Session by session": own_curves([r for r in rows if r.get("curve")]),
        "What was learned when, and what became of it": own_matrices(
            [r for r in rows if r.get("matrix")][:MATRICES]
        ),
        "Training": training,
    }


def _diagnosed(rows: Sequence[Line]) -> list[Line]:
    """The rows with diagrams of their own: of each kind of setting and task the first good one.

    Good ones are the best or, where none is called so, all but baselines.
    """
    good = [r for r in rows if r.get("best")] or [r for r in rows if not r.get("baseline")]
    first = {}
    for r in reversed(good):
        if r.get("reliability"):
            first[r.get("setting"), *group(r)] = r  # in place of a later row
    return list(reversed(first.values()))[:DIAGNOSED]


def _curves(rows: Sequence[Line], colors: Colors) -> dict[str, list[Figure]]:
    """The first metric against the pool and each number of the task that it names, by heading."""
    found: dict[str, list[Figure]] = {}
    for task in dict.fromkeys(map(task_of, rows)):
        own = [row for row in rows if task_of(row) is task]
        name = next(iter(task().metrics))
        metric = name[0].upper() + name[1:]
        if task.pool_curve:
            heading = f"{metric} against {task.pool_curve.heading}"
            found[heading] = pool_figures(averaged(own), task.pool_curve, colors)
        for field, (words, axis) in task.curves.items():
            found[f"{metric} against {words}"] = curve_figures(own, field, axis, colors)
    return found


def report_runs(paths: Sequence[Path], out: Path) -> list[Path]:
    """Write the report of finished run directories.

    Those of `seeds=` stand with one row for all seeds, as they were run.

    Returns:
        The files.

    Raises:
        InputError: for a directory that is named twice, and one that holds no results or damaged
            ones.
    """
    places = [Path(p).resolve() for p in paths]
    twice = next((path for path in places if places.count(path) > 1), None)
    require(twice is None, f"{twice} is named twice; name each run once")
    names = [place.name for place in places]
    rows: list[Row] = []
    histories: dict[str, list[Line]] = {}
    notes: list[str] = []
    for path, name in zip(map(Path, paths), names, strict=True):
        label = name if names.count(name) == 1 else str(path)
        seeds = seed_runs(path)
        results = read_results(_existing(path / "results.json", seeds))
        try:
            checked = _checked(results.rows)
            rows += [Row.from_dict(r).replace(run=r.get("run") or label) for r in checked]
            for folder in seeds or [path]:
                log = folder / "metrics.jsonl"
                # nothing to train leaves no metrics
                if log.is_file() or any(r.get("steps") for r in checked):
                    histories[f"{label}/{folder.name}" if seeds else label] = [
                        *read_lines(_existing(log))
                    ]
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{path / 'results.json'} is damaged ({error!r}); run it again"
            ) from None
        notes.append(f"`{label}`: {', '.join(results.made_with)}")
        if results.deviations:
            notes.append(f"`{label}` differs from its paper: {'; '.join(results.deviations)}")
    title = ", ".join(names) if len(names) < 4 else f"{len(names)} runs"
    return write_report(out, f"graphfsl: {title}", rows, histories, notes=notes)


# What every row of a report must have; a file that lacks it was cut, or is of another program.
NEEDED: dict[str, Any] = {"data": str, "setting": str, "method": str}


def _checked(rows: Sequence[Line]) -> Sequence[Line]:
    """The rows; KeyError or TypeError where one is none."""
    for row in rows:
        for key, kind in {**NEEDED, metric_of(row): (int, float)}.items():
            if not isinstance(row[key], kind):
                raise TypeError(f"{key} is {row[key]!r}")
        for name in task_of(row).always_shown:
            if name != "query":
                _check_field(task_of(row), name, row[name])
        if row.get("reliability") is not None and not _is_of_numbers(row["reliability"], 3):
            raise TypeError("reliability is no list of bins")
        if (table := row.get("confusion")) is not None and not _is_of_numbers(
            table["counts"], len(table["classes"])
        ):
            raise TypeError("confusion is no table of counts")
    return rows


def _check_field(task: type[Task], name: str, value: Any) -> None:
    """TypeError where a field of a task is of another kind than it can be."""
    kind = type(next(f.default for f in dataclasses.fields(task) if f.name == name))
    if kind is not type(None) and not isinstance(value, (int, float) if kind is float else kind):
        raise TypeError(f"{name} is {value!r}")


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
