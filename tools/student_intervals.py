"""Rewrite the 95% intervals below experiments/results, once 1.96 s / sqrt(n), with Student's t;
nothing else changes.

    python tools/student_intervals.py BEFORE

results.json and evaluations/*.json hold the accuracies of every episode, from which the interval is
computed again. The tables of studies (*.csv, and *.md beside them) hold it to three decimals and no
accuracies: it is widened by t_{0.975, n-1} / 1.96, which is right to 0.001 points. That may happen
once only, so it is done where a line is still what it was in the commit BEFORE, whose tables were
made with 1.96. The same command a second time changes nothing. Files whose rows have `metrics`, of
any task, are younger than that and stay as they are.
"""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from scipy.special import stdtrit

from graphfsl.functional.statistics import mean_and_ci95
from graphfsl.loops.row import MetricValue
from graphfsl.report.results_csv import is_record

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "experiments" / "results"
FIELD = re.compile(r'("ci95": )([^,\n]+)')


def _ci95(accuracies: Sequence[float]) -> float | None:
    """The half-width in percent, as rows hold it."""
    mean, half = mean_and_ci95(torch.tensor(accuracies, dtype=torch.float64))
    return MetricValue.shown(mean, half, "%", more_is_better=True).ci95


def rewrite_rows(file: Path) -> bool:
    """The intervals of a JSON file's rows, in the order in which they stand there; true where one
    changed.
    """
    text = file.read_text(encoding="utf-8")
    rows = json.loads(text)["rows"]
    if any("metrics" in row for row in rows):
        return False  # made with Student's t
    halves = iter([_ci95(r["accuracies"]) for r in rows])
    if len(FIELD.findall(text)) != len(rows):
        raise SystemExit(f"{file}: there is not one interval for each of its {len(rows)} rows")
    return replace(file, text, FIELD.sub(lambda found: found[1] + json.dumps(next(halves)), text))


def rewrite_study(file: Path, before: str) -> bool:
    """The intervals of a study's cells in its CSV file, and in the Markdown beside it; true where
    one changed.
    """
    text = file.read_text(encoding="utf-8")
    old = set(text_at(before, file).splitlines())
    head, *lines = text.splitlines()
    names = head.split(",")
    at, axes = names.index("ci95"), names.index("setting")
    # the levels of a cell -> its interval, before and after
    widened: dict[tuple[str, ...], tuple[str, str]] = {}
    new = [head]
    for line in lines:
        (cells,) = csv.reader([line])
        if line in old:
            half = (
                float(cells[at])
                * float(stdtrit(int(cells[names.index("episodes")]) - 1, 0.975))
                / 1.96
            )
            widened[tuple(level or "none" for level in cells[:axes])] = (
                cells[at],
                str(round(half, 3)),
            )
            cells[at] = str(round(half, 3))
        new.append(joined(cells))
    page = file.with_suffix(".md")
    changed = page.is_file() and rewrite_page(page, widened, axes)
    return replace(file, text, "\n".join(new) + "\n") or changed


def rewrite_page(file: Path, widened: dict[tuple[str, ...], tuple[str, str]], axes: int) -> bool:
    """The same in the tables of a study's report, whose first columns are the axes."""
    text = file.read_text(encoding="utf-8")
    lines = text.split("\n")
    for i, line in enumerate(lines):
        levels = tuple(cell.strip() for cell in line.strip("|").split("|")[:axes])
        if line.startswith("|") and levels in widened:
            before, after = (f"± {float(half):.2f}" for half in widened[levels])
            if before not in line:
                raise SystemExit(f"{file}: {before} is not in the line {line}")
            lines[i] = line.replace(before, after)
    return replace(file, text, "\n".join(lines))


def joined(cells: list[str]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(cells)
    return line.getvalue()


def text_at(commit: str, file: Path) -> str:
    """A file as it was in a commit; nothing where it was not there."""
    name = f"{commit}:{file.relative_to(ROOT).as_posix()}"
    return subprocess.run(["git", "show", name], cwd=ROOT, capture_output=True, text=True).stdout


def replace(file: Path, before: str, after: str) -> bool:
    if before != after:
        file.write_text(after, encoding="utf-8")
    return before != after


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    found = subprocess.run(
        ["git", "cat-file", "-e", f"{sys.argv[1]}^{{commit}}"], cwd=ROOT, capture_output=True
    )
    if found.returncode:
        raise SystemExit(f"{sys.argv[1]} is no commit of this repository")
    rows = [
        f
        for pattern in ("*/results.json", "*/evaluations/*.json")
        for f in sorted(RESULTS.glob(pattern))
    ]
    studies = sorted(file for file in RESULTS.glob("*.csv") if not is_record(file))
    changed = (
        sum(map(rewrite_rows, rows)),
        sum(rewrite_study(file, sys.argv[1]) for file in studies),
    )
    print(
        f"changed: {changed[0]} of {len(rows)} files of rows, {changed[1]} of {len(studies)} "
        f"studies"
    )


if __name__ == "__main__":
    main()
