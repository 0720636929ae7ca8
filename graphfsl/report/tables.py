"""Results rows as tables: Markdown, CSV and LaTeX. Settings never share a table."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from graphfsl.core.task import Task
from graphfsl.data.tasks import DEFAULT, get
from graphfsl.io.plain_text import csv_table
from graphfsl.loops.row import ACCURACY, MetricValue

Line = Mapping[str, Any]  # a row as a file holds it

SETTINGS = {
    "inductive": "Each query is answered alone, from the labeled samples; unlabeled ones, where "
    "present, are not used.",
    "semi-supervised": "Each query is answered alone, from the labeled and the unlabeled samples "
    "of its episode.",
    "transductive": "The queries of an episode are answered together: each may change the "
    "answers to the others.",
    "semi-supervised + transductive": "Unlabeled samples are used, and an episode's queries are "
    "answered together.",
    "active": "Each query is answered alone, after the labels of chosen unlabeled samples were "
    "asked for.",
    "inductive + class names": "Each query is answered alone, from the labeled samples "
    "and from the names of the classes, which no other learner is told.",
    "semi-supervised + class names": "Unlabeled samples are used, and the names of the "
    "classes, which no other learner is told.",
    "transductive + class names": "The queries of an episode are answered together, with "
    "the names of the classes, which no other learner is told.",
    "active + transductive": "Labels of chosen unlabeled samples are asked for, and queries are "
    "answered together.",
}
DIVERGES = "diverges"  # in place of a number: the inner loop left no finite answer
BOLD = "Bold: the best of its kind on its episodes, and what the same episodes cannot tell from it."
# Of a line, for pictures only.
PLOTTED = ("accuracies", "values", "reliability", "confusion", "curve", "matrix")
# The columns of a table after those of the task, in this order; a CSV file has all others, too.
AFTER = (
    "published",
    "difference",
    "source",
    "episodes",
    "batch_norm",
    "steps",
    "paper_steps",
    "run",
)
DETAILS = ("setting", "baseline", "traits", "seed", "config", "commit", "device", "seconds")
TEXT_HEADERS = ("method", "data", "source", "batch norm", "run")  # of columns of text
FORMS = {"difference": "+.2f", "episodes": ",", "steps": ",", "paper_steps": ","}
# What every row of a table shares is said once, above it.
SAME = {
    "run": "",
    "data": "",
    "episodes": " episodes",
    "batch_norm": " BatchNorm",
}


def task_of(line: Line) -> type[Task]:
    """The kind of task that a line is of."""
    return get(line.get("task", DEFAULT))


def metric_of(line: Line) -> str:
    """The name of a line's first metric."""
    name: str = line.get("metric", ACCURACY)
    return name


def unit_of(line: Line) -> str:
    """The unit of a line's first metric; a record has it in a column, where it has one."""
    name = metric_of(line)
    known = (line.get("metrics") or {}).get(name, line).get("unit")
    return known or ("%" if name == ACCURACY else "")


def value_of(line: Line) -> Any:
    """The value of a line's first metric, as people are shown it."""
    return line.get(metric_of(line))


def axis_of(line: Line) -> str:
    """The words for a line's first metric along an axis: "accuracy (%)"."""
    unit = unit_of(line)
    return metric_of(line) + (f" ({unit})" if unit else "")


def interval_note(lines: Sequence[Line]) -> str:
    """What the numbers of some lines are: "Accuracy in percent; ± is …"."""
    told = dict.fromkeys((metric_of(line), unit_of(line)) for line in lines)
    names = [name + (" in percent" if unit == "%" else f" in {unit}" if unit else "")
             for name, unit in told]  # fmt: skip
    what = "; ".join(names) or "accuracy in percent"
    return f"{what[0].upper()}{what[1:]}; ± is the 95% interval of the mean over episodes."


@dataclass(frozen=True)
class Table:
    """The rows of one kind of setting and one metric, as text.

    Attributes:
        kind: of the setting.
        metric: the name of its column.
        meaning: what the kind of setting means.
        rows: as they were measured.
        headers: of the columns.
        cells: the text of each row.
        best: which rows are bold.
        text: which columns are words.
    """

    kind: str
    metric: str
    meaning: str
    rows: list[Line]
    headers: list[str]
    cells: list[tuple[str, ...]]
    best: list[bool]
    text: list[bool]


def asked_of(line: Line) -> Task:
    """What a line was asked; a field that it does not name is as by default."""
    task = task_of(line)
    fields = {name: line[name] for name in task.columns_shown() if line.get(name) is not None}
    return task(**fields)


def group(line: Line) -> tuple[Any, ...]:
    """The key of lines that are compared; sorting by it keeps their order inside."""
    asked = asked_of(line)
    every = (str(getattr(asked, name)) for name in asked.columns_shown())
    return str(line.get("data")), *(asked.size or every)


def finite(value: Any) -> bool:
    """Whether a value is a number, neither infinite nor NaN."""
    return isinstance(value, (int, float)) and math.isfinite(value)


def axes_of(rows: Sequence[Line]) -> list[str]:
    """The axes of a study, in the order of its grid."""
    return list(dict.fromkeys(a for r in rows for a in r.get("cell") or ()))


def level(r: Line, axis: str) -> str:
    """The level of a study's axis in a row, as text."""
    value = (r.get("cell") or {}).get(axis, "")
    return "none" if value is None else str(value)


def _cell(line: Line, key: str) -> str:
    """A value as text."""
    value = line.get(key)
    if value is None:
        return ""
    if key == metric_of(line):
        return number_of(line)
    text = format(value, FORMS.get(key, "")) if finite(value) else str(value)
    if key == "method" and line.get("baseline"):
        return f"{text} (baseline)"
    return text.replace("-", "−") if key == "difference" else text


def number_of(line: Line) -> str:
    """A line's first metric with its interval, and its spread over seeds: "61.20 ± 0.45"."""
    name, half = metric_of(line), line.get("ci95")
    interval = half if finite(half) else None
    text = MetricValue(line[name], interval, unit_of(line)).number
    if finite(line.get("spread")):
        text += f" ({line['seeds']} seeds, s.d. {line['spread']:.2f})"
    return text


def tables(lines: Sequence[Line]) -> Iterator[Table]:
    """The tables of rows, one for each setting and metric.

    Columns that say nothing are left out; axes of a study come first.
    """
    kinds = [*SETTINGS, *sorted({str(line.get("setting")) for line in lines})]
    metrics = dict.fromkeys(map(metric_of, lines))
    for kind in dict.fromkeys(kinds):
        for metric in metrics:
            members = [
                line
                for line in lines
                if str(line.get("setting")) == kind and metric_of(line) == metric
            ]
            if members:
                yield _table(kind, metric, members)


def _table(kind: str, metric: str, members: Sequence[Line]) -> Table:
    """The table of the rows of one kind of setting and one metric."""
    axes = {axis: [level(line, axis) for line in members] for axis in axes_of(members)}
    spoken = _without_axes(_columns(metric, members), axes)
    shared, columns = _shared(spoken, members)

    headers = [*axes, *(key.replace("_", " ") for key in columns)]
    cells = list(zip(*axes.values(), *columns.values(), strict=True))
    rows = list(members)
    if not is_pool_setting(kind):
        rows, cells = _folded(members, headers, cells)

    of_text = {*axes, *TEXT_HEADERS, *_text_fields(rows)}
    return Table(
        kind=kind,
        metric=metric,
        meaning=_meaning(kind, shared),
        rows=rows,
        headers=headers,
        cells=cells,
        best=[bool(row.get("best")) for row in rows],
        text=[header in of_text for header in headers],
    )


def _without_axes(
    columns: Mapping[str, list[str]], axes: Mapping[str, list[str]]
) -> dict[str, list[str]]:
    """The columns that a study's axes, which tell its rows apart, do not say already."""
    if not axes:
        return dict(columns)
    said = {axis.rpartition(".")[2] for axis in axes} | {"steps", "run"}
    if len(set(columns["method"])) == 1:
        said.add("method")
    return {key: column for key, column in columns.items() if key not in said}


def _meaning(kind: str, shared: Sequence[str]) -> str:
    """What a kind of setting means, and what all rows share."""
    if not shared:
        return SETTINGS.get(kind, "")
    return f"{SETTINGS.get(kind, '')} All rows: {', '.join(shared)}."


def is_pool_setting(kind: str) -> bool:
    """Whether rows of this kind of setting are of learners that read unlabeled samples."""
    return "semi" in kind or "active" in kind


def _columns(metric: str, lines: Sequence[Line]) -> dict[str, list[str]]:
    """Key -> text of each line, without the columns that say nothing."""
    columns: dict[str, list[str]] = {}
    tasks = dict.fromkeys(map(task_of, lines))
    fields = dict.fromkeys(name for task in tasks for name in task.columns_shown())
    silent = {name: str(default) for task in tasks for name, default in task.silent().items()}
    for key in ("method", "data", *fields, metric, *AFTER):
        column = [_cell(line, key) for line in lines]
        if key == "method" or set(column) - {"", silent.get(key, "")}:
            columns[key] = column
    return columns


def _shared(
    columns: dict[str, list[str]], lines: Sequence[Line]
) -> tuple[list[str], dict[str, list[str]]]:
    """What all rows share, in words, and the columns that are left."""
    words = dict(SAME)
    for task in dict.fromkeys(map(task_of, lines)):
        words |= task.shared
    order = ["run", "data", *(k for k in words if k not in SAME), "episodes", "batch_norm"]
    equal = [key for key in order if len(set(columns.get(key, ()))) == 1]
    left = {key: column for key, column in columns.items() if key not in equal}
    return [columns[key][0] + words[key] for key in equal], left


def _text_fields(lines: Sequence[Line]) -> set[str]:
    """The task's fields that are words."""
    tasks = dict.fromkeys(map(task_of, lines))
    fields = [f for task in tasks for f in dataclasses.fields(task)]
    return {f.name.replace("_", " ") for f in fields if isinstance(f.default, str)}


def _folded(
    rows: Sequence[Line], headers: Sequence[str], cells: Sequence[tuple[str, ...]]
) -> tuple[list[Line], list[tuple[str, ...]]]:
    """Rows that are equal but for a pool which their method leaves alone, as one.

    It says "0, 5, 10" unlabeled.
    """
    of_pool = [h.rpartition(".")[2] in ("unlabeled", "distractors") for h in headers]
    same: dict[tuple[str, ...], list[int]] = {}
    for number, line in enumerate(cells):
        own = tuple(cell for cell, is_pool in zip(line, of_pool, strict=True) if not is_pool)
        same.setdefault(own, []).append(number)
    lines = []
    for members in same.values():
        columns = zip(*(cells[number] for number in members), strict=True)
        lines.append(tuple(", ".join(dict.fromkeys(column)) for column in columns))
    return [rows[members[0]] for members in same.values()], lines


def to_csv(lines: Sequence[Line]) -> str:
    """A report as CSV: all that rows hold, but what is for pictures only."""
    tasks = dict.fromkeys([get(DEFAULT), *map(task_of, lines)])
    own = dict.fromkeys(name for task in tasks for name in task.columns_shown())
    metrics = dict.fromkeys([ACCURACY, *map(metric_of, lines)])
    # the kind of task is told where there is another one than usual
    other = any(task is not get(DEFAULT) for task in tasks)
    kind = ["task", "metric", "unit"] if other else []
    fields = ["method", "data", *kind, *own, *metrics, "ci95", *AFTER, *DETAILS]
    others = sorted(
        {key for line in lines for key in line} - {*fields, *PLOTTED, "task", "metric", "metrics"}
    )
    further = sorted(
        {name for line in lines for name in line.get("metrics") or {}} - {*fields, *others}
    )
    rows = []
    for line in lines:
        told = {**line, "unit": unit_of(line)} if other else line
        values = [told.get(key) for key in (*fields, *others)]
        values += [((line.get("metrics") or {}).get(k) or {}).get("value") for k in further]
        rows.append([json.dumps(v) if isinstance(v, (list, dict)) else v for v in values])
    return csv_table([*fields, *others, *further], rows)


def plain(text: str) -> str:
    """User text on one line of Markdown, without HTML, links or table bars; `code` stays."""
    text = re.sub(r"(`[^`]*`)|[<>&]", lambda m: m[1] or escape(m[0]), " ".join(text.split()))
    return re.sub(r"([|\[\]])", r"\\\1", text)


@dataclass(frozen=True)
class Section:
    """A table of text with a heading, beside those of the rows.

    Args:
        heading: above it.
        text: what it shows.
        headers: of the columns.
        lines: their cells.
        words: how many columns hold words, which are the first ones; the others hold numbers.
    """

    heading: str
    text: str
    headers: Sequence[str]
    lines: Sequence[Sequence[str]]
    words: int


def to_markdown(
    title: str,
    rows: Sequence[Line],
    notes: Sequence[str],
    findings: Sequence[str] = (),
    sections: Sequence[Section] = (),
) -> str:
    """A report as Markdown: notes, findings, and a table for each kind of setting.

    Args:
        title: of the report.
        rows: as they were measured.
        notes: lines of text.
        findings: lines of text.
        sections: further tables, below those of the rows.
    """
    parts = [f"# {plain(title)}", "\n".join(f"- {plain(n)}" for n in notes)]
    parts += ["## Findings", "\n".join(f"- {plain(f)}" for f in findings)] if findings else []
    parts += [interval_note(rows) + (f" {BOLD}" if any(r.get("best") for r in rows) else "")]
    for t in tables(rows):
        lines = [t.headers, ["---" if text else "--:" for text in t.text]]
        at = t.headers.index(t.metric)
        for cells, best in zip(t.cells, t.best, strict=True):
            line = [plain(c) for c in cells]
            line[at] = f"**{line[at]}**" if best else line[at]
            lines.append(line)
        parts += [
            f"## {plain(t.kind)}",
            plain(t.meaning),
            "\n".join(f"| {' | '.join(row)} |" for row in lines),
        ]
    for section in sections:
        numbers = len(section.headers) - section.words
        ruler = ["---"] * section.words + ["--:"] * numbers
        told = [[plain(cell) for cell in line] for line in section.lines]
        whole = [list(section.headers), ruler, *told]
        parts += [
            f"## {plain(section.heading)}",
            plain(section.text),
            "\n".join(f"| {' | '.join(row)} |" for row in whole),
        ]
    return "\n\n".join(filter(None, parts)) + "\n"


_TEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "−": "$-$",
}


def tex(text: str) -> str:
    """User text as LaTeX shows it."""
    return re.sub(r"[\\~^±−&%$#_{}]", lambda m: _TEX.get(m[0], f"\\{m[0]}"), " ".join(text.split()))


def to_latex(title: str, rows: Sequence[Line]) -> str:
    """A report as LaTeX: a table environment (booktabs) for each setting."""
    parts = ["% needs \\usepackage{booktabs}"]
    for t in tables(rows):
        at = t.headers.index(t.metric)
        lines = []
        for cells, best in zip(t.cells, t.best, strict=True):
            line = [tex(c) for c in cells]
            line[at] = f"\\textbf{{{line[at]}}}" if best else line[at]
            lines.append(" & ".join(line) + r" \\")
        parts += [
            r"\begin{table}",
            r"\centering",
            f"\\caption{{{tex(title)}: {tex(t.kind)}. {tex(t.meaning)} "
            f"{tex(interval_note(rows))}}}",
            f"\\begin{{tabular}}{{{''.join('l' if text else 'r' for text in t.text)}}}",
            r"\toprule",
            " & ".join(tex(h) for h in t.headers) + r" \\",
            r"\midrule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
    return "\n".join(parts) + "\n"
