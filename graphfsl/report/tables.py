"""Results rows as tables: Markdown, CSV and LaTeX. Settings never share a table."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from graphfsl.io.plain_text import csv_table

Row = Mapping[str, Any]

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
    "active + transductive": "Labels of chosen unlabeled samples are asked for, and queries are "
    "answered together.",
}
INTERVAL = "Accuracy in percent; ± is the 95% interval of the mean over episodes."
BOLD = "Bold: the best of its kind on its episodes, and what the same episodes cannot tell from it."
# The columns of report.csv, always all of them and in this order; what else a row holds follows,
# sorted.
FIELDS = """method data way shot max_shot unlabeled distractors query labeled_fraction label_seed
dirichlet pool_dirichlet groups accuracy ci95 published difference source episodes
batch_norm steps paper_steps run setting baseline traits seed config commit device
seconds""".split()  # noqa: SIM905
DRAWN = ("accuracies", "reliability", "confusion")  # of a row, for pictures only
# of the tables; the rest is in `details`
COLUMNS = [f for f in FIELDS[: FIELDS.index("run") + 1] if f != "ci95"]
TEXT = ("method", "data", "groups", "source", "batch norm", "run")
FORMS = {"accuracy": ".2f", "difference": "+.2f", "episodes": ",", "steps": ",", "paper_steps": ","}
# What most episodes are.
SILENT = {
    "unlabeled": "0",
    "distractors": "0",
    "labeled_fraction": "1.0",
    "label_seed": "0",
    "groups": "any",
}
# What every row of a table shares is said once, above it.
SAME = {
    "run": "",
    "data": "",
    "query": " queries per class",
    "episodes": " episodes",
    "batch_norm": " BatchNorm",
}


@dataclass(frozen=True)
class Table:
    """The rows of one kind of setting, as text. best: which rows are bold; text: which columns are
    words.
    """

    kind: str
    meaning: str
    rows: list[Row]
    headers: list[str]
    cells: list[tuple[str, ...]]
    best: list[bool]
    text: list[bool]


def group(r: Row) -> tuple[Any, ...]:
    """Rows are compared within a group; sorting by it keeps their order inside."""
    return (
        str(r.get("data")),
        *(r.get(k) or 0 for k in ("way", "shot", "unlabeled", "distractors")),
    )


def finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def axes_of(rows: Sequence[Row]) -> list[str]:
    """The axes of a study, in the order of its grid."""
    return list(dict.fromkeys(a for r in rows for a in r.get("cell") or ()))


def level(r: Row, axis: str) -> str:
    value = (r.get("cell") or {}).get(axis, "")
    return "none" if value is None else str(value)


def _cell(r: Row, key: str) -> str:
    value = r.get(key)
    text = (
        "" if value is None else format(value, FORMS.get(key, "")) if finite(value) else str(value)
    )
    text += " (baseline)" if key == "method" and r.get("baseline") else ""
    if key == "accuracy":
        text += f" ± {r['ci95']:.2f}" if finite(r.get("ci95")) else ""
        text += f" ({r['seeds']} seeds, s.d. {r['spread']:.2f})" if finite(r.get("spread")) else ""
    return text.replace("-", "−") if key == "difference" else text


def tables(rows: Sequence[Row]) -> Iterator[Table]:
    """One for each setting; columns that say nothing are left out, axes of a study come first."""
    for kind in dict.fromkeys([*SETTINGS, *sorted({str(r.get("setting")) for r in rows})]):
        if members := [r for r in rows if str(r.get("setting")) == kind]:
            axes = {a: [level(r, a) for r in members] for a in axes_of(members)}
            columns = {key: [_cell(r, key) for r in members] for key in COLUMNS}
            columns = {
                k: v
                for k, v in columns.items()
                if k == "method" or set(v) - {"", SILENT.get(k, "")}
            }
            if axes:  # they tell the rows apart: what they say is not said again
                said = {a.rpartition(".")[2] for a in axes} | {"method", "steps", "run"}
                columns = {
                    k: v
                    for k, v in columns.items()
                    if k not in said or (k == "method" and len(set(v)) > 1)
                }
            shared = [
                columns.pop(k)[0] + t for k, t in SAME.items() if len(set(columns.get(k, ()))) == 1
            ]
            meaning = SETTINGS.get(kind, "") + (
                f" All rows: {', '.join(shared)}." if shared else ""
            )
            headers = [*axes, *(key.replace("_", " ") for key in columns)]
            cells = list(zip(*axes.values(), *columns.values(), strict=True))
            if "semi" not in kind and "active" not in kind:
                members, cells = _folded(members, headers, cells)
            text = [h in axes or h in TEXT for h in headers]
            yield Table(
                kind, meaning, members, headers, cells, [bool(r.get("best")) for r in members], text
            )


def _folded(
    rows: Sequence[Row], headers: Sequence[str], cells: Sequence[tuple[str, ...]]
) -> tuple[list[Row], list[tuple[str, ...]]]:
    """Rows that are equal but for a pool which their method leaves alone, as one: "0, 5, 10"
    unlabeled.
    """
    pool = [
        i
        for i, header in enumerate(headers)
        if header.rpartition(".")[2] in ("unlabeled", "distractors")
    ]
    same: dict[tuple[str, ...], list[int]] = {}
    for at, line in enumerate(cells):
        same.setdefault(tuple(v for i, v in enumerate(line) if i not in pool), []).append(at)
    lines = []
    for members in same.values():
        values = [list(dict.fromkeys(cells[at][i] for at in members)) for i in range(len(headers))]
        lines.append(tuple(", ".join(v) for v in values))
    return [rows[members[0]] for members in same.values()], lines


def to_csv(rows: Sequence[Row]) -> str:
    fields = [*FIELDS, *sorted({k for r in rows for k in r} - set(FIELDS) - set(DRAWN))]
    cells = (
        [json.dumps(v) if isinstance(v, (list, dict)) else v for v in map(r.get, fields)]
        for r in rows
    )
    return csv_table(fields, cells)


def plain(text: str) -> str:
    """User text on one line of Markdown: no HTML, no links, no table bars; `code` stays."""
    text = re.sub(r"(`[^`]*`)|[<>&]", lambda m: m[1] or escape(m[0]), " ".join(text.split()))
    return re.sub(r"([|\[\]])", r"\\\1", text)


def to_markdown(
    title: str, rows: Sequence[Row], notes: Sequence[str], findings: Sequence[str] = ()
) -> str:
    parts = [f"# {plain(title)}", "\n".join(f"- {plain(n)}" for n in notes)]
    parts += ["## Findings", "\n".join(f"- {plain(f)}" for f in findings)] if findings else []
    parts += [INTERVAL + (f" {BOLD}" if any(r.get("best") for r in rows) else "")]
    for t in tables(rows):
        lines = [t.headers, ["---" if text else "--:" for text in t.text]]
        at = t.headers.index("accuracy")
        for cells, best in zip(t.cells, t.best, strict=True):
            line = [plain(c) for c in cells]
            line[at] = f"**{line[at]}**" if best else line[at]
            lines.append(line)
        parts += [
            f"## {plain(t.kind)}",
            plain(t.meaning),
            "\n".join(f"| {' | '.join(row)} |" for row in lines),
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
    """User text in LaTeX."""
    return re.sub(r"[\\~^±−&%$#_{}]", lambda m: _TEX.get(m[0], f"\\{m[0]}"), " ".join(text.split()))


def to_latex(title: str, rows: Sequence[Row]) -> str:
    """A table environment (booktabs) for each setting."""
    parts = ["% needs \\usepackage{booktabs}"]
    for t in tables(rows):
        at = t.headers.index("accuracy")
        lines = []
        for cells, best in zip(t.cells, t.best, strict=True):
            line = [tex(c) for c in cells]
            line[at] = f"\\textbf{{{line[at]}}}" if best else line[at]
            lines.append(" & ".join(line) + r" \\")
        parts += [
            r"\begin{table}",
            r"\centering",
            f"\\caption{{{tex(title)}: {tex(t.kind)}. {tex(t.meaning)} {tex(INTERVAL)}}}",
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
