"""An experiment is parsed once: what follows from it is told by its typed pieces, not by reading
its mapping again; and a results row keeps what a user noted in it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from graphfsl.apply.folder_encoder import encoder_option
from graphfsl.core.learner import Learner
from graphfsl.data import Setting
from graphfsl.experiment import run as runs
from graphfsl.experiment import runner
from graphfsl.experiment.builder import build, build_learner
from graphfsl.experiment.data_source import DataSource
from graphfsl.experiment.experiment import Experiment
from graphfsl.experiment.learner_spec import LearnerSpec, PartSpec
from graphfsl.experiment.results import read_results
from graphfsl.io.errors import InputError
from graphfsl.loops.row import Row
from graphfsl.report.write import write_report
from graphfsl.study.grid import read_study

PLAIN: dict[str, Any] = {
    "data": {"name": "glyphs"},
    "learner": {"encoder": {"name": "conv4", "width": 4}, "head": "protonet"},
    "episode": {"way": 3, "shot": 1, "query": 2},
    "trainer": {"steps": 1, "batch": 1, "val_every": 1, "val_episodes": 2, "device": "cpu"},
    "evaluation": {"episodes": 4},
    "seed": 3,
}


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The readers of a mapping, by name, each time that one is called."""
    calls: list[str] = []

    def counted(cls: type, name: str) -> None:
        read: Callable[..., Any] = vars(cls)[name].__func__

        def reader(owner: type, *args: Any, **options: Any) -> Any:
            calls.append(cls.__name__)
            return read(owner, *args, **options)

        monkeypatch.setattr(cls, name, classmethod(reader))

    counted(Experiment, "_parsed")
    counted(DataSource, "of")
    counted(LearnerSpec, "of")
    return calls


ONCE = ["Experiment", "DataSource", "LearnerSpec"]


def written(value: dict[str, Any]) -> str:
    """The digest of a mapping, as run folders have been named from the beginning."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:8]


def quiet() -> Console:
    return Console(quiet=True)


@pytest.mark.parametrize("seeds", [1, 2])
def test_a_run_parses_its_experiment_once(seeds: int, parsed: list[str], tmp_path: Path) -> None:
    config = PLAIN if seeds == 1 else {**PLAIN, "seeds": seeds}
    runner.run(Experiment.of(config), tmp_path / "r", quiet())
    assert sorted(parsed) == sorted(ONCE)


def test_a_finished_run_reads_its_directory_once(parsed: list[str], tmp_path: Path) -> None:
    experiment = Experiment.of(PLAIN)
    first = runner.run(experiment, tmp_path / "r", quiet())
    parsed.clear()
    again = runner.run(experiment, tmp_path / "r", quiet())
    assert parsed.count("Experiment") == 1, "config.json of the directory, and nothing else"
    assert [row.values for row in again] == [row.values for row in first]
    assert [row.steps for row in again] == [row.steps for row in first]


def test_pretraining_of_its_own_augmentation_reads_data_once(parsed: list[str]) -> None:
    config = {**PLAIN, "pretrain": {"objective": "rotation", "augment": {"rotate": 5}}}
    experiment = Experiment.of(config).normalised([0.5], [0.25])
    assert parsed.count("DataSource") == 1
    assert experiment.pretraining is not None
    seen = experiment.pretraining.data.transform
    assert (seen.mean, seen.std, seen.rotate) == ([0.5], [0.25], 5)
    assert (experiment.data.transform.mean, experiment.data.transform.rotate) == ([0.5], 0)
    told = Experiment.of(experiment.to_dict())
    assert told.digest() == experiment.digest()
    assert told.pretraining_facts() == experiment.pretraining_facts()


def test_seeds_and_normalisation_are_those_of_the_mapping_read_anew(parsed: list[str]) -> None:
    experiment = Experiment.of({**PLAIN, "seeds": 2, "data": {**PLAIN["data"], "augment": None}})
    made = experiment.with_seed(4).normalised([0.5], [0.25])
    assert parsed.count("Experiment") == 1
    config = experiment.to_dict()
    del config["seeds"]
    config["seed"] = 4
    config["data"] |= {"mean": [0.5], "std": [0.25]}
    told = Experiment.of(config)
    assert made.to_dict() == config and made.digest() == told.digest() == written(config)
    for field in dataclasses.fields(Experiment):
        if field.name not in ("data", "trainer"):  # their classes compare what was written
            assert getattr(made, field.name) == getattr(told, field.name), field.name
    assert made.data.given == told.data.given
    assert vars(made.data.transform) == vars(told.data.transform)


def test_the_last_seed_is_checked_before_the_first_one_trains() -> None:
    with pytest.raises(InputError, match=r"^the last of 2 seeds from 9007199254740992 is above"):
        Experiment.of({**PLAIN, "seed": 2**53, "seeds": 2})


def test_a_change_of_nothing_reads_nothing(parsed: list[str]) -> None:
    experiment = Experiment.of(PLAIN)
    assert experiment.changed() is experiment and parsed == ONCE


def test_a_task_with_other_fields_reads_nothing(parsed: list[str]) -> None:
    experiment = Experiment.of(PLAIN)
    task: Any = experiment.variant({"shot": 2})
    assert parsed == ONCE and (task.way, task.shot, task.query) == (3, 2, 2)


def test_the_names_of_trainings_and_cells_are_those_of_before(tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text(json.dumps(PLAIN))
    grid = {"learner.head.distance": ["cosine"], "test.episode.shot": [1, 2]}
    study = {"experiment": str(tmp_path / "my.yaml"), "grid": grid}
    (tmp_path / "study.yaml").write_text(json.dumps(study))
    config = {
        **PLAIN,
        "learner": {**PLAIN["learner"], "head": {"name": "protonet", "distance": "cosine"}},
    }
    test = {**config.pop("evaluation"), "settings": [{}]}
    config["seed"] = 3
    config["trainer"] = {k: v for k, v in config["trainer"].items() if k != "device"}
    for cell, shot in zip(read_study(tmp_path / "study.yaml").cells, (1, 2), strict=True):
        facts = {"training": written(config), "changes": [f"episode.shot={shot}"], "test": test}
        assert cell.training == written(config) and cell.name == written(facts)


def test_what_decides_a_pretraining_is_written_as_before() -> None:
    pretrain = {"objective": "rotation", "trainer": {"steps": 2}}
    config = {**PLAIN, "pretrain": {**pretrain, "augment": {"rotate": 5}}}
    config["learner"] = {"encoder": {"name": "conv4", "frozen": True}, "head": "protonet"}
    config["trainer"] = {"device": "cpu", "precision": "32-true", "logger": None}
    assert Experiment.of(config).pretraining_facts() == {
        "data": {**PLAIN["data"], "augment": {"rotate": 5}},
        "encoder": {"name": "conv4"},
        "pretrain": pretrain,
        "seed": 3,
        "precision": "32-true",
    }


def test_a_saved_learner_is_parsed_and_checked_once(
    parsed: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = Experiment.of(PLAIN)
    learner: Learner = build_learner(experiment.learner, (1, 28, 28), 3)
    learner.save(tmp_path / "own")
    parsed.clear()
    loaded = runs.load(tmp_path / "own")
    assert sorted(parsed) == sorted(ONCE)
    assert loaded.experiment.learner.head == experiment.learner.head
    x, y = loaded.learner.state_dict(), learner.state_dict()
    assert all(torch.equal(x[key], y[key]) for key in y)


def test_an_experiment_of_a_saved_learner_is_checked_by_building_it() -> None:
    wrong = {"encoder": "conv4", "head": {"name": "protonet", "distance": "manhatan"}}
    with pytest.raises(InputError, match="manhatan"):
        Experiment.of_saved({"data": {"name": None}, "learner": wrong})
    assert Experiment.of_saved({"data": {"name": None}, "learner": {}}).learner.head is None


def test_what_a_report_needs_of_a_run_is_typed(tmp_path: Path) -> None:
    facts = {"rows": [], "config": {"deviations": ["fewer steps"]}, "torch": "2", "when": "now"}
    file = tmp_path / "results.json"
    file.write_text(json.dumps(facts))
    found = read_results(file)
    assert (found.deviations, found.made_with) == (["fewer steps"], ["torch 2", "when now"])
    broken: list[Any] = [{**facts, "config": True}, {"config": {}}, []]
    for damaged in broken:
        file.write_text(json.dumps(damaged))
        with pytest.raises(InputError, match=r"^[^\n]*results.json is damaged[^\n]*run it again$"):
            read_results(file)


def test_published_numbers_are_typed() -> None:
    entries = [{"way": 5, "accuracy": 98.8, "source": "Table 1", "setting": "inductive"}]
    paper = {"title": "A paper", "steps": None}
    notes = Experiment.of({**PLAIN, "paper": paper, "published": entries}).notes
    assert (notes.title, notes.steps) == ("A paper", None)
    (number,) = notes.published
    assert (number.asked, number.metric, number.value) == ({"way": 5}, "accuracy", 98.8)
    assert (number.setting, number.source) == ("inductive", "Table 1")


FILED = {
    "method": "conv4 + protonet",
    "data": "glyphs/test",
    "way": 5,
    "shot": 1,
    "setting": "inductive",
    "accuracy": 61.25,
    "ci95": 0.5,
    "accuracies": [0.5, 0.725],
}


def test_a_row_keeps_what_a_user_noted_in_it(tmp_path: Path) -> None:
    noted = {"lab": "Bern", "temperatures": [1, 2], "rig": {"gpu": 0}}
    row = Row.from_dict({**FILED, **noted})
    assert row.others == noted
    assert {key: row.to_dict()[key] for key in noted} == noted, "flat, as they were"
    assert Row.from_dict(row.replace(run="a").to_dict()).others == noted
    assert not Row.from_dict(FILED).others and not Row.from_dict(row.to_dict() | FILED).cell

    write_report(tmp_path, "t", [row])
    head, line = (tmp_path / "report.csv").read_text("utf-8").splitlines()
    assert {"lab", "temperatures", "rig"} <= set(head.split(",")) and "Bern" in line


def test_what_a_user_noted_replaces_nothing_that_was_measured() -> None:
    row = dataclasses.replace(Row.from_dict(FILED), others={"accuracy": 99.0, "lab": "Bern"})
    assert row.to_dict()["accuracy"] == 61.25 and row.to_dict()["lab"] == "Bern"


def test_the_method_of_a_row_is_read_with_its_learner(monkeypatch: pytest.MonkeyPatch) -> None:
    section = {"head": "protonet", "refine": ["soft_kmeans", {"name": "pt_map"}]}
    spec = LearnerSpec.of({"encoder": None, **section, "per_query": True, "batch_norm": "joint"})
    monkeypatch.setattr(PartSpec, "of", None)  # no entry is read again
    assert spec.method_name == "protonet + soft_kmeans + pt_map"


def test_a_recipe_holds_the_typed_learner() -> None:
    learner: Any = build({"encoder": "conv4", "head": "protonet"}, (1, 28, 28), 3)
    assert learner.recipe.spec == LearnerSpec.of({"encoder": "conv4", "head": "protonet"})
    expected = {"encoder": "conv4", "head": "protonet", "batch_norm": "apart"}
    assert learner.recipe.spec.section_under("apart") == expected


def test_the_encoder_of_a_command_line_is_typed() -> None:
    chosen = encoder_option("{name: conv4, width: 8}", Path("w.pth"), None)
    assert chosen == PartSpec("conv4", {"width": 8, "weights": "w.pth"})
    assert encoder_option("conv4", None, None) == PartSpec("conv4")
    assert PartSpec.of(chosen, "encoder") is chosen


@pytest.mark.parametrize(
    ("notes", "says"),
    [
        ({"paper": {"steps": 1e5}}, "paper.steps must be a whole number, such as 60000, not 1000"),
        ({"published": [{"metric": ["a"]}]}, "published.metric must be text"),
    ],
)
def test_notes_that_would_be_lost_are_refused(notes: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        Experiment.of({**PLAIN, **notes})


def test_a_paper_without_a_title_has_none() -> None:
    assert Experiment.of({**PLAIN, "paper": {"title": None}}).notes.title == ""


def test_a_comparison_needs_two_statistical_units(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not two episodes, of which a unit may have several."""
    base, study = tmp_path / "base.yaml", tmp_path / "study.yaml"
    base.write_text(json.dumps(PLAIN))
    study.write_text(json.dumps({"experiment": str(base), "grid": {"seed": [0, 1]}}))
    monkeypatch.setattr(Setting, "unit", 2)
    assert len(read_study(study).cells) == 2
    with pytest.raises(InputError, match="at least 4, not 3"):
        read_study(study, ["evaluation.episodes=3"])
