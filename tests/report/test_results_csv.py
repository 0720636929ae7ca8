"""The record of committed results: one CSV for each data set, from which tables are printed."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from graphfsl.io.errors import InputError
from graphfsl.io.package_data import experiments_dir
from graphfsl.report.committed_tables import table
from graphfsl.report.results_csv import (
    data_set,
    is_record,
    read_records,
    records,
    write_records,
)

RESULTS = experiments_dir() / "results"


def row(**changes: Any) -> dict[str, Any]:
    plain = {"method": "conv4 + protonet", "data": "cifar-fs/val", "way": 5, "shot": 1, "query": 15}
    measured = {"setting": "inductive", "batch_norm": "running", "accuracy": 51.25, "ci95": 0.5}
    return plain | measured | {"unlabeled": 0, "distractors": 0, "accuracies": [0.5]} | changes


def write_run(folder: Path, name: str, rows: list[dict[str, Any]], **config: Any) -> Path:
    path = folder / name
    path.mkdir(parents=True)
    plain = {"data": {"name": "cifar_fs"}, "learner": {"encoder": "conv4", "head": "protonet"}}
    config = plain | config
    (path / "results.json").write_text(json.dumps({"rows": rows, "config": config}))
    return path


def test_the_committed_records_are_those_of_the_runs() -> None:
    expected = records(RESULTS)
    assert {"omniglot", "cifar_fs", "glyphs"} <= expected.keys()
    assert {f.stem for f in RESULTS.glob("*.csv") if is_record(f)} == expected.keys()
    for name, text in expected.items():
        written = (RESULTS / f"{name}.csv").read_text(encoding="utf-8")
        assert written == text, "run: python tools/results_csv.py"


def told(file: str, row: Mapping[str, Any]) -> str:
    """What tells a row from others, and its value."""
    value = row[row.get("metric") or "accuracy"]
    return repr((file, row.get("way"), row.get("shot"), value, row["ci95"]))


def test_every_row_of_every_run_is_in_a_record() -> None:
    stored = []
    for file in [*RESULTS.glob("*/results.json"), *RESULTS.glob("*/evaluations/*.json")]:
        rows = json.loads(file.read_text())["rows"]
        name = file.relative_to(RESULTS).as_posix()
        stored += [told(name, r) for r in rows]
    kept = [told(r["file"], r) for r in read_records(RESULTS)]
    assert sorted(kept) == sorted(stored)


def test_a_line_of_a_record_holds_what_results_json_holds() -> None:
    changed = {"published", "source"}  # of another split, too
    for line in read_records(RESULTS):
        rows = json.loads((RESULTS / line["file"]).read_text())["rows"]
        stored = [
            {k: v for k, v in r.items() if k in line and k not in changed and v is not None}
            for r in rows
        ]
        assert any(own == {k: line[k] for k in own} for own in stored), line["file"]


def test_rows_that_differ_in_their_queries_have_lines_of_their_own(tmp_path: Path) -> None:
    write_run(tmp_path, "a", [row(query=1, accuracy=97.0), row(query=15, accuracy=95.0)])
    write_records(tmp_path)
    told = {line["variant"]: float(line["accuracy"]) for line in read_records(tmp_path)}
    assert told == {"query 1": 97.0, "query 15": 95.0}
    assert all(value in table("cifar_fs", tmp_path) for value in ("97.00", "95.00"))


def test_a_training_without_labels_says_what_its_classes_were(tmp_path: Path) -> None:
    write_run(tmp_path, "a", [row(accuracy=50.0)], train_episode={"task": "views", "way": 9})
    clusters = {"name": "cifar_fs", "clusters": "clusters.json"}
    write_run(tmp_path, "b", [row(accuracy=40.0)], data=clusters)
    write_records(tmp_path)
    printed = table("cifar_fs", tmp_path)
    assert "conv4 + protonet, trained on views, *val* classes" in printed
    assert "conv4 + protonet, trained on clusters, *val* classes" in printed


@pytest.mark.parametrize(
    ("split", "name"),
    [
        ("omniglot-vinyals-rotations/test", "omniglot"),
        ("omniglot-vinyals/val", "omniglot"),
        ("cifar-fs/val", "cifar_fs"),
        ("cifar_fs/val", "cifar_fs"),
        ("my birds/test", "my birds"),
    ],
)
def test_a_split_belongs_to_its_data_set(split: str, name: str) -> None:
    assert data_set(split) == name


def test_what_is_no_class_has_a_record_of_its_own_beside_classes(tmp_path: Path) -> None:
    pixels = {"task": "functions", "metric": "MSE", "MSE": 0.04, "shot": 50, "data": "glyphs/test"}
    waves = pixels | {"data": "sinusoid/test"}
    write_run(tmp_path, "a", [row(data="glyphs/test")])
    write_run(tmp_path, "b", [row(**pixels)])
    write_run(tmp_path, "c", [row(**waves)])
    found = records(tmp_path)
    assert list(found) == ["glyphs", "glyphs_functions", "sinusoid"]
    assert "MSE" in found["glyphs_functions"] and "MSE" not in found["glyphs"]

    write_records(tmp_path)
    assert "regression" not in table("glyphs", tmp_path)
    assert "5-way" not in table("glyphs_functions", tmp_path)


def test_a_table_needs_the_record_alone(tmp_path: Path) -> None:
    published = [
        {"way": 5, "shot": 1, "accuracy": 49.5, "source": "A, Table 1"},
        {"way": 5, "shot": 1, "accuracy": 48.0, "source": "B", "setting": "transductive"},
        {"way": 5, "shot": 5, "accuracy": 60, "source": "A, Table 1"},
    ]
    rows = [row(), row(shot=5, accuracy=65.0), row(batch_norm="support", accuracy=40.0)]
    path = write_run(
        tmp_path, "a", rows, published=published, pretrain={"objective": {"name": "rotation"}}
    )
    (path / "evaluations").mkdir()
    facts = {"overrides": ["=x", "learner.head=relay"], "rows": [row(setting="transductive")]}
    (path / "evaluations" / "b.json").write_text(json.dumps(facts))
    assert [file.name for file in write_records(tmp_path)] == ["cifar_fs.csv"]
    (path / "results.json").unlink()
    label, where = "conv4 + protonet from rotation", ", *val* classes"
    run, other = (
        f"([run](experiments/results/a/{n}))" for n in ("results.json", "evaluations/b.json")
    )
    assert table("cifar", tmp_path).splitlines() == [
        "Inductive:",
        "",
        "|  | 5-way 1-shot | 5-way 5-shot |",
        "| --- | --- | --- |",
        f"| {label}{where} {run} | 51.25 ± 0.50 | 65.00 ± 0.50 |",
        "| published on the test classes: A, Table 1 | 49.5 | 60 |",
        f"| {label}, support BatchNorm{where} {run} | 40.00 ± 0.50 |  |",
        "",
        "Transductive:",
        "",
        "|  | 5-way 1-shot |",
        "| --- | --- |",
        f"| {label}, =x learner.head=relay{where} {other} | 51.25 ± 0.50 |",
        "| published on the test classes: B | 48.0 |",
    ]


def study_file(path: Path, cells: Iterable[tuple[Any, ...]]) -> None:
    """The cells of a study of inner loops: (method, shot, steps, seed, MSE)."""
    lines = ["learner.adapt,chunk,test.episode.shot,test.steps_test,seed,setting,MSE,ci95"]
    for method, shot, steps, seed, value in cells:
        setting = "inductive" if value else ""
        half = "" if value in ("", "diverges") else 0.1 * value
        lines.append(f"{method},25,{shot},{steps},{seed},{setting},{value},{half}")
    path.write_text("\n".join(lines) + "\n")


def test_of_an_error_a_study_shows_the_median_seed_and_says_what_diverges(tmp_path: Path) -> None:
    seeds = {0: (3.0, 1.0, 2.0), 5: (9.0, "diverges", 7.0), 10: ("diverges", 4.0, "diverges")}
    cells = [("maml", 5, t, seed, v) for t, of in seeds.items() for seed, v in enumerate(of)]
    study_file(tmp_path / "waves.csv", [*cells, ("anil", 5, 0, 0, 6.0), ("anil", 5, 5, 0, "")])
    assert table("waves", tmp_path).splitlines() == [
        "Inductive:",
        "",
        "| adapt | steps_test 0 | steps_test 5 | steps_test 10 |",
        "| --- | --- | --- | --- |",
        "| maml | 2 ± 0.2 | 9 ± 0.9 | diverges |",
        "| anil | 6 ± 0.6 |  |  |",
    ]


def test_a_table_that_a_command_wrote_is_shown_as_it_is(tmp_path: Path) -> None:
    """Turned where it has more columns than fit."""
    (tmp_path / "pairs.csv").write_text(",a,b\nx/test,1.00,2.00\n")
    assert table("pairs", tmp_path).splitlines() == [
        "|  | a | b |",
        "| --- | --- | --- |",
        "| x/test | 1.00 | 2.00 |",
    ]
    (tmp_path / "wide.csv").write_text("learner,s0,s1,s2,s3,s4,s5,s6,s7\na,0,1,2,3,4,5,6,7\n")
    assert table("wide", tmp_path).splitlines()[:3] == [
        "| learner | a |",
        "| --- | --- |",
        "| s0 | 0 |",
    ]


def test_of_a_share_a_study_shows_the_mean_over_seeds(tmp_path: Path) -> None:
    """As of an accuracy; a share is not an error, whatever its name."""
    rows = [
        "test.learner.novelty,seed,setting,AUROC,ci95,unit",
        *(f"oslo,{seed},transductive,{value},0.3,%" for seed, value in enumerate((90, 91, 95))),
    ]
    (tmp_path / "unknown.csv").write_text("\n".join(rows) + "\n")
    assert table("unknown", tmp_path).splitlines()[-1] == "| oslo | 92.00 ± 0.30 |"


def test_a_value_of_a_study_says_which_seeds_it_lacks(tmp_path: Path) -> None:
    """The median of one seed is none of three."""
    cells = [("alfa", 5, 1, 0, ""), ("alfa", 5, 1, 1, 4.0), ("alfa", 5, 1, 2, 3.0)]
    others = [("maml", 5, 1, seed, 1.0) for seed in range(3)]
    study_file(tmp_path / "waves.csv", [*cells, *others])
    assert table("waves", tmp_path).splitlines()[4:] == [
        "| alfa | 4 ± 0.4 (2 of 3 seeds) |",
        "| maml | 1 ± 0.1 |",
    ]


def test_a_study_of_many_columns_has_a_table_for_each_level_of_its_second_axis(
    tmp_path: Path,
) -> None:
    levels = itertools.product((5, 10, 20), (0, 1, 5))
    study_file(tmp_path / "waves.csv", [("maml", k, t, 0, k + t) for k, t in levels])
    lines = table("waves", tmp_path).splitlines()
    assert lines[6:11] == [
        "Inductive, shot 10:",
        "",
        "| adapt | steps_test 0 | steps_test 1 | steps_test 5 |",
        "| --- | --- | --- | --- |",
        "| maml | 10 ± 1 | 11 ± 1.1 | 15 ± 1.5 |",
    ]
    assert [line for line in lines if line.endswith(":")] == [
        f"Inductive, shot {shot}:" for shot in (5, 10, 20)
    ]


def test_a_record_is_no_study_and_an_unknown_table_names_what_there_is(tmp_path: Path) -> None:
    write_run(tmp_path, "a", [row()])
    write_records(tmp_path)
    (tmp_path / "pools.csv").write_text("learner.refine,setting,accuracy,ci95\n,inductive,50,1\n")
    assert not is_record(tmp_path / "pools.csv") and is_record(tmp_path / "cifar_fs.csv")
    assert "| none | 50.00 ± 1.00 |" in table("pools", tmp_path)
    with pytest.raises(InputError, match="unknown table 'cifer-fs'; did you mean 'cifar-fs'"):
        table("cifer-fs", tmp_path)
