"""A study file is read into one object, and what it cannot mean is one clear line."""

from __future__ import annotations

from pathlib import Path

import pytest

from graphfsl.io.errors import InputError
from graphfsl.study.study_file import Axis, StudyFile

STUDY = """
experiment: base.yaml
set: {trainer.steps: 10, learner.head: {name: protonet}}
grid:
  seed: [0, 1]
  test.learner.refine: [null, {name: soft_kmeans, steps: 2}]
skip: [{seed: 1, test.learner.refine: [null]}]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "why.yaml"
    path.write_text(STUDY)
    return path


def test_a_study_file_is_one_object(file: Path) -> None:
    refiners = (None, {"name": "soft_kmeans", "steps": 2})
    assert StudyFile.read(file) == StudyFile(
        file=file,
        question="why",
        experiment="base.yaml",
        changes=("trainer.steps=10", 'learner.head={"name": "protonet"}'),
        grid=(Axis("seed", (0, 1)), Axis("test.learner.refine", refiners)),
        skip=((Axis("seed", (1,)), Axis("test.learner.refine", (None,))),),
        threads=1,
    )


def test_overrides_change_the_study_or_its_experiment(file: Path) -> None:
    """The file's own changes come first, then those below `set`, then the experiment's."""
    overrides = ["trainer.lr=1", "set.trainer.lr=2", "threads=3", "question=4", "grid.seed=[1, 5]"]
    study = StudyFile.read(file, overrides)
    assert study.changes[2:] == ("trainer.lr=2", "trainer.lr=1")
    assert (study.threads, study.question, study.grid[0]) == (3, "4", Axis("seed", (1, 5)))
    assert StudyFile.read(file, ["set={trainer.steps: 3}"]).changes == ("trainer.steps=3",)


def test_a_choice_of_the_evaluation_is_one_of_its_overrides(file: Path) -> None:
    seed, refine = StudyFile.read(file).grid
    assert [c.change for c in seed.choices] == ["seed=0", "seed=1"]
    assert refine.choices[1].change == 'learner.refine={"name": "soft_kmeans", "steps": 2}'
    assert refine.choices[1].is_of_evaluation and not seed.choices[1].is_of_evaluation


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["question.x=3"], "'question.x=3' sets a part of question, which has none"),
        (["threads.x=3"], "'threads.x=3' sets a part of threads, which has none"),
        (["grid=[1]", "grid.seed=[0]"], "'grid.seed=.* sets a part of grid, which has none"),
        (["grid={1: [2]}"], "grid must map each axis to a list of levels"),
        (["grid.seed=[]"], "grid must map each axis to a list of levels"),
        (["threads=true"], "threads must be a whole number of at least 1, not True"),
        (["set.seed=3"], "seed is set by the axis seed in every cell"),
        (["seeds=2"], "make seeds an axis"),
        (["grid.test.learner=[{}]"], "test.learner.refine and test.learner one replaces"),
        (["grid.data.root=[a]"], "the axis data.root makes no other training"),
        (["grid.seeds=[1, 2]"], "a study runs each cell once, whatever seeds; make it grid.seed="),
        (["grid.test.seeds=[1, 2]"], "a study runs each cell once, whatever test.seeds"),
        (["also=5"], r"also must be a list of metrics, such as also: \[macro-F1\], not 5"),
        (["also=macro-F1"], "also must be a list of metrics"),
        (["also=[[1]]"], "also must be a list of metrics"),
        (["also=[null]"], "also must be a list of metrics"),
        (["also=[macro-F1, macro-F1]"], "also names macro-F1 twice; name each metric once"),
    ],
    ids=str,
)
def test_what_a_study_cannot_mean(file: Path, overrides: list[str], says: str) -> None:
    with pytest.raises(InputError, match=says):
        StudyFile.read(file, overrides)


def test_a_wide_axis_stands_before_the_axes_inside_it(file: Path) -> None:
    """Changes are made in the order of the axes, so that a later wide one would replace them."""
    wide, narrow = "learner.head: [protonet, gnn]", "learner.head.distance: [cosine, dot]"
    named = "learner.head: [{name: protonet, distance: dot}]"
    read = StudyFile.read
    assert len(read(file, [f"grid={{{wide}, {narrow}}}", "skip=[]", "set={}"]).grid) == 2
    for axes in (f"{narrow}, {wide}", f"{named}, {narrow}"):
        with pytest.raises(InputError, match="one replaces what the other sets"):
            read(file, [f"grid={{{axes}}}", "skip=[]", "set={}"])
