"""`key=value`: text stays as it stands where the option takes text, and is YAML elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import graphfsl as gf
from graphfsl.experiment.experiment import Experiment
from graphfsl.experiment.measure import asked_of, borrows
from graphfsl.experiment.overrides import takes_text, text_value
from graphfsl.experiment.run import load
from graphfsl.io.errors import InputError
from graphfsl.study.grid import read_study
from graphfsl.study.study_file import override
from tests.support import ROOT

PLAIN: dict[str, Any] = {
    "data": {"name": "folder", "root": "here"},
    "learner": {"encoder": "conv4", "head": "protonet"},
    "seed": 7,
}


def root(*overrides: str) -> Any:
    return Experiment.of(PLAIN, overrides).to_dict()["data"]["root"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("/x/data #2", "/x/data #2"),
        ("/x/data  ", "/x/data  "),
        ("  x", "  x"),
        ("two\nlines\n", "two\nlines\n"),
        ("5", "5"),
        ("1e3", "1e3"),
        ("true", "true"),
        ("~", "~"),
        ("~/data: new", "~/data: new"),
        ("[a, b]", "[a, b]"),
        ("{a: 1}", "{a: 1}"),
        ("&a", "&a"),
        ("!tag", "!tag"),
        ("C:\\new\\table", "C:\\new\\table"),
        ('"C:\\new"', "C:\\new"),
        ("'it is'", "it is"),
        ("it's", "it's"),
        ("''x''", "'x'"),
        ("'null'", "null"),
        ("a=b", "a=b"),
        ("/x/${seed}/y #2", "/x/7/y #2"),
    ],
)
def test_text_stays_as_it_stands(value: str, text: str) -> None:
    assert root(f"data.root={value}") == text
    changed = {**PLAIN, "data": {"name": "glyphs"}}
    for overrides in (
        (f"data.root={value}", "data.name=folder"),
        ("data.name=folder", f"data.root={value}"),
    ):
        assert Experiment.of(changed, overrides).to_dict()["data"]["root"] == text, (
            "in either order"
        )


def test_null_is_none_where_the_type_allows_it() -> None:
    assert text_value("null") is None and text_value("") is None and text_value('"null"') == "null"
    with pytest.raises(InputError, match="root must be str"):
        root("data.root=null")
    merged = Experiment.of(
        PLAIN, ["trainer.logger=null", "episode.groups=any", "evaluation.split= val"]
    ).to_dict()
    assert merged["trainer"]["logger"] is None and merged["evaluation"]["split"] == " val"


def test_what_takes_text() -> None:
    for kind, text in ((str, True), (Path, True), (str | None, True), (str | Path, True)):
        assert takes_text(kind) is text
    for other in (int, str | int, list[str], dict, Any, None, type(None)):
        assert not takes_text(other)
    encoder = "learner.encoder={name: timm, model: resnet10t}"
    with pytest.raises(InputError, match=r"no #1\.safetensors"):
        Experiment.of(
            PLAIN, [encoder, "learner.encoder.weights=/x/no #1.safetensors"]
        ) and gf.build(
            {
                "encoder": {
                    "name": "timm",
                    "model": "resnet10t",
                    "weights": "/x/no #1.safetensors",
                },
                "head": "protonet",
            },
            (3, 32, 32),
            5,
        )
    merged = Experiment.of(
        PLAIN, ["learner.head.distance=cosine", "trainer.steps=5 # as YAML", "episode.way='6'"][:2]
    ).to_dict()
    assert (
        merged["learner"]["head"] == {"name": "protonet", "distance": "cosine"}
        and merged["trainer"]["steps"] == 5
    )


STUDY = """
experiment: BASE
set: {data.root: "/set #1"}
grid:
  data.folder: ["/a #1", "/é 'x'", "C:\\\\new", "plain", "with blank "]
"""


def test_a_study_reads_its_texts_again(tmp_path: Path) -> None:
    base = tmp_path / "base #1.yaml"
    base.write_text("data: {name: arrays, root: here}\nlearner: {head: protonet}\n")
    file = tmp_path / "study.yaml"
    file.write_text(STUDY.replace("BASE", "nowhere"))
    levels = ["/a #1", "/é 'x'", "C:\\new", "plain", "with blank "]
    study = read_study(file, [f"experiment={base}", "question=Why? # really"])
    assert [
        c.experiment.data.options["folder"] for c in study.cells
    ] == levels and study.question == "Why? # really"
    for level in levels:
        assert (
            Experiment.of(PLAIN, [override(("data.root", level))]).to_dict()["data"]["root"]
            == level
        )
    study = read_study(
        file, [f"experiment={base}", "grid={seed: [0, 1]}", "set.data.root=/mine #2"]
    )
    assert {c.experiment.data.options["root"] for c in study.cells} == {"/mine #2"}
    study = read_study(file, [f"experiment={base}", "grid={seed: [0, 1]}"])
    assert {c.experiment.data.options["root"] for c in study.cells} == {"/set #1"}
    with pytest.raises(InputError, match="grid"):
        read_study(file, [f"experiment={base}", "grid=["])


def test_the_words_of_old_overrides_are_the_same() -> None:
    """They go into the names of a study's cells."""
    for value, text in (
        ("protonet", "a=protonet"),
        ("/x y", 'a="/x y"'),
        ("yes", 'a="yes"'),
        (5, "a=5"),
        (None, "a=null"),
    ):
        assert override(("a", value)) == text


def test_build_refuses_what_it_does_not_know() -> None:
    for key, word in (
        ("refin", "did you mean 'refine'"),
        ("heads", "did you mean 'head'"),
        ("backbone", "known"),
    ):
        with pytest.raises(InputError, match=word):
            gf.build({"head": "protonet", key: "soft_kmeans"}, (64,), 5)
    with pytest.raises(InputError, match="mapping"):
        gf.build("protonet", (64,), 5)  # type: ignore[arg-type]


def test_another_data_set_borrows_way_and_shot() -> None:
    assert borrows(["data.name=omniglot"]) and borrows(["data.root=/x", "evaluation.episodes=5"])
    assert not borrows(["data.name=omniglot", "episode.way=5"]) and not borrows(
        ["evaluation.episodes=5"]
    )
    assert not borrows(["data.root=/x", "evaluation.settings=[{way: 5}]"])


def test_an_episode_that_is_asked_for_need_not_go_with_those_that_the_run_lists() -> None:
    """The run lists settings of one shot, which leave no room for two wrong labels."""
    run = load(ROOT / "experiments" / "results" / "snell2017_glyphs_5w1s")
    (task,) = asked_of(run, ["episode.shot=5", "episode.noise=2"]).tasks
    assert (task.shot, task.noise) == (5, 2)  # type: ignore[attr-defined]
    with pytest.raises(InputError, match="at most shot 5, not 6"):
        asked_of(run, ["episode.shot=5", "episode.noise=6"])


def test_another_kind_of_task_keeps_what_it_has_an_option_for() -> None:
    given = {**PLAIN, "episode": {"way": 7, "shot": 2, "query": 9}}
    changed = Experiment.of(given, ["episode.task=labeling"]).to_dict()["episode"]
    assert changed == {"way": 7, "shot": 2, "task": "labeling"}
    same = Experiment.of(given, ["episode.task=classes"]).to_dict()["episode"]
    assert same == {**given["episode"], "task": "classes"}
    with pytest.raises(InputError, match="unknown option of episode 'query'"):
        Experiment.of(given, ["episode.task=labeling", "episode.query=4"])
