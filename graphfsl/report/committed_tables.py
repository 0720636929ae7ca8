"""The tables of the documentation, from the committed results.

There are those of a data set, those of a study, those that a command wrote as CSV, and the
headlines.
"""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from graphfsl.io.checkpoint import read_json
from graphfsl.io.errors import InputError, unknown
from graphfsl.io.package_data import experiments_dir
from graphfsl.io.plain_text import unguarded
from graphfsl.loops.row import ACCURACY
from graphfsl.report.results_csv import (
    EPISODE,
    column,
    is_record,
    read_record,
    read_records,
    size,
)
from graphfsl.report.tables import DIVERGES, SETTINGS, Line, number_of

HEADLINES = "headlines"  # the table of the README
MOST_COLUMNS = 8  # of a table of a study, beside its first


def table(name: str, folder: Path | None = None) -> str:
    """Committed results as Markdown: of a data set, of a study, or the headlines.

    Each kind of setting of a data set is a table of its own.

    Args:
        name: of the data set, study or table, or `headlines`.
        folder: what holds the records of data sets, STUDY.csv and headlines.json;
            experiments/results where it is not given.

    Raises:
        InputError: for an unknown name, and where there are no results.
    """
    folder = folder or experiments_dir() / "results"
    file = folder / f"{name}.csv"
    if file.is_file() and not is_record(file):
        return _study(file) if is_study(file) else _as_it_is(file)
    rows = read_records(folder)
    if not rows:
        raise InputError(
            f"{folder} holds no results; they are in the repository, not in an installed package"
        )
    if name == HEADLINES:
        return _headlines(rows, folder / f"{HEADLINES}.json")
    if file.is_file():
        own = read_record(file)
    else:
        own = [row for row in rows if row["data"].startswith(name)]
    if not own:
        sets = {row["data"].partition("/")[0] for row in rows}
        raise unknown("table", name, sets | {p.stem for p in folder.glob("*.csv")} | {HEADLINES})
    parts = []
    for kind in sorted({row["setting"] for row in own}, key=list(SETTINGS).index):
        same = [row for row in own if row["setting"] == kind]
        columns = sorted({(size(row), column(row)) for row in same})
        heads = [head for _, head in columns]
        lines = [["", *heads]]
        for measured in _measurements(same):
            # A paper's numbers stand there once, however many of its rows were measured.
            lines += [line for line in _lines(measured, heads) if line not in lines]
        parts.append(_markdown(kind, lines))
    return "\n\n".join(parts) + "\n"


def is_study(file: Path) -> bool:
    """Whether a CSV holds the cells of a study; else it is a table as a command wrote it."""
    with file.open(newline="", encoding="utf-8") as lines:
        return "setting" in next(csv.reader(lines), [])


def _as_it_is(file: Path) -> str:
    """The lines of a CSV; turned, so that lines become columns, where it has too many of these."""
    with file.open(newline="", encoding="utf-8") as text:
        lines = [[unguarded(cell) for cell in line] for line in csv.reader(text)]
    if len(lines[0]) > MOST_COLUMNS:
        lines = [list(column) for column in zip(*lines, strict=True)]
    return _pipe_table(lines) + "\n"


def _headlines(rows: Sequence[Line], file: Path) -> str:
    """The rows that headlines.json names by run, data and episode: published beside ours."""
    kinds: dict[str, list[list[str]]] = {}
    for wanted in read_json(file):
        own = [row for row in rows if row["file"] == f"{wanted['run']}/results.json"]
        row = next(row for row in own if size(row) == size(EPISODE | wanted["episode"]))
        label, ours, published = _beside_published(row)
        line = [label, f"{wanted['data']}, {column(row)}", ours, published]
        kinds.setdefault(row["setting"], []).append(line)
    head = ["", "episode", "ours", "published"]
    order = sorted(kinds, key=list(SETTINGS).index)
    return "\n\n".join(_markdown(kind, [head, *kinds[kind]]) for kind in order) + "\n"


def _beside_published(row: Line) -> tuple[str, str, str]:
    """A row's method, its number, and the published one with its source, or ""."""
    episode = column(row)
    (label, ours), *theirs = _lines({episode: row}, [episode])
    if not theirs:
        return label, ours, ""
    source, number = theirs[0]
    return label, ours, f"{number} ({source.removeprefix('published').strip(': ')})"


def _measurements(rows: Sequence[Line]) -> Iterator[dict[str, Line]]:
    """Rows that differ in their column only, by that column: they make one line of a table.

    Those of an ensemble of a run's weights, which the method says, are others.
    """
    found: dict[tuple[str, ...], dict[str, Line]] = {}
    for row in rows:
        line = found.setdefault((row["file"], row["variant"], row["method"]), {})
        line[column(row)] = row
    yield from found.values()


def _study(file: Path) -> str:
    """The cells of a study: its first axis downwards, the others across; seeds are summed up.

    Where there would be too many columns, each level of the second axis has a table of its own. A
    value that lacks seeds, since their training failed, says so.
    """
    with file.open(newline="") as lines:
        cells = list(csv.DictReader(lines))
    names = list(cells[0])
    end = names.index("setting")  # the columns before are axes, and the one behind is the metric
    metric = names[end + 1]
    axes = [name for name in names[:end] if not name.endswith("seed")]
    made = _made(cells, axes)
    apart, across = _layout(made, [a for a in axes[1:] if _number_of_levels(cells, a) > 1])

    tables: dict[tuple[str, str], list[Line]] = {}
    for cell in made:
        tables.setdefault((cell["setting"], _levels(cell, apart)), []).append(cell)
    parts = []
    for kind, level in sorted(tables, key=lambda key: list(SETTINGS).index(key[0])):
        head = f"{kind}, {level}" if level else kind
        parts.append(_markdown(head, _study_lines(tables[kind, level], axes[0], across, metric)))
    return "\n\n".join(parts) + "\n"


def _made(cells: Sequence[Line], axes: Sequence[str]) -> list[Line]:
    """The cells that have a value; `seeds` says how many there should be that differ in no axis."""
    asked = Counter(_levels(cell, axes) for cell in cells)
    return [{**cell, "seeds": str(asked[_levels(cell, axes)])} for cell in cells if cell["setting"]]


def _layout(cells: Sequence[Line], axes: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """The axes whose levels have tables of their own, at most one, and those across a table."""
    columns = math.prod(_number_of_levels(cells, axis) for axis in axes)
    return (axes[:1], axes[1:]) if columns > MOST_COLUMNS else ([], axes)


def _number_of_levels(cells: Sequence[Line], axis: str) -> int:
    return len({cell[axis] for cell in cells})


def _study_lines(
    cells: Sequence[Line], first: str, across: Sequence[str], metric: str
) -> list[list[str]]:
    """Cells as lines of text, below a line of heads."""
    found: dict[str, dict[str, list[Line]]] = {}
    for cell in cells:
        row = found.setdefault(cell[first] or "none", {})
        row.setdefault(_levels(cell, across) or metric, []).append(cell)
    heads = list(dict.fromkeys(head for row in found.values() for head in row))
    body = [
        [level, *(_over_seeds(row[h], metric) if h in row else "" for h in heads)]
        for level, row in found.items()
    ]
    return [[first.rpartition(".")[2], *heads], *body]


def _levels(cell: Line, axes: Sequence[str]) -> str:
    """The levels of a cell along some axes: "shot 5, distractors none"."""
    return ", ".join(f"{axis.rpartition('.')[2]} {cell[axis] or 'none'}" for axis in axes)


def _markdown(kind: str, lines: Sequence[Sequence[str]]) -> str:
    return f"{kind.capitalize()}:\n\n{_pipe_table(lines)}"


def _pipe_table(lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table of lines of cells, the first of them the heads."""
    head, *body = (f"| {' | '.join(line)} |" for line in lines)
    return "\n".join([head, f"| {' | '.join('---' for _ in lines[0])} |", *body])


def _over_seeds(cells: Sequence[Line], metric: str) -> str:
    """Of an accuracy, or another share, the mean over seeds; of an error the median.

    An error has no upper bound.

    A mean has the mean of the intervals: seeds share their test episodes, so that it is wide
    enough. The median is the cell in the middle, of an even number the worse of the two.
    """
    asked = int(cells[0]["seeds"])
    lack = "" if len(cells) == asked else f" ({len(cells)} of {asked} seeds)"
    if metric == ACCURACY or cells[0].get("unit") == "%":
        value, half = (sum(float(c[k]) for c in cells) / len(cells) for k in (metric, "ci95"))
        return f"{value:.2f} ± {half:.2f}{lack}"
    middle = sorted(cells, key=lambda cell: _error(cell[metric]))[len(cells) // 2]
    if middle[metric] == DIVERGES:
        return f"{DIVERGES}{lack}"
    return f"{float(middle[metric]):.4g} ± {float(middle['ci95']):.4g}{lack}"


def _error(text: str) -> float:
    return math.inf if text == DIVERGES else float(text)


def _lines(rows: Mapping[str, Line], heads: Sequence[str]) -> Iterator[list[str]]:
    """Numbers of a run by column, and below them the published ones."""
    first = next(iter(rows.values()))
    split = first["data"].partition("/")[2]
    where = "" if split == "test" else f", *{split}* classes"
    start = f" from {first['pretraining']}" if first["pretraining"] else ""
    variant = f", {first['variant']}" if first["variant"] else ""
    run = f"[run](experiments/results/{first['file']})"
    label = f"{first['method']}{start}{variant}{where} ({run})"
    yield [label, *(number_of(rows[h]) if h in rows else "" for h in heads)]
    published = {h: row for h, row in rows.items() if row["published"]}
    if published:
        on = "" if split == "test" else " on the test classes"
        source = next(iter(published.values()))["source"] or ""
        numbers = (str(published[h]["published"]) if h in published else "" for h in heads)
        yield [f"published{on}: {source}", *numbers]
