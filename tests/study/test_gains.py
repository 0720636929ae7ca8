"""What cells gain over a reference: by hand from their episodes, in the report, and mistakes."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats

from graphfsl.loops.row import MetricValue, Row, as_row
from graphfsl.report.write import write_report
from graphfsl.study.cells import units
from graphfsl.study.findings import findings
from graphfsl.study.gains import gains, sections
from graphfsl.study.grid import Study, read_study
from tests.support.command import Call, refused

STUDY = """
experiment: my.yaml
set: {trainer.steps: 4, trainer.val_every: 4, evaluation.episodes: 30}
grid:
  test.learner.head: [protonet, rfs]
  test.episode.shot: [1, 3]
against:
  - {test.learner.head: protonet}
"""


def row(part: str, mean: bool, shot: int, values: np.ndarray, setting: str = "inductive") -> Row:
    cell = {"part": part, "mean": str(mean).lower(), "shot": shot}
    known = {"setting": setting, "data": "x", "seed": 0, "shot": shot, "episodes": len(values)}
    return as_row(known | {"cell": cell, "accuracies": values.tolist(), "accuracy": 0.0})


@pytest.fixture
def rows() -> list[Row]:
    """Two parts, each alone and as its own mean, with 1 and 5 shots; "none" has no mean."""
    random = np.random.default_rng(0)
    made = []
    for part, mean, shot in itertools.product(("none", "a", "b"), (False, True), (1, 5)):
        if part != "none" or not mean:
            made.append(row(part, mean, shot, random.normal(0.1 * (part == "a"), 0.3, 200)))
    return made


def test_a_gain_is_that_of_the_same_episodes_over_the_cell_with_the_levels_of_a_reference(
    rows: list[Row],
) -> None:
    plain, own = {"part": "none", "mean": "false"}, {"mean": "true"}
    found = gains([plain, own], rows)
    assert len(found) == 8 + 4, "each other cell beside none, each draw beside its mean"
    values = {tuple((r.cell or {}).values()): np.array(r.values) for r in rows}
    for gain in found:
        cell = dict(gain.cell)
        d = values[tuple(cell.values())] - values[tuple({**cell, **gain.against}.values())]
        half = scipy.stats.t.ppf(0.975, 199) * d.std(ddof=1) / 200**0.5
        assert (gain.contrast.difference, gain.contrast.half) == pytest.approx((d.mean(), half))
    for reference, count in ((plain, 8), (own, 4)):
        least = min((g for g in found if g.against == reference), key=lambda g: g.contrast.p)
        assert least.contrast.corrected == pytest.approx(min(1, count * least.contrast.p))


def test_rows_of_another_kind_of_setting_are_no_reference(rows: list[Row]) -> None:
    other = [row("c", False, shot, np.ones(200), "transductive") for shot in (1, 5)]
    plain = {"part": "none", "mean": "false"}
    assert len(gains([plain], [*rows, *other])) == 8
    (table,) = sections(gains([plain], [*rows, *other]))
    assert table.heading == "Gains over part=none, mean=false" and len(table.lines) == 8


def test_small_numbers_of_another_unit_than_percent_keep_their_digits(tmp_path: Path) -> None:
    """A squared error of 0.00002 beside one of 0.00003, whose difference was shown as 0."""
    random = np.random.default_rng(0)
    made = {part: size * random.normal(1, 0.05, 200) for part, size in (("a", 2e-5), ("b", 3e-5))}
    rows = []
    for part, values in made.items():
        metrics = {"MSE": MetricValue(float(values.mean()), None, "", more_is_better=False)}
        asked = {"shot": 5}
        rows.append(
            Row("x/test", asked, "inductive", metrics, values.tolist(), "functions", seed=0,
                episodes=200, cell={"part": part})
        )  # fmt: skip
    d = made["b"] - made["a"]
    half = scipy.stats.t.ppf(0.975, 199) * d.std(ddof=1) / 200**0.5
    (gain,) = gains([{"part": "b"}], rows)
    told = gain.to_dict()
    assert (told["gain"], told["half"]) == pytest.approx((d.mean(), half), rel=1e-5)

    (effect,) = findings(Study("s", "q", {"part": ["a", "b"]}, [], 1), rows).effects
    assert (effect["difference"], effect["half"]) == pytest.approx((-d.mean(), half), rel=1e-5)
    write_report(tmp_path, "t", rows, effects=[effect])
    size = f"{-d.mean():+.3g}".replace("-", "−")
    assert f"<td>{size}</td>" in (tmp_path / "report.html").read_text().replace(' class="n"', "")


def test_gains_of_one_kind_over_another_are_corrected_together() -> None:
    """Ten refiners of queries that bring nothing: Holm's p of each, by hand from the raw ones."""
    random = np.random.default_rng(0)
    parts = [f"r{i}" for i in range(10)]
    rows = [row("none", False, 1, random.normal(0.5, 0.3, 100))]
    rows += [row(p, False, 1, random.normal(0.55, 0.3, 100), "transductive") for p in parts]
    axes: dict[str, list[Any]] = {"part": ["none", *parts], "mean": ["false"], "shot": [1]}
    found = findings(Study("s", "q", axes, [], 1), rows)
    effects = [e for e in found.effects if " against " in e["setting"]]
    raw = np.array([e["p"] for e in effects])
    least = effects[int(raw.argmin())]
    assert len(effects) == 10 and least["corrected"] == pytest.approx(min(1, 10 * raw.min()))
    told = [s for s in found.sentences if "a gain, not a ranking" in s]
    assert len(told) == 10 and all("corrected p" in s for s in told)


def test_the_report_says_what_each_cell_gains(world: Path, call: Call) -> None:
    (world / "study.yaml").write_text(STUDY)
    code, _, err = call("ablate", "study.yaml", "--out", "a")
    assert code == 0, err
    found = json.loads(Path("a/study.json").read_text())["gains"]
    assert [g["cell"]["test.episode.shot"] for g in found] == [1, 3]
    lines = Path("a/report.md").read_text().split("## Gains over ")[1].splitlines()
    assert lines[0] == "test.learner.head=protonet"
    assert "| rfs | 1 | " + f"{found[0]['gain']:+.2f}".replace("-", "−") in lines[6]
    assert "Gains over test.learner.head=protonet" in Path("a/report.html").read_text()

    wrong = STUDY.replace("head: protonet}", "head: relationnet}")
    (world / "study.yaml").write_text(wrong)
    refused(world, call, "ablate", "study.yaml", says="against names the level 'relationnet'")
    (world / "study.yaml").write_text(STUDY.replace("  - {test", "  - {tset"))
    refused(world, call, "ablate", "study.yaml", says="axis in against")
    (world / "study.yaml").write_text(STUDY.split("against")[0] + "against: [1]\n")
    refused(world, call, "ablate", "study.yaml", says="against must be a list of {axis: level}")


def test_further_metrics_are_compared_too_and_stand_in_the_table(world: Path, call: Call) -> None:
    """Gains by hand from the files of the cells; a cell without the metric is not done."""
    text = STUDY + "also: [calibration error]\n"
    (world / "study.yaml").write_text(text)
    code, _, error = call("ablate", "study.yaml", "--out", "b")
    assert code == 0, error
    name = "calibration error"
    files = list(Path("b").glob("cells/*.json"))
    cells = [json.loads(file.read_text()) for file in files]
    of_shot: dict[int, dict[bool, np.ndarray]] = {1: {}, 3: {}}
    for cell in cells:
        of_shot[cell["shot"]]["rfs" in cell["method"]] = np.array(cell["further"][name])
    found = json.loads(Path("b/study.json").read_text())["gains"]
    gained = [gain for gain in found if gain["metric"] == name]
    for gain in gained:
        values = of_shot[gain["cell"]["test.episode.shot"]]
        better = values[False] - values[True]  # where less error is better
        assert gain["gain"] == pytest.approx(100 * better.mean(), abs=1e-3)
    assert len(gained) == 2
    lines = Path("b/cells.csv").read_text().splitlines()
    assert {name, f"{name} ci95"} <= set(lines[0].split(","))
    assert f"protonet, {name}" in Path("b/report.md").read_text()

    told = json.loads(files[0].read_text())
    del told["further"]
    files[0].write_text(json.dumps(told))
    study = read_study("study.yaml")
    assert sum(len(unit.cells) for unit in units(study, Path("b"))) == 1
    (world / "study.yaml").write_text(text.replace(name, "calibration eror"))
    refused(world, call, "ablate", "study.yaml", says="calibration error")
