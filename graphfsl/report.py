"""Results as one self-contained web page, as Markdown and as CSV; settings never share a table."""

from __future__ import annotations

import base64
import csv
import io
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from html import escape
from pathlib import Path
from textwrap import fill
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
FIELDS = """method data way shot max_shot unlabeled distractors query labeled_fraction dirichlet groups accuracy ci95
published difference source episodes batch_norm steps paper_steps run setting baseline traits seed config commit device
seconds""".split()  # noqa: SIM905 (one name a line would be a page)
COLUMNS = [f for f in FIELDS[: FIELDS.index("run") + 1] if f != "ci95"]  # of the tables; the rest is in `details`
TEXT = ("method", "data", "groups", "source", "batch norm", "run")
FORMS = {"accuracy": ".2f", "difference": "+.2f", "episodes": ",", "steps": ",", "paper_steps": ","}
SILENT = {"unlabeled": "0", "distractors": "0", "labeled_fraction": "1.0", "groups": "any"}  # what most episodes are
# What every row of a table shares is said once, above it.
SAME = {"run": "", "data": "", "query": " queries per class", "episodes": " episodes", "batch_norm": " BatchNorm"}
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#5b5bd6")  # told apart by most colour-blind readers
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
.baseline td{color:var(--soft);font-style:italic}tr:not(.baseline) .accuracy{font-weight:600}
.text{text-align:left}.source{min-width:11rem}.source,.method{white-space:normal}td.method{background:var(--card)}
.method{position:sticky;left:0;min-width:clamp(7.5rem,20vw,15.5rem)}
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
    rows = [{"unlabeled": 0, "distractors": 0} | {k: v for k, v in r.items() if k != "accuracies"} for r in rows]
    rows.sort(key=_group)
    figures = {
        "Accuracy against unlabeled samples": _pool_figures(rows),
        "Training": [f for label, lines in (histories or {}).items() for f in _curves(label, lines)],
        "Pictures": list(pictures),
    }
    texts = {"html": _html(title, rows, figures, notes), "md": _markdown(title, rows, notes), "csv": _csv(rows)}
    for ending, text in texts.items():
        write_atomically(Path(out) / f"report.{ending}", text.encode())
    return [Path(out) / f"report.{ending}" for ending in texts]


def report_runs(paths: Sequence[Path], out: Path) -> list[Path]:
    """The report of finished run directories."""
    names = [Path(p).resolve().name for p in paths]
    rows: list[Row] = []
    histories: dict[str, list[Row]] = {}
    notes: list[str] = []
    for path, name in zip(map(Path, paths), names, strict=True):
        label = name if names.count(name) == 1 else str(path)
        facts = read_json(_existing(path / "results.json"))
        log = path / "metrics.jsonl"
        try:
            rows += [{"run": label, **r} for r in facts["rows"]]
            if log.is_file() or any(r.get("steps") for r in facts["rows"]):  # nothing to train leaves no metrics
                histories[label] = [json.loads(line) for line in _existing(log).read_text("utf-8").splitlines()]
        except (KeyError, TypeError, json.JSONDecodeError, UnicodeDecodeError) as error:
            raise InputError(f"results.json or metrics.jsonl in {path} is damaged ({error!r}); run it again") from None
        where = (f"{k} {facts[k]}" for k in ("graphfsl", "torch", "python", "when") if facts.get(k))
        notes.append(f"`{label}`: {', '.join(where)}")
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


def _cell(r: Row, key: str) -> str:
    value = r.get(key)
    text = "" if value is None else format(value, FORMS.get(key, "")) if _finite(value) else str(value)
    text += " (baseline)" if key == "method" and r.get("baseline") else ""
    text += f" ± {r['ci95']:.2f}" if key == "accuracy" and _finite(r.get("ci95")) else ""
    return text.replace("-", "−") if key == "difference" else text


def _tables(rows: Sequence[Row]) -> Iterator[tuple[str, str, list[Row], list[str], list[tuple[str, ...]]]]:
    """(setting, what it means, rows, headers, cells) of each setting; columns that say nothing are left out."""
    for kind in dict.fromkeys([*SETTINGS, *sorted({str(r.get("setting")) for r in rows})]):
        if members := [r for r in rows if str(r.get("setting")) == kind]:
            columns = {key: [_cell(r, key) for r in members] for key in COLUMNS}
            columns = {k: v for k, v in columns.items() if k == "method" or set(v) - {"", SILENT.get(k, "")}}
            shared = [columns.pop(k)[0] + t for k, t in SAME.items() if len(set(columns.get(k, ()))) == 1]
            meaning = SETTINGS.get(kind, "") + (f" All rows: {', '.join(shared)}." if shared else "")
            headers = [key.replace("_", " ") for key in columns]
            yield kind, meaning, members, headers, list(zip(*columns.values(), strict=True))


def _csv(rows: Sequence[Row]) -> str:
    file = io.StringIO()
    fields = [*FIELDS, *sorted({k for r in rows for k in r} - set(FIELDS))]
    writer = csv.DictWriter(file, fields, lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: json.dumps(v) if isinstance(v, (list, dict)) else v for k, v in r.items()} for r in rows)
    return file.getvalue()


def _plain(text: str) -> str:
    """User text on one line of Markdown: no HTML, no links, no table bars; `code` stays."""
    text = re.sub(r"(`[^`]*`)|[<>&]", lambda m: m[1] or escape(m[0]), " ".join(text.split()))
    return re.sub(r"([|\[\]])", r"\\\1", text)


def _markdown(title: str, rows: Sequence[Row], notes: Sequence[str]) -> str:
    parts = [f"# {_plain(title)}", "\n".join(f"- {_plain(n)}" for n in notes), INTERVAL]
    for kind, meaning, _, headers, cells in _tables(rows):
        lines = [headers, ["---" if h in TEXT else "--:" for h in headers], *(map(_plain, row) for row in cells)]
        parts += [f"## {_plain(kind)}", _plain(meaning), "\n".join(f"| {' | '.join(row)} |" for row in lines)]
    return "\n\n".join(filter(None, parts)) + "\n"


def _html(title: str, rows: Sequence[Row], figures: Mapping[str, list[Figure]], notes: Sequence[str]) -> str:
    # The policy makes a browser hold the page to what it promises: nothing is loaded, nothing is run.
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    parts = [
        f'<!doctype html>\n<html lang="en"><meta http-equiv="Content-Security-Policy" content="{policy}">',
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title>\n<style>{CSS}</style>\n<body><main>\n<h1>{escape(title)}</h1>\n<ul>",
        *(re.sub("`([^`]+)`", r"<code>\1</code>", f"<li>{escape(n)}</li>") for n in notes),
        f"</ul>\n<p>{INTERVAL}</p>",
    ]
    for kind, meaning, members, headers, cells in _tables(rows):
        parts.append(f'<h2>{escape(kind)}</h2>\n<p>{escape(meaning)}</p>\n<div class="scroll" tabindex="0"><table>')
        classes = [f"{h} text" if h in TEXT else h for h in headers]
        before: Any = None
        for tag, r, row in [("th", {}, headers), *(("td", r, row) for r, row in zip(members, cells, strict=True))]:
            kinds = f"{'new' if _group(r) != before else ''} {'baseline' if r.get('baseline') else ''}".strip()
            line = (f'<{tag} class="{c}">{escape(v)}</{tag}>' for c, v in zip(classes, row, strict=True))
            parts.append(f'<tr class="{kinds}">{"".join(line)}</tr>')
            before = _group(r)
        parts.append("</table></div>")
    for heading, drawn in ((h, d) for h, d in figures.items() if d):
        parts.append(f'<h2>{heading}</h2>\n<div class="figures">')
        for caption, svg in drawn:  # as an image a drawing keeps its ids, styles and scripts to itself
            img = f'src="data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}" alt="{escape(caption)}"'
            parts.append(f"<figure><figcaption>{escape(caption)}</figcaption><img {img}></figure>")
        parts.append("</div>")
    facts = (f"<pre>{escape(json.dumps(r, ensure_ascii=False, default=str), quote=False)}</pre>" for r in rows)
    parts += ["<details><summary>All facts of every row</summary>", *facts, "</details></main></body></html>\n"]
    return "\n".join(parts)


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
        plot(axes)
        handles, labels = axes.get_legend_handles_labels()
        if labels := [fill(label, 52) for label in labels]:
            figure.set_figheight(2.8 + 0.17 * "\n".join([*labels, ""]).count("\n"))
            figure.legend(handles, labels, loc="outside lower left", fontsize=8, frameon=False)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    return file.getvalue()


def _curves(label: str, lines: Sequence[Row]) -> list[Figure]:
    """Training loss, and validation accuracy with its interval, by step."""
    loss = [(m["step"], m["loss"]) for m in lines if _finite(m.get("loss"))]
    val = [(m["step"], 100 * m["val"], 100 * m.get("val_ci95", math.nan)) for m in lines if _finite(m.get("val"))]

    def plot_loss(axes: Any) -> None:
        axes.plot(*zip(*loss, strict=True), color=COLORS[0], linewidth=1.2)
        low, high = min(v for _, v in loss), max(v for _, v in loss)
        if 0 < 4 * low < high:
            ticks = [t for e in range(-9, 9) for d in (1, 2, 3, 5) if low <= (t := d * 10.0**e) <= high]
            axes.set(yscale="log", yticks=ticks, yticklabels=[f"{t:g}" for t in ticks])
            axes.minorticks_off()

    def plot_val(axes: Any) -> None:
        _line(axes, val, color=COLORS[2], marker="o", markersize=3)
        step, best, _ = max(val, key=lambda v: v[1])
        axes.plot(step, best, "o", color=COLORS[2], markersize=7, label=f"best: step {step:,}, {best:.2f}")

    out = [(f"{label}: loss", _draw(plot_loss, "step", "training loss"))] if loss else []
    return out + ([(f"{label}: validation", _draw(plot_val, "step", "validation accuracy (%)"))] if val else [])


def _line(axes: Any, points: Sequence[tuple[float, float, float]], **look: Any) -> None:
    """A line through (x, y, half-width) with its band."""
    x, y, _ = zip(*points, strict=True)
    low, high = ([v + sign * h for _, v, h in points] for sign in (-1, 1))
    axes.fill_between(x, low, high, color=look["color"], alpha=0.15, linewidth=0)
    axes.plot(x, y, **look)


def _pool_figures(rows: Sequence[Row]) -> list[Figure]:
    """Accuracy by unlabeled samples, a panel for each kind of episode that has several numbers of them."""
    several = len({r.get("run") for r in rows}) > 1
    panels: dict[tuple[Any, ...], dict[str, list[Row]]] = {}
    colors: dict[str, str] = {}
    for r in (r for r in rows if _finite(r.get("accuracy"))):
        name = f"{r.get('method')} · {r.get('run')}" if several else str(r.get("method"))
        name += " (transductive)" if "transductive" in str(r.get("setting")) else ""
        colors.setdefault(name, COLORS[len(colors) % len(COLORS)])
        key = tuple(r.get(k) for k in ("data", "way", "shot", "query", "dirichlet"))
        panels.setdefault(key, {}).setdefault(name, []).append(r)
    out = []
    for (data, way, shot, query, alpha), methods in panels.items():
        if len({r["unlabeled"] for members in methods.values() for r in members}) > 1:
            uneven = f", Dirichlet {alpha}" if alpha else ""
            caption = f"{data}, {way}-way {shot}-shot, {query} queries per class{uneven}"
            plot = partial(_plot_pool, methods=methods, colors=colors)
            out.append((caption, _draw(plot, "unlabeled samples per class", "accuracy (%)")))
    return out


def _plot_pool(axes: Any, methods: Mapping[str, list[Row]], colors: Mapping[str, str]) -> None:
    """A line for each number of distractors; one dashed line for a method that leaves unlabeled samples alone."""
    sizes = sorted({r["unlabeled"] for members in methods.values() for r in members})
    semi = {n for n, m in methods.items() for r in m if re.search("uses|semi", f"{r.get('traits')}{r.get('setting')}")}
    shown = [r["accuracy"] for n in semi or methods for r in methods[n]]
    span = max(max(shown) - min(shown), 2.0)
    for name, members in methods.items():
        pools = sorted({r["distractors"] for r in members if r["unlabeled"]} or {0})
        for i, d in enumerate(pools if name in semi else [None]):
            # Without unlabeled samples nothing distracts: that point starts every line.
            own = [r for r in members if d is None or not r["unlabeled"] or r["distractors"] == d]
            points = sorted({(r["unlabeled"], r["accuracy"], r.get("ci95") or 0.0) for r in own})
            look: dict[str, Any] = {"color": colors[name], "label": name + (f", {d} distractor classes" if d else "")}
            if d is not None:
                look |= {"linestyle": ("-", "-.", ":")[min(i, 2)], "marker": "os^"[min(i, 2)], "markersize": 4}
            elif min(shown) - span < points[0][1] < max(shown) + span:
                look |= {"linestyle": "--", "linewidth": 1.1}
                points = [(x, *points[0][1:]) for x in sizes] if len(points) == 1 else points
            else:  # drawn, it would press the lines of interest flat
                look |= {"linestyle": "none", "label": f"{name}: {points[0][1]:.1f}, off the scale"}
                points = [(sizes[0], math.nan, 0.0)]
            _line(axes, points, **look)
    axes.set_xticks(sizes)
