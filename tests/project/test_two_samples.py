"""The table of a study's generators: one line each, between real samples and the simplest one."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import two_samples
from graphfsl.apply.generator_quality import Quality
from graphfsl.experiment.learner_spec import PartSpec
from graphfsl.io.errors import InputError

PARTS = {
    "a": PartSpec("prototype_vae", {"delta": True, "weight": 0.1}),
    "b": PartSpec("gaussian", {"samples": 0}),
    "c": PartSpec("f_clswgan", {"steps": 500}),
    "d": PartSpec("gaussian"),  # the simplest itself
}


CONV4 = PartSpec("conv4", {"weights": "experiments/results/one/model.safetensors"})
ENCODERS = dict.fromkeys(PARTS, CONV4)


def a_run(path: Path) -> Any:
    parts = (PARTS[path.name], PartSpec("feature_transform"))
    spec = SimpleNamespace(augment=parts, encoder=ENCODERS[path.name])
    draws = PARTS[path.name].options.get("samples", 5)
    return SimpleNamespace(experiment=SimpleNamespace(learner=spec), learner=draws)


def measured(path: Path, changes: list[str], count: int) -> list[Quality]:
    assert changes == ["evaluation.split=val"] and count == 30
    names = ["real", path.name, "Gaussian"][: 2 if path.name == "d" else 3]
    return [Quality(name, 0.5, 0.5, float(ord(path.name)), 1.0, 1.0, 1.0) for name in names]


def test_each_generator_that_draws_has_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in PARTS:
        (tmp_path / "runs" / name).mkdir(parents=True)
    monkeypatch.setattr("graphfsl.experiment.run.load", a_run)
    monkeypatch.setattr(two_samples, "generator_of", lambda draws: SimpleNamespace(samples=draws))
    monkeypatch.setattr(two_samples, "measure", measured)
    lines = [(line.name, line.fid) for line in two_samples.measured(tmp_path, "val", 30)]
    assert [name for name, _ in lines] == [
        "real",
        "f_clswgan, steps 500",
        "gaussian",
        "prototype_vae, delta true",
        "the simplest: Gaussian",
    ]
    assert [fid for _, fid in lines[1:4]] == [99.0, 100.0, 97.0]


def test_generators_of_two_encoders_stand_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in PARTS:
        (tmp_path / "runs" / name).mkdir(parents=True)
    monkeypatch.setitem(ENCODERS, "c", PartSpec("resnet12"))
    monkeypatch.setattr("graphfsl.experiment.run.load", a_run)
    monkeypatch.setattr(two_samples, "generator_of", lambda draws: SimpleNamespace(samples=draws))
    monkeypatch.setattr(two_samples, "measure", measured)
    lines = [(line.name, line.fid) for line in two_samples.measured(tmp_path, "val", 30)]
    assert lines == [
        ("real, one", 97.0),
        ("gaussian, one", 100.0),
        ("prototype_vae, delta true, one", 97.0),
        ("the simplest: Gaussian, one", 97.0),
        ("real, resnet12", 99.0),
        ("f_clswgan, steps 500, resnet12", 99.0),
        ("the simplest: Gaussian, resnet12", 99.0),
    ]


def test_a_folder_without_generators_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runs" / "b").mkdir(parents=True)
    monkeypatch.setattr("graphfsl.experiment.run.load", a_run)
    monkeypatch.setattr(two_samples, "generator_of", lambda draws: SimpleNamespace(samples=draws))
    with pytest.raises(InputError, match="no generator that draws"):
        list(two_samples.measured(tmp_path, "val", 30))
