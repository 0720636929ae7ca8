"""A report as one self-contained web page: nothing is loaded, nothing is run."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from graphfsl.loops.row import p_text, text_of
from graphfsl.report.figures import Figure
from graphfsl.report.tables import (
    BOLD,
    Line,
    Section,
    Table,
    group,
    interval_note,
    tables,
    unit_of,
    value_of,
)

CSS = """
:root{color-scheme:light dark;--page:#fbfbfa;--ink:#1d1f23;--soft:#5d636d;--line:#dfe1e5;--card:#fff;--head:#f2f3f5}
@media(prefers-color-scheme:dark){
:root{--page:#15171a;--ink:#e6e7ea;--soft:#a3a9b3;--line:#31353b;--card:#1b1e22;--head:#24282e}}
body{margin:0;background:var(--page);color:var(--ink);font:16px/1.55 system-ui,sans-serif;overflow-wrap:break-word}
main{max-width:76rem;margin:auto;padding:clamp(1.25rem,4vw,2.5rem) clamp(.9rem,3vw,1.25rem) 4rem}
h1{font-size:clamp(1.45rem,4vw,1.9rem);line-height:1.2;letter-spacing:-.015em;margin:0 0 .75rem}
h2{font-size:1.25rem;margin:2.5rem 0 .25rem}h2::first-letter{text-transform:uppercase}
p,ul{margin:.25rem 0 .9rem;color:var(--soft);max-width:60rem}ul{padding-left:1.2rem;font-size:.9rem}
code,pre{font:.85em/1.5 ui-monospace,Menlo,monospace;background:var(--head);padding:.1em .3em;border-radius:4px}
.scroll,figure{border:1px solid var(--line);border-radius:8px;background:var(--card)}.scroll{overflow-x:auto}
table{border-collapse:separate;border-spacing:0;width:100%;font-size:.85rem;font-variant-numeric:tabular-nums}
th,td{padding:.4rem clamp(.5rem,1vw,.75rem);text-align:right;white-space:nowrap}
th{background:var(--head);font-weight:600;color:var(--soft)}.new td{border-top:1px solid var(--line)}
.best .accuracy,.findings{color:var(--ink)}.findings{font-size:1rem}.failed{color:#b3261e}
.baseline td{color:var(--soft);font-style:italic}.best .accuracy{font-weight:700}
.text{text-align:left}.source{min-width:11rem}.source,.method{white-space:normal}td.method{background:var(--card)}
.method{position:sticky;left:0;min-width:clamp(7.5rem,20vw,15.5rem)}
.figures{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,26rem),1fr));gap:1rem;margin:.75rem 0 1rem}
figure{margin:0;background:#fff;color:#333;padding:.75rem}figcaption{font-size:.85rem;margin-bottom:.5rem}
@media(max-width:40rem){.accuracy{position:sticky;right:0}td.accuracy{background:var(--card)}
.method{min-width:6.5rem}}
img{display:block;width:100%}td img{width:2.25rem;image-rendering:pixelated}
summary{cursor:pointer;margin-top:2.5rem}pre{white-space:pre-wrap;padding:.6rem .8rem}
"""  # noqa: E501


def to_html(
    title: str,
    rows: Sequence[Line],
    figures: Mapping[str, Sequence[Figure]],
    lead: Sequence[Figure] = (),
    notes: Sequence[str] = (),
    findings: Sequence[str] = (),
    effects: Sequence[Line] = (),
    failures: Sequence[tuple[str, str]] = (),
    sections: Sequence[Section] = (),
) -> str:
    """A report as one web page: findings, a picture and the rows first, all the rest below.

    Args:
        title: of the page.
        rows: as tables hold them.
        figures: those below the tables, by heading: (caption, SVG).
        lead: figures that stand above the tables.
        notes: lines of text, with `code`.
        findings: lines of text, with `code`.
        effects: a study's comparisons.
        failures: (cell, what went wrong).
        sections: further tables.
    """
    parts = listed(findings, "findings")
    parts += pictures(lead) if lead else []
    if failures:
        parts += [
            "<h2>Failed</h2>",
            *listed([f"`{name}`: {line}" for name, line in failures], "failed"),
        ]
    bold = f" {BOLD}" if any(r.get("best") for r in rows) else ""
    parts.append(f"<p>{interval_note(rows)}{bold}</p>")
    for t in tables(rows):
        parts += [f"<h2>{escape(t.kind)}</h2>\n<p>{escape(t.meaning)}</p>", *_table(t)]
    for section in sections:
        parts += [f"<h2>{escape(section.heading)}</h2>", f"<p>{escape(section.text)}</p>"]
        parts += _section(section)
    if effects:
        parts += ["<h2>Differences</h2>", f"<p>{PAIRED}</p>", *_effects(effects)]
    for heading, drawn in ((h, d) for h, d in figures.items() if d):
        parts += [f"<h2>{heading}</h2>", *pictures(drawn)]
    parts += ["<h2>How it was made</h2>", *listed(notes)] if notes else []
    parts += [*_commands(rows), "<details><summary>All facts of every row</summary>"]
    parts += [
        f"<pre>{escape(json.dumps(r, ensure_ascii=False, default=str), quote=False)}</pre>"
        for r in rows
    ]
    return page(title, [*parts, "</details>"])


def page(title: str, parts: Sequence[str]) -> str:
    """A whole web page of some parts of HTML below its title."""
    # The policy makes a browser hold the page to what it promises: nothing is loaded, nothing is
    # run.
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    head = [
        f'<!doctype html>\n<html lang="en"><meta http-equiv="Content-Security-Policy" '
        f'content="{policy}">',
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, '
        'initial-scale=1">',
        f"<title>{escape(title)}</title>\n<style>{CSS}</style>\n<body><main>\n<h1>{escape(title)}</h1>",
    ]
    return "\n".join([*head, *parts]) + "</main></body></html>\n"


def pictures(drawn: Sequence[tuple[str, str | bytes]]) -> list[str]:
    """Figures as HTML: captions with drawings (SVG) or photographs (the bytes of a JPEG)."""
    parts = ['<div class="figures">']
    # as an image a drawing keeps its ids, styles and scripts to itself
    for caption, picture in drawn:
        url = (
            data_url("svg+xml", picture.encode())
            if isinstance(picture, str)
            else data_url("jpeg", picture)
        )
        parts.append(
            f'<figure><figcaption>{escape(caption)}</figcaption><img src="{url}" '
            f'alt="{escape(caption)}"></figure>'
        )
    return [*parts, "</div>"]


def data_url(kind: str, image: bytes) -> str:
    """An image as an address that holds it, for a page that loads nothing."""
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"


def html_table(
    heads: Sequence[str],
    rows: Sequence[Sequence[str]],
    columns: Sequence[str],
    lines: Sequence[str] = (),
) -> list[str]:
    """A table that scrolls by itself where it is wider than the page.

    Args:
        heads: of the columns, as HTML.
        rows: their cells, as HTML.
        columns: the class of each column's cells, "" for none.
        lines: the class of each row; none where it is left out.
    """
    looks = lines or [""] * len(rows)
    return [
        '<div class="scroll" tabindex="0"><table>',
        _html_row("th", heads, columns, ""),
        *(_html_row("td", row, columns, look) for row, look in zip(rows, looks, strict=True)),
        "</table></div>",
    ]


def _html_row(tag: str, cells: Sequence[str], columns: Sequence[str], look: str) -> str:
    inner = [
        f"<{tag}{_class(column)}>{cell}</{tag}>"
        for cell, column in zip(cells, columns, strict=True)
    ]
    return f"<tr{_class(look)}>{''.join(inner)}</tr>"


def _class(name: str) -> str:
    return f' class="{name}"' if name else ""


def words_first(heads: Sequence[str], words: int) -> list[str]:
    """The classes of columns of which the first so many are words, and the others numbers."""
    return ["text" if i < words else "" for i in range(len(heads))]


PAIRED = (
    "First level less second, of shares in points, averaged over the cells that differ in "
    "nothing else. "
    "Cells of one data set "
    "are paired by episode, and p is from a sign-flip permutation test; between data sets both "
    "are Welch's. Corrected: "
    "Holm's, over all rows of a kind, or all gains of one kind over another. Intervals are over "
    "episodes: they say nothing of other trainings than these."
)


def listed(lines: Sequence[str], kind: str = "") -> list[str]:
    """Lines of text as an HTML list of a class `kind`; nothing where there are none."""
    code = (re.sub("`([^`]+)`", r"<code>\1</code>", f"<li>{escape(line)}</li>") for line in lines)
    return [f'<ul class="{kind}">', *code, "</ul>"] if lines else []


def _table(t: Table) -> list[str]:
    """A table of results; a line parts the groups whose rows are compared."""
    columns = []
    for head, is_words in zip(t.headers, t.text, strict=True):
        name = "accuracy" if head == t.metric else head.replace(" ", "-").replace(".", "-")
        columns.append(f"{name} text" if is_words else name)
    looks = []
    before: Any = None
    for row, best in zip(t.rows, t.best, strict=True):
        marks = {"new": group(row) != before, "baseline": row.get("baseline"), "best": best}
        looks.append(" ".join(mark for mark, holds in marks.items() if holds))
        before = group(row)
    cells = [[escape(cell) for cell in row] for row in t.cells]
    return html_table([escape(head) for head in t.headers], cells, columns, looks)


def _section(section: Section) -> list[str]:
    heads = [escape(head) for head in section.headers]
    lines = [[escape(cell) for cell in line] for line in section.lines]
    return html_table(heads, lines, words_first(heads, section.words))


def _effects(effects: Sequence[Line]) -> list[str]:
    heads = (
        "setting",
        "axis",
        "levels",
        "difference",
        "95% interval",
        "p",
        "corrected p",
        "pairs",
        "by episode",
    )
    rows = []
    for e in effects:
        a, b = ("none" if e[k] is None else str(e[k]) for k in ("a", "b"))
        digits = ".2f" if e["unit"] == "%" else ".3g"
        cells = [
            e["setting"],
            e["axis"],
            f"{a} − {b}",
            f"{e['difference']:+{digits}}",
            f"{e['low']:+{digits}} to {e['high']:+{digits}}",
            p_text(e["p"]),
            "" if e.get("corrected") is None else p_text(e["corrected"]),
            str(e.get("matched", "")),
            "paired" if e.get("paired") else "Welch",
        ]
        cells[3:5] = (c.replace("-", "−") for c in cells[3:5])
        rows.append([escape(c) for c in cells])
    return html_table(heads, rows, words_first(heads, 3))


def _commands(rows: Sequence[Line]) -> Iterator[str]:
    """What makes each number again, and where it was made."""
    told = [r for r in rows if r.get("command")]
    if not told:
        return
    yield "<details><summary>Command and environment of every number</summary>"
    for r in told:
        facts = [
            *(f"{k} {v}" for k, v in (r.get("environment") or {}).items()),
            f"commit {r.get('commit')}",
        ]
        where = ", ".join(
            [f"{text_of(value_of(r), unit_of(r))} on {r.get('data')}", str(r.get("device")), *facts]
        )
        yield f"<pre>{escape(str(r['command']), quote=False)}\n# {escape(where, quote=False)}</pre>"
    yield "</details>"
