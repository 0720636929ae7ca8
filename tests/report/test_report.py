"""The report: one file that loads nothing, escapes everything, never mixes settings, and is the
same every time.
"""

from __future__ import annotations

import base64
import csv
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib
import pytest

from graphfsl.io.errors import InputError
from graphfsl.report import figures as plots
from graphfsl.report.diagrams import heat_maps
from graphfsl.report.figures import Colors, curve_figures
from graphfsl.report.tables import SETTINGS
from graphfsl.report.write import figures_of, report_runs, write_report

EVIL = "<script>alert('x')</script> | [a](javascript:b) $_{"
SVG = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9"><circle id="a" '
    'r="3"/><script>1</script></svg>'
)


FIELDS = """method data way shot max_shot unlabeled distractors query labeled_fraction label_seed
dirichlet pool_dirichlet groups noise noise_kind open_classes open_query
foreign_share accuracy ci95 published difference source
episodes batch_norm steps paper_steps run setting baseline traits seed config commit device
seconds
""".split()  # noqa: SIM905


def row(method: str = "conv4 + protonet", **changes: Any) -> dict[str, Any]:
    """A row as `run.full_row` makes it."""
    return {
        "method": method,
        "data": "omniglot test",
        "way": 5,
        "shot": 1,
        "query": 15,
        "unlabeled": 0,
        "distractors": 0,
        "dirichlet": None,
        "setting": "inductive",
        "traits": [],
        "batch_norm": "running",
        "accuracy": 94.9,
        "ci95": 0.231,
        "episodes": 1000,
        "seed": 0,
        "seconds": 1.5,
        "config": "a1b2c3d4",
        "commit": "ba52432ab1+",
        "steps": 5000,
        "paper_steps": None,
        "device": "cpu (x86_64, 2 threads)",
        "published": None,
        "source": None,
        "difference": None,
        "accuracies": [0.123456, 0.654321],
    } | changes


def pool_rows(method: str = "protonet") -> list[dict[str, Any]]:
    """ProtoNet, with and without soft k-means, by unlabeled samples and distractors, and two
    baselines.
    """
    rows = [row("pixels", accuracy=42.0, batch_norm=None, baseline=True, steps=0)]
    for shot in (1, 5):
        for u, d in ((0, 0), (5, 0), (5, 5), (10, 0), (10, 5)):
            pool = {"shot": shot, "unlabeled": u, "distractors": d}
            rows.append(row(method, **pool))
            kind = "semi-supervised" if u else "inductive"
            rows.append(
                row(
                    f"{method} + soft",
                    traits=["uses_unlabeled"],
                    setting=kind,
                    accuracy=95 + u / 9 - d / 9,
                    **pool,
                )
            )
    return rows


HISTORY = [
    {
        "step": 20 * i,
        "loss": 3 / i,
        "lr": 1e-3,
        "seconds": i,
        **({"val": 0.9 + i / 1e3, "val_ci95": 0.01} if i % 5 == 0 else {}),
    }
    for i in range(1, 21)
]


ENDINGS = ("html", "md", "csv", "tex")


def balanced(text: str) -> None:
    """What LaTeX would stop at: braces and environments that do not match, special signs that are
    not escaped.
    """
    stack: list[str] = []
    for what, name in re.findall(r"\\(begin|end)\{(\w+)\}", text):
        if what == "begin":
            stack.append(name)
        else:
            assert stack.pop() == name
    assert stack == []
    depth = 0
    for sign in re.sub(r"\\[\\{}%&$#_]|\\textbackslash\{\}", "", text):
        depth += {"{": 1, "}": -1}.get(sign, 0)
        assert depth >= 0
    assert depth == 0
    for line in text.splitlines():
        if r"\\" in line and "&" in line:
            assert len(re.findall(r"(?<!\\)[%#_]", line)) == 0, line


class Page(HTMLParser):
    """Tags with attributes, tables as lists of lines of cells, and whether every tag is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.tables: list[list[list[str]]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("td", "th"):
            self.tables[-1][-1][-1] += data


def page(out: Path) -> Page:
    made = Page((out / "report.html").read_text("utf-8"))
    assert made.open == []
    return made


def pictures(made: Page) -> list[str]:
    sources = [a["src"] or "" for t, a in made.tags if t == "img"]
    return [
        base64.b64decode(s.removeprefix("data:image/svg+xml;base64,"), validate=True).decode()
        for s in sources
    ]


def test_page_loads_and_runs_nothing(tmp_path: Path) -> None:
    files = write_report(
        tmp_path,
        "t",
        pool_rows(),
        {"run": HISTORY},
        [("an episode", SVG)],
        ["made by `graphfsl demo`"],
    )
    assert files == [tmp_path / f"report.{e}" for e in ENDINGS]
    text = files[0].read_text("utf-8")
    assert (
        "http:" not in text
        and "https:" not in text
        and "@import" not in text
        and "url(" not in text
    )
    made = page(tmp_path)
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in made.tags}
    for _, attributes in made.tags:
        assert "href" not in attributes and not any(name.startswith("on") for name in attributes)
        assert (attributes.get("src") or "data:").startswith("data:")
    drawings = pictures(made)
    assert drawings[0] == SVG and len(drawings) > 4
    for svg in drawings[1:]:
        assert not re.search(r'(?:href|src)="(?!#)', svg)
    assert "<code>graphfsl demo</code>" in text
    # nothing temporary
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(f"report.{e}" for e in ENDINGS)


def test_user_text_is_escaped_everywhere(tmp_path: Path) -> None:
    rows = [
        r | {"run": EVIL, "data": EVIL, "source": EVIL, "setting": r["setting"]}
        for r in pool_rows(EVIL)
    ]
    rows.append(row(setting=EVIL))
    html, md, _, tex = write_report(tmp_path, EVIL, rows, {EVIL: HISTORY}, [(EVIL, SVG)], [EVIL])
    assert "<script" not in html.read_text("utf-8") and "<script" not in md.read_text("utf-8")
    balanced(tex.read_text("utf-8"))
    made = page(tmp_path)
    assert any(cell == EVIL for table in made.tables for line in table for cell in line)
    assert not any("<script>" in svg for svg in pictures(made)[1:])
    for line in md.read_text("utf-8").splitlines():
        assert "[a]" not in line
        if line.startswith("|"):
            lengths = {len(re.split(r"(?<!\\)\|", other)) for other in table_of(md, line)}
            assert len(lengths) == 1


def table_of(md: Path, line: str) -> list[str]:
    return next(part for part in md.read_text("utf-8").split("\n\n") if line in part).splitlines()


def test_settings_never_share_a_table(tmp_path: Path) -> None:
    kinds = [*SETTINGS, "of another kind"]
    n = len(kinds)
    rows = [
        row(f"m{i % n}", setting=kinds[i % n], shot=s, query=15 + s)
        for i in range(2 * n)
        for s in (5, 1)
    ]
    write_report(tmp_path, "t", rows)
    made = page(tmp_path)
    assert [{line[0] for line in table[1:]} for table in made.tables] == [
        {f"m{i}"} for i in range(n)
    ]
    sections = (tmp_path / "report.md").read_text("utf-8").split("\n## ")[1:]
    assert [s.splitlines()[0] for s in sections] == kinds
    for i, section in enumerate(sections):
        assert set(re.findall(r"\| (m\d) ", section)) == {f"m{i}"}
    for kind, meaning in SETTINGS.items():
        assert meaning in (tmp_path / "report.html").read_text("utf-8").replace("&#x27;", "'"), kind


def test_columns_and_numbers(tmp_path: Path) -> None:
    published = {"published": 96.0, "difference": -1.1, "source": "Snell 2017"}
    write_report(
        tmp_path,
        "t",
        [
            row(shot=5, accuracy=98.6249, ci95=0.1401),
            row(**published),
            row(accuracy=1.0, ci95=float("nan")),
        ],
    )
    [table] = page(tmp_path).tables
    assert table == [
        ["method", "way", "shot", "accuracy", "published", "difference", "source", "steps"],
        ["conv4 + protonet", "5", "1", "94.90 ± 0.23", "96.0", "−1.10", "Snell 2017", "5,000"],
        ["conv4 + protonet", "5", "1", "1.00", "", "", "", "5,000"],
        ["conv4 + protonet", "5", "5", "98.62 ± 0.14", "", "", "", "5,000"],
    ]
    assert not any(
        re.search(r"\bnan\b", p.read_text("utf-8"), re.IGNORECASE) for p in tmp_path.iterdir()
    )
    text = (tmp_path / "report.md").read_text("utf-8")
    assert (
        "All rows: omniglot test, 15 queries per class, 1,000 episodes, running BatchNorm."
    ) in text
    assert (
        "0.123456" not in (tmp_path / "report.html").read_text("utf-8") and "0.123456" not in text
    )
    write_report(
        tmp_path,
        "t",
        [row(), row(query=5, batch_norm="joint", unlabeled=5, distractors=2, dirichlet=2.0)],
    )
    varied = ("unlabeled", "distractors", "query", "dirichlet")
    assert page(tmp_path).tables[0][0] == [
        "method",
        "way",
        "shot",
        *varied,
        "accuracy",
        "batch norm",
        "steps",
    ]


def test_same_bytes_whatever_the_reader_prefers(tmp_path: Path) -> None:
    arguments: tuple[Any, ...] = (
        "t",
        pool_rows(),
        {"a": HISTORY, "b": HISTORY},
        [("c", SVG)],
        ["n"],
    )
    first = [p.read_bytes() for p in write_report(tmp_path / "a", *arguments)]
    with matplotlib.rc_context({"font.size": 20, "axes.facecolor": "red", "svg.hashsalt": None}):
        assert [p.read_bytes() for p in write_report(tmp_path / "b", *arguments)] == first
        assert matplotlib.rcParams["font.size"] == 20


def test_csv_round_trip(tmp_path: Path) -> None:
    rows = [
        row('a "quoted", method', traits=["transductive"]),
        row(source="é\nnew line", paper_steps=20000),
    ]
    write_report(tmp_path, "t", rows)
    with (tmp_path / "report.csv").open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        assert reader.fieldnames == [*FIELDS, "command", "environment"]
        back = list(reader)
    for made, r in zip(back, rows, strict=True):
        assert "accuracies" not in made
        for key, value in r.items():
            if key != "accuracies":
                as_text = (
                    json.dumps(value)
                    if isinstance(value, list)
                    else ""
                    if value is None
                    else str(value)
                )
                assert made[key] == as_text
    write_report(tmp_path, "t", [])
    assert (tmp_path / "report.csv").read_text("utf-8").split() == [",".join(FIELDS)]


def finished(path: Path, rows: list[dict[str, Any]], history: list[dict[str, Any]] | None) -> Path:
    path.mkdir(parents=True)
    facts = {
        "rows": rows,
        "config": {"deviations": ["fewer steps"]},
        "seconds": 3.2,
        "when": "2030-01-01",
        "torch": "2.14",
    }
    (path / "results.json").write_text(json.dumps(facts), "utf-8")
    if history is not None:
        (path / "metrics.jsonl").write_text("".join(json.dumps(m) + "\n" for m in history), "utf-8")
    return path


def test_runs(tmp_path: Path) -> None:
    runs = [finished(tmp_path / n, [row()], HISTORY) for n in ("a/one", "b/one", "two")]
    runs.append(finished(tmp_path / "pixels", [row("pixels", steps=0)], None))  # nothing to train
    out = tmp_path / "out"
    assert report_runs(runs, out) == [out / f"report.{e}" for e in ENDINGS]
    [table] = page(out).tables
    assert [line[-1] for line in table] == ["run", str(runs[0]), str(runs[1]), "two", "pixels"]
    text = (out / "report.html").read_text("utf-8")
    assert text.count("differs from its paper: fewer steps") == 4 and text.count("<figure>") == 6
    report_runs(runs[2:3], out)
    assert page(out).tables[0][0][-1] == "steps"  # one run needs no column


@pytest.mark.parametrize(
    "line",
    [
        "true",
        '"x"',
        "{}",
        '{"step": [1], "loss": 1, "seconds": 1}',
        '{"step": 1, "loss": {}, "seconds": 1}',
        "{",
    ],
)
def test_a_damaged_line_of_metrics_is_told(line: str, tmp_path: Path) -> None:
    run = finished(tmp_path / "run", [row()], HISTORY)
    with (run / "metrics.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(InputError, match=r"^[^\n]*metrics.jsonl is damaged[^\n]*$"):
        report_runs([run], tmp_path / "out")


def test_a_configuration_that_is_none_is_told(tmp_path: Path) -> None:
    run = finished(tmp_path / "run", [row()], HISTORY)
    facts = json.loads((run / "results.json").read_text())
    (run / "results.json").write_text(json.dumps({**facts, "config": True}))
    with pytest.raises(InputError, match=r"results.json is damaged"):
        report_runs([run], tmp_path / "out")


def test_missing_or_damaged_runs_are_named(tmp_path: Path) -> None:
    run = finished(tmp_path / "run", [row()], HISTORY)
    for name in ("metrics.jsonl", "results.json"):
        (run / name).unlink()
        with pytest.raises(
            InputError,
            match=rf"{name} not found; has this run "
            rf"finished\?",
        ) as caught:
            report_runs([run], tmp_path / "out")
        assert "\n" not in str(caught.value) and str(run) in str(caught.value)
    diagrams = (
        {"reliability": [None]},
        {"reliability": 3},
        {"confusion": {"classes": ["a"], "counts": [[[None]]]}},
    )
    odd = [
        {},
        {"way": 5},
        row(accuracy="94.9"),
        {**row(), "data": None},
        *({**row(), **d} for d in diagrams),
    ]
    for i, damage in enumerate(odd):
        with pytest.raises(InputError, match=f"odd{i}/results.json is damaged"):
            report_runs(
                [finished(tmp_path / f"odd{i}", [row(), damage], HISTORY)], tmp_path / "out"
            )
    finished(tmp_path / "cut", [row()], HISTORY)
    with (tmp_path / "cut" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4')
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "results.json").write_text("[]")
    for name in ("cut", "other"):
        with pytest.raises(InputError, match="damaged"):
            report_runs([tmp_path / name], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_odd_histories_draw(tmp_path: Path) -> None:
    """Empty, without validation, and a single point."""
    one = [{"step": 1, "loss": 0.0, "val": 0.5, "val_ci95": float("nan")}]
    write_report(tmp_path, "t", [], {"none": [], "loss": [{"step": 1, "loss": 2.0}], "one": one})
    assert len(pictures(page(tmp_path))) == 3


def test_figure_of_unlabeled_samples(tmp_path: Path) -> None:
    """A panel per shot, a line for each number of distractors; the caption names a far baseline,
    the legend what is there; none without several pools."""
    write_report(tmp_path, "t", pool_rows())
    texts = [re.findall(r"<!-- (.*?) -->", svg) for svg in pictures(page(tmp_path))]
    soft = ["protonet", "protonet + soft", "protonet + soft, 5 distractor classes"]
    legends = [[t for t in found if t.startswith(("protonet", "pixels"))] for found in texts]
    assert legends[:2] == [soft, soft]
    captions = re.findall(
        r"<figcaption>(.*?)</figcaption>", (tmp_path / "report.html").read_text("utf-8")
    )
    assert [c.partition("; ")[2] for c in captions[:2]] == ["off the scale: pixels 42.0", ""]
    write_report(tmp_path, "t", [r for r in pool_rows() if r["unlabeled"] == 5])
    assert "Accuracy against unlabeled samples" not in (tmp_path / "report.html").read_text("utf-8")


def test_a_remark_in_words_does_not_make_a_method_read_the_pool(tmp_path: Path) -> None:
    baseline, *others = pool_rows()
    write_report(tmp_path, "t", [{**baseline, "traits": ["uses 3 crops"]}, *others])
    assert "; off the scale: pixels 42.0<" in (tmp_path / "report.html").read_text("utf-8")


def test_a_colour_is_one_method_in_all_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the order in which the figures meet them."""
    seen: dict[str, set[str]] = {}
    monkeypatch.setattr(
        plots,
        "line",
        lambda axes, points, **look: seen.setdefault(look["label"].partition(",")[0], set()).add(
            look["color"]
        ),
    )
    one = [row(name, shot=s, ci95=0.1) for name in ("a", "b", "c") for s in (1, 5)]
    two = [row(name, unlabeled=u, distractors=d, setting="semi-supervised", ci95=0.1)
           for name in ("c", "d", "a") for u in (0, 5) for d in (0, 5)]  # fmt: skip
    figures_of([*two, *one], {})
    assert seen.keys() == {"a", "b", "c", "d"} and all(
        len(colors) == 1 for colors in seen.values()
    ), seen
    assert len({color for colors in seen.values() for color in colors}) == 4


def test_equal_rows_are_folded(tmp_path: Path) -> None:
    """A method that leaves the pool alone has one row for all pools; one that uses it has all of
    its own.
    """
    pools = [(0, 0), (5, 0), (5, 5)]
    plain = [row(unlabeled=u, distractors=d) for u, d in pools]
    other = [row("other", unlabeled=u, distractors=d, accuracy=50.0 + u + d) for u, d in pools]
    semi = [row("semi", unlabeled=5, distractors=d, setting="semi-supervised") for d in (0, 5)]
    write_report(tmp_path, "t", [*plain, *other, *semi])
    inductive, semisupervised = page(tmp_path).tables
    names = [(line[0], *line[3:5]) for line in inductive[1:]]
    assert names == [
        ("conv4 + protonet", "0, 5", "0, 5"),
        *(("other", str(u), str(d)) for u, d in pools),
    ]
    assert len(semisupervised) == 3
    assert len(list(csv.DictReader((tmp_path / "report.csv").open()))) == 8, (
        "the CSV holds every row"
    )


def test_panels_say_what_differs() -> None:
    rows = [
        row(shot=s, query=q, dirichlet=a)
        for s in (1, 5)
        for q, a in ((5, None), (10, None), (10, 2.0))
    ]
    captions = [c for c, _ in curve_figures(rows, "shot", "shots", Colors())]
    same = "omniglot test, 5-way (inductive)"
    assert captions == [
        f"{same}, 5 queries per class, as many queries of every class",
        f"{same}, 10 queries per class, as many queries of every class",
        f"{same}, 10 queries per class, Dirichlet 2.0",
    ]


def study_rows() -> list[dict[str, Any]]:
    """48 cells: width x distance x shot x seed, and what `diagnose` found of each."""
    rows = []
    for i, width in enumerate((8, 16, 32, 64)):
        for distance in ("sqeuclidean", "cosine"):
            for shot in (1, 5):
                for seed in (0, 1, 2):
                    cell = {
                        "learner.encoder.width": width,
                        "learner.head.distance": distance,
                        "test.episode.shot": shot,
                        "seed": seed,
                    }
                    accuracy = 60 + 8 * i + 3 * (shot == 5) + (distance == "cosine") + seed / 3
                    counts = [[30 - 2 * j if j == k else j for k in range(5)] for j in range(5)]
                    rows.append(row(
                        shot=shot, accuracy=accuracy, cell=cell, best=i == 3, 
                        command=f"graphfsl evaluate RUN episode.shot={shot}",
                        environment={"torch": "2.14", "python": "3.11"}, spread=0.31, seeds=3,
                        reliability=[[0, 0.0, 0.0], [40, 0.5, 0.45], [60, 0.9, 0.95]],
                        confusion={"classes": [f"script/{c}" for c in "abcde"], "counts": counts},
                    ))  # fmt: skip
    return rows


EFFECTS = [
    {
        "setting": "inductive",
        "axis": "learner.encoder.width",
        "a": 8,
        "b": None,
        "difference": -3.2,
        "low": -4.0,
        "high": -2.4,
        "p": 1e-5,
        "corrected": 0.0004,
        "matched": 12,
        "paired": True,
        "unit": "%",
    },
]


def test_a_study_says_what_it_found(tmp_path: Path) -> None:
    found, failed = ["`learner.encoder.width`: 64 is better."], [("seed=3", "the loss is nan")]
    html, md, table, tex = write_report(
        tmp_path, "A study", study_rows(), findings=found, effects=EFFECTS, failures=failed
    )
    text = html.read_text("utf-8")
    assert (
        text.index('class="findings"') < text.index("<table>")
        and "<code>learner.encoder.width</code>: 64 is better." in text
    )
    assert "<code>seed=3</code>: the loss is nan" in text
    made = page(tmp_path)
    cells, effects = made.tables
    assert cells[0][:4] == [
        "learner.encoder.width",
        "learner.head.distance",
        "test.episode.shot",
        "seed",
    ]
    assert (
        len(cells) == 49 and ("(3 seeds, s.d. 0.31)") in cells[1][-1] and "shot" not in cells[0][4:]
    )
    assert effects[1] == [
        "inductive",
        "learner.encoder.width",
        "8 − none",
        "−3.20",
        "−4.00 to −2.40",
        "< 0.001",
        "< 0.001",
        "12",
        "paired",
    ]
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", text)
    wanted = [
        "learner.encoder.width against test.episode.shot, averaged over learner.head.distance",
        "omniglot test, 5-way (inductive), averaged over learner.head.distance and seed",
        "Most often: script/e taken for",
        "Expected calibration error 5.0 points over 100 answers",
    ]
    for part in wanted:
        assert any(part in c for c in captions), part
    assert text.count("graphfsl evaluate RUN episode.shot=5\n# ") == 24 and "torch 2.14" in text
    assert "**" in md.read_text("utf-8") and "accuracies" not in table.read_text("utf-8")
    balanced(tex.read_text("utf-8"))
    lines = [x for x in tex.read_text("utf-8").splitlines() if "textbf" in x]
    assert len(lines) == 12 and all(x.startswith("64 & ") for x in lines)
    again = write_report(
        tmp_path / "b", "A study", study_rows(), findings=found, effects=EFFECTS, failures=failed
    )
    assert [f.read_bytes() for f in again] == [f.read_bytes() for f in (html, md, table, tex)]


def test_heat_maps_hold_the_means_of_their_cells(tmp_path: Path) -> None:
    rows = [r for r in study_rows() if (r["cell"]["learner.encoder.width"], r["shot"]) != (8, 5)]
    (_, svg), *_ = [f for f in heat_maps(rows) if "width against test.episode.shot" in f[0]]
    numbers = re.findall(r"<!-- (\d+\.\d) -->", svg)
    by_hand = []
    for width in (8, 16, 32, 64):
        for shot in (1, 5):
            own = [
                r["accuracy"]
                for r in rows
                if (r["cell"]["learner.encoder.width"], r["shot"]) == (width, shot)
            ]
            by_hand += [f"{sum(own) / len(own):.1f}"] if own else []
    assert numbers[: len(by_hand)] == by_hand or numbers[-len(by_hand) :] == by_hand
    two = [r | {"setting": "transductive", "accuracy": 10.0} for r in rows]
    assert len([f for f in heat_maps([*rows, *two]) if f[0].startswith("inductive")]) == 3
    assert all(
        "10.0" not in svg for c, svg in heat_maps([*rows, *two]) if c.startswith("inductive")
    )


CHROMIUM = next(
    (b for b in ("chromium", "chromium-browser", "google-chrome") if shutil.which(b)), None
)


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium or google-chrome on this machine")
@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_shows_the_page_within_its_width(tmp_path: Path, width: int) -> None:
    """Every picture is decoded, and only tables scroll sideways. A copy of the page may run one
    script that looks; it stands in a frame, since a window of chromium has at least 500 pixels."""
    html, *_ = write_report(
        tmp_path, "A study", study_rows(), {"one": HISTORY}, effects=EFFECTS, findings=["`a`: b."]
    )
    look = (
        "<script>onload=()=>parent.postMessage([document.documentElement.scrollWidth,innerWidth,"
        "[...document.images].every(i=>i.naturalWidth>0),document.images.length].join(),'*')</script>"
    )
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", html.read_text("utf-8"))
    (tmp_path / "look.html").write_text(text.replace("</body>", f"{look}</body>"), "utf-8")
    tell = "<title></title><script>onmessage=e=>document.title=e.data</script>"
    (tmp_path / "frame.html").write_text(
        f"{tell}<iframe src=look.html width={width} height=900></iframe>", "utf-8"
    )
    command = [
        str(CHROMIUM),
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        f"--user-data-dir={tmp_path / 'profile'}",
        "--window-size=1400,1000",
        "--virtual-time-budget=5000",
        "--dump-dom",
        (tmp_path / "frame.html").as_uri(),
    ]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
    found = re.search(r"<title>(\d+),(\d+),(\w+),(\d+)</title>", dom)
    assert found, dom[:500]
    assert int(found[1]) <= int(found[2]) == width and found[3] == "true" and int(found[4]) >= 7
