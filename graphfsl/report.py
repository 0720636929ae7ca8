"""Results as one self-contained web page, as Markdown and as CSV; settings never share a table."""

from __future__ import annotations

import base64
import csv
import io
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

from graphfsl.checkpoint import read_json, write_atomically
from graphfsl.errors import InputError

Row = Mapping[str, Any]
Figure = tuple[str, str]  # caption, SVG

SETTINGS = {
    "inductive": "Each query is answered alone, from the labeled samples; unlabeled ones, where present, are not used.",
    "semi-supervised": "Each query is answered alone, from the labeled and the unlabeled samples of its episode.",
    "transductive": "The queries of an episode are answered together: each may change the answers to the others.",
    "semi-supervised + transductive": "Unlabeled samples are used, and an episode's queries are answered together.",
}
INTERVAL = "Accuracy in percent; ± is the 95% interval of the mean over episodes."
# The columns of report.csv, always all of them and in this order; what else a row holds follows, sorted.
FIELDS = """run method baseline setting data way shot max_shot query unlabeled distractors labeled_fraction dirichlet
groups accuracy ci95 published difference source episodes seed batch_norm traits steps paper_steps config commit
device seconds""".split()  # noqa: SIM905 (one name a line would be a page)
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#5b5bd6")  # told apart by most colour-blind readers
CSS = """
:root{color-scheme:light dark;--page:#fbfbfa;--ink:#1d1f23;--soft:#5d636d;--line:#dfe1e5;--card:#fff;--head:#f2f3f5}
@media(prefers-color-scheme:dark){
:root{--page:#15171a;--ink:#e6e7ea;--soft:#a3a9b3;--line:#31353b;--card:#1b1e22;--head:#24282e}}
body{margin:0;background:var(--page);color:var(--ink);font:16px/1.55 system-ui,"Segoe UI",Roboto,sans-serif}
main{max-width:76rem;margin:auto;padding:clamp(1.25rem,4vw,2.5rem) clamp(.9rem,3vw,1.25rem) 4rem}
h1{font-size:clamp(1.45rem,4vw,1.9rem);line-height:1.2;letter-spacing:-.015em;margin:0 0 .75rem}
h2{font-size:1.25rem;margin:2.5rem 0 .25rem}h2::first-letter{text-transform:uppercase}
h1,li,figcaption,pre{overflow-wrap:anywhere}
p,ul{margin:.25rem 0 .9rem;color:var(--soft);max-width:60rem}ul{padding-left:1.2rem;font-size:.9rem}
code,pre{font:.85em/1.5 ui-monospace,Menlo,monospace;background:var(--head);padding:.1em .3em;border-radius:4px}
.scroll,figure{border:1px solid var(--line);border-radius:8px;background:var(--card)}.scroll{overflow-x:auto}
table{border-collapse:separate;border-spacing:0;width:100%;font-size:.85rem;font-variant-numeric:tabular-nums}
th,td{padding:.4rem clamp(.5rem,1vw,.75rem);text-align:right;white-space:nowrap}
th{background:var(--head);font-weight:600;color:var(--soft)}tr.new td{border-top:1px solid var(--line)}
.baseline td{color:var(--soft);font-style:italic}
tr:not(.baseline) .accuracy{font-weight:600}.source{min-width:11rem}
.text{text-align:left}.source,:is(td,th):first-child{white-space:normal}
:is(td,th):first-child{position:sticky;left:0;min-width:clamp(7.5rem,20vw,15.5rem)}td:first-child{background:var(--card)}
.figures{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,26rem),1fr));gap:1rem;margin-top:.75rem}
figure{margin:0;background:#fff;color:#333;padding:.75rem}figcaption{font-size:.85rem;margin-bottom:.5rem}
img{display:block;width:100%}summary{cursor:pointer;margin-top:2.5rem}pre{white-space:pre-wrap;padding:.6rem .8rem}
"""


def write_report(
    out: Path,
    title: str,
    rows: Sequence[Row],
    histories: Mapping[str, Sequence[Row]] | None = None,
    pictures: Sequence[Figure] = (),
    notes: Sequence[str] = (),
) -> list[Path]:
    """report.html, report.md and report.csv in `out`, from rows as `run.full_row` makes them.

    histories: the lines of metrics.jsonl by label. pictures: (caption, SVG). notes: lines of text, with `code`.
    """
    rows = [{k: v for k, v in r.items() if k != "accuracies"} for r in sorted(rows, key=_group)]
    figures = {
        "Accuracy against unlabeled samples": _pool_figures(rows),
        "Training": [f for label, lines in (histories or {}).items() for f in _curves(label, lines)],
        "Pictures": list(pictures),
    }
    texts = {"html": _html(title, rows, figures, notes), "md": _markdown(title, rows, notes), "csv": _csv(rows)}
    paths = [Path(out) / f"report.{ending}" for ending in texts]
    for path, text in zip(paths, texts.values(), strict=True):
        write_atomically(path, text.encode())
    return paths


def report_runs(paths: Sequence[Path], out: Path) -> list[Path]:
    """The report of finished run directories."""
    if not paths:
        raise InputError("no run directory to report on; name at least one")
    names = [Path(p).resolve().name for p in paths]
    rows: list[Row] = []
    histories: dict[str, list[Row]] = {}
    notes: list[str] = []
    for path, name in zip(map(Path, paths), names, strict=True):
        label = name if names.count(name) == 1 else str(path)
        facts = read_json(_existing(path / "results.json"))
        try:
            own = [{"run": label, **r} for r in facts["rows"]]
        except (KeyError, TypeError):
            raise InputError(f"{path / 'results.json'} is not from a graphfsl run: it holds no rows") from None
        rows += own
        log = path / "metrics.jsonl"
        if log.is_file() or any(r.get("steps") for r in own):  # a learner with nothing to train leaves no metrics
            try:
                histories[label] = [json.loads(line) for line in _existing(log).read_text("utf-8").splitlines()]
            except (json.JSONDecodeError, UnicodeDecodeError) as error:
                raise InputError(f"{log} is not readable JSON lines ({error})") from None
        where = [f"{k} {facts[k]}" for k in ("graphfsl", "torch", "python") if facts.get(k)]
        notes.append(f"`{label}`: {', '.join([*where, str(facts.get('when', ''))])}")
        if deviations := (facts.get("config") or {}).get("deviations"):
            notes.append(f"`{label}` differs from its paper: {'; '.join(map(str, deviations))}")
    title = ", ".join(names) if len(names) < 4 else f"{len(names)} runs"
    return write_report(out, f"graphfsl: {title}", rows, histories, notes=notes)


def _existing(file: Path) -> Path:
    if not file.is_file():
        raise InputError(f"{file} not found; has this run finished? run `graphfsl run` again")
    return file


def _group(r: Row) -> tuple[Any, ...]:
    """Rows are compared within a group; sorting by it keeps their order inside."""
    return (str(r.get("data")), *(r.get(k) or 0 for k in ("way", "shot", "unlabeled", "distractors")))


def _finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _get(key: str, form: str = "") -> Callable[[Row], str]:
    """The cell of a key: numbers in the given form, nothing where there is none."""
    return lambda r: format(r[key], form) if form and _finite(r.get(key)) else str("" if r.get(key) is None else r[key])


COLUMNS: dict[str, Callable[[Row], str]] = {
    "method": lambda r: f"{r.get('method', '')}{' (baseline)' if r.get('baseline') else ''}",
    **{k: _get(k) for k in ("run", "data", "way", "shot", "max_shot", "unlabeled", "distractors", "query")},
    **{k: _get(k) for k in ("labeled_fraction", "dirichlet", "groups")},
    "accuracy": lambda r: _get("accuracy", ".2f")(r) + (f" ± {r['ci95']:.2f}" if _finite(r.get("ci95")) else ""),
    "published": _get("published"),
    "difference": lambda r: _get("difference", "+.2f")(r).replace("-", "−"),
    "source": _get("source"),
    "episodes": _get("episodes", ","),
    "BatchNorm": _get("batch_norm"),
    "steps": _get("steps", ","),
    "paper's steps": _get("paper_steps", ","),
}
TEXT = ("method", "run", "data", "groups", "source", "BatchNorm")
SILENT = {"unlabeled": "0", "distractors": "0", "labeled_fraction": "1.0", "groups": "any"}  # what most episodes are


def _tables(rows: Sequence[Row]) -> list[tuple[str, str, list[Row], list[str], list[tuple[str, ...]]]]:
    """(setting, what it means, rows, headers, cells) of each setting; columns that say nothing are left out."""
    out = []
    for kind in dict.fromkeys([*SETTINGS, *sorted({str(r.get("setting")) for r in rows})]):
        if members := [r for r in rows if str(r.get("setting")) == kind]:
            columns = {name: [cell(r) for r in members] for name, cell in COLUMNS.items()}
            columns = {k: v for k, v in columns.items() if set(v) - {"", SILENT.get(k, "")}}
            meaning = SETTINGS.get(kind, "")
            for key, what in (("query", "queries per class"), ("episodes", "episodes")):
                if len(set(columns.get(key, "no"))) == 1:
                    meaning += f" {columns.pop(key)[0]} {what}."
            if len({r.get("run") for r in rows}) == 1:
                columns.pop("run", None)
            out.append((kind, meaning.strip(), members, list(columns), list(zip(*columns.values(), strict=True))))
    return out


def _csv(rows: Sequence[Row]) -> str:
    file = io.StringIO()
    more = sorted({k for r in rows for k in r} - set(FIELDS))
    writer = csv.DictWriter(file, [*FIELDS, *more], restval="", lineterminator="\n")
    writer.writeheader()
    for r in rows:
        writer.writerow({k: json.dumps(v) if isinstance(v, (list, tuple, dict)) else v for k, v in r.items()})
    return file.getvalue()


def _plain(text: str) -> str:
    """User text on one line of Markdown: no HTML, no links, no table bars; `code` stays."""
    text = re.sub(r"(`[^`]*`)|[<>&]", lambda m: m[1] or escape(m[0]), " ".join(text.split()))
    return re.sub(r"([|\[\]])", r"\\\1", text)


def _markdown(title: str, rows: Sequence[Row], notes: Sequence[str]) -> str:
    parts = [f"# {_plain(title)}", "\n".join(f"- {_plain(n)}" for n in notes), INTERVAL]
    for kind, meaning, _, headers, cells in _tables(rows):
        lines = [headers, ["---" if h in TEXT else "--:" for h in headers], *(map(_plain, row) for row in cells)]
        parts += [f"## {_plain(kind)}", meaning, "\n".join(f"| {' | '.join(row)} |" for row in lines)]
    return "\n\n".join(filter(None, parts)) + "\n"


def _html(title: str, rows: Sequence[Row], figures: Mapping[str, list[Figure]], notes: Sequence[str]) -> str:
    # The policy makes a browser hold the page to what it promises: nothing is loaded, nothing is run.
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    parts = [
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title>\n<style>{CSS}</style></head>\n<body><main>\n<h1>{escape(title)}</h1>\n<ul>",
        *(re.sub("`([^`]+)`", r"<code>\1</code>", f"<li>{escape(n)}</li>") for n in notes),
        f"</ul>\n<p>{INTERVAL}</p>",
    ]
    for kind, meaning, members, headers, cells in _tables(rows):
        classes = [f"{h} text" if h in TEXT else h.split("'")[0] for h in headers]
        parts.append(f'<h2>{escape(kind)}</h2>\n<p>{escape(meaning)}</p>\n<div class="scroll" tabindex="0"><table>')
        before: Any = None
        for tag, r, row in [("th", {}, headers), *(("td", r, row) for r, row in zip(members, cells, strict=True))]:
            kinds = f"{'new' if _group(r) != before else ''} {'baseline' if r.get('baseline') else ''}"
            line = (f'<{tag} class="{c}">{escape(v)}</{tag}>' for c, v in zip(classes, row, strict=True))
            parts.append(f'<tr class="{kinds.strip()}">{"".join(line)}</tr>')
            before = _group(r)
        parts.append("</table></div>")
    for heading, drawn in figures.items():
        parts += [f'<h2>{heading}</h2>\n<div class="figures">'] if drawn else []
        for caption, svg in drawn:
            # As an image a drawing keeps its ids, styles and scripts to itself.
            data = f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"
            image = f'<img alt="{escape(heading)}: {escape(caption)}" src="{data}">'
            parts.append(f"<figure><figcaption>{escape(caption)}</figcaption>{image}</figure>")
        parts += ["</div>"] if drawn else []
    facts = (escape(json.dumps(r, ensure_ascii=False, default=str), quote=False) for r in rows)
    parts += ["<details><summary>All facts of every row</summary>", *(f"<pre>{f}</pre>" for f in facts), "</details>"]
    return "\n".join([*parts, "</main></body></html>\n"])


def _draw(plot: Callable[[Any], None], x: str, y: str) -> str:
    """A small panel as SVG, the same bytes on every call; phones stack panels, wide screens place them in rows."""
    import matplotlib  # here, since it takes longer to import than most commands run
    from matplotlib.figure import Figure as Canvas

    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # a reader's matplotlibrc does not change the report
        matplotlib.rc("svg", hashsalt="graphfsl")
        matplotlib.rc("text", parse_math=False)  # a dollar in a method's name is a dollar
        figure = Canvas(figsize=(4.2, 2.7), layout="constrained")
        axes = figure.add_subplot(xlabel=x, ylabel=y)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#e8e8e8")
        axes.set_axisbelow(True)
        plot(axes)
        if lines := axes.get_legend_handles_labels()[1]:
            figure.set_figheight(2.8 + 0.17 * len(lines))
            figure.legend(loc="outside lower left", fontsize=8, frameon=False)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    return file.getvalue()


def _curves(label: str, lines: Sequence[Row]) -> list[Figure]:
    """Training loss, and validation accuracy with its interval, by step."""
    loss = [(m["step"], m["loss"]) for m in lines if _finite(m.get("loss"))]
    val = [(m["step"], 100 * m["val"], 100 * m.get("val_ci95", math.nan)) for m in lines if _finite(m.get("val"))]

    def plot_loss(axes: Any) -> None:
        axes.plot(*zip(*loss, strict=True), color=COLORS[0], linewidth=1.2)
        low, high = (f(v for _, v in loss) for f in (min, max))
        if 0 < 4 * low < high:
            axes.set_yscale("log")
            ticks = [d * 10.0**e for e in range(-9, 9) for d in (1, 2, 5)]
            axes.set_yticks([t for t in ticks if low <= t <= high], minor=False)
            axes.yaxis.set_major_formatter("{x:g}")
            axes.minorticks_off()

    def plot_val(axes: Any) -> None:
        _line(axes, val, color=COLORS[2], marker="o", markersize=3)
        step, best, _ = max(val, key=lambda v: v[1])
        axes.plot(step, best, "o", color=COLORS[2], markersize=7, label=f"best: step {step:,}, {best:.2f}")

    out = [(f"{label}: loss", _draw(plot_loss, "step", "training loss"))] if loss else []
    return out + ([(f"{label}: validation", _draw(plot_val, "step", "validation accuracy (%)"))] if val else [])


def _line(axes: Any, points: Sequence[tuple[float, float, float]], **look: Any) -> None:
    """A line through (x, y, half-width) with its band."""
    x, y, half = zip(*points, strict=True)
    low, high = ([v + sign * h for v, h in zip(y, half, strict=True)] for sign in (-1, 1))
    axes.fill_between(x, low, high, color=look["color"], alpha=0.15, linewidth=0)
    axes.plot(x, y, **look)


def _pool_figures(rows: Sequence[Row]) -> list[Figure]:
    """Accuracy by unlabeled samples, a panel for each kind of episode that has several numbers of them."""
    runs = Counter(method for method, _ in {(r.get("method"), r.get("run")) for r in rows})
    panels: dict[tuple[Any, ...], dict[str, list[Row]]] = {}
    for r in (r for r in rows if _finite(r.get("accuracy"))):
        name = f"{r.get('method')} · {r.get('run')}" if runs[r.get("method")] > 1 else str(r.get("method"))
        name += " (transductive)" if "transductive" in str(r.get("setting")) else ""
        key = tuple(r.get(k) for k in ("data", "way", "shot", "query", "dirichlet"))
        panels.setdefault(key, {}).setdefault(name, []).append(r)
    names = dict.fromkeys(n for methods in panels.values() for n in methods)
    colors = {n: COLORS[i % len(COLORS)] for i, n in enumerate(names)}
    out = []
    for (data, way, shot, query, dirichlet), methods in panels.items():
        if len({r.get("unlabeled") or 0 for members in methods.values() for r in members}) > 1:
            caption = f"{data}, {way}-way {shot}-shot, {query} queries per class"
            caption += "" if dirichlet is None else f" on average (Dirichlet {dirichlet})"
            plot = partial(_plot_pool, methods=methods, colors=colors)
            out.append((caption, _draw(plot, "unlabeled samples per class", "accuracy (%)")))
    return out


def _plot_pool(axes: Any, methods: Mapping[str, list[Row]], colors: Mapping[str, str]) -> None:
    """A line for each number of distractors; one dashed line for a method that leaves unlabeled samples alone."""
    rows = [r for members in methods.values() for r in members]
    ends = [f(r.get("unlabeled") or 0 for r in rows) for f in (min, max)]
    shown = [r["accuracy"] for r in rows if _uses_pool(r)] or [r["accuracy"] for r in rows]
    span = max(max(shown) - min(shown), 2.0)
    for name, members in methods.items():
        pools = sorted({r.get("distractors") or 0 for r in members if r.get("unlabeled")} or {0})
        for i, d in enumerate(pools if any(map(_uses_pool, members)) else [None]):
            # Without unlabeled samples nothing distracts: that point starts every line.
            own = [r for r in members if d is None or not r.get("unlabeled") or (r.get("distractors") or 0) == d]
            points = sorted({(r.get("unlabeled") or 0, r["accuracy"], r.get("ci95") or 0.0) for r in own})
            label = name + (f", {d} distractor classes" if d else "")
            look: dict[str, Any] = {"color": colors[name]}
            if d is None:
                look |= {"linestyle": "--", "linewidth": 1.1}
                points = [(x, *points[0][1:]) for x in ends] if len(points) == 1 else points
                if not min(shown) - span < points[0][1] < max(shown) + span:
                    # Drawn, it would press the lines of interest flat.
                    axes.plot([], [], label=f"{label}: {points[0][1]:.1f}, off the scale", **look)
                    continue
            else:
                look |= {"linestyle": ("-", "-.", ":")[min(i, 2)], "marker": "os^"[min(i, 2)], "markersize": 4}
            _line(axes, points, label=label, **look)
    axes.set_xticks(sorted({r.get("unlabeled") or 0 for r in rows}))


def _uses_pool(r: Row) -> bool:
    return "uses_unlabeled" in (r.get("traits") or ()) or "semi-supervised" in str(r.get("setting"))
