"""Clusters in place of labels: what becomes a class, and that training reads no label."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphfsl.apply.relabel import large_clusters, relabel
from graphfsl.experiment import run as runs
from graphfsl.experiment.experiment import Experiment
from graphfsl.io.checkpoint import read_lines
from graphfsl.io.errors import InputError
from tests.support.command import Call
from tests.support.refusal import refused

TRUTH = np.repeat(np.arange(12), 15)  # the blob of each sample


def test_clusters_of_too_few_members_are_left_out() -> None:
    found = large_clusters(np.array([3, 0, 0, 1, 3, 3, 0, 2, 2]), 2)
    assert found.tolist() == [2, 0, 0, -1, 2, 2, 0, 1, 1]
    assert large_clusters(np.array([0, 1]), 3).tolist() == [-1, -1]


@pytest.fixture
def blobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Features of 12 classes far apart, of which the base samples have labels by chance."""
    generator = np.random.default_rng(0)
    (tmp_path / "set").mkdir()
    for name in ("train", "test"):
        x = 10 * np.eye(12)[TRUTH] + generator.normal(size=(180, 12))
        y = TRUTH if name == "test" else generator.permutation(TRUTH)
        np.savez(tmp_path / "set" / f"{name}.npz", features=x.astype(np.float32), labels=y)
    facts = {
        "data": {"name": "arrays", "root": "set", "clusters": "clusters.json"},
        "learner": {"encoder": {"name": "mlp", "widths": [6]}, "head": "protonet"},
        "episode": {"way": 5, "shot": 2, "query": 5},
        "trainer": {"steps": 3, "val_every": 1, "device": "cpu"},
        "evaluation": {"episodes": 4},
    }
    (tmp_path / "my.yaml").write_text(json.dumps(facts))
    monkeypatch.chdir(tmp_path)
    experiment = Experiment.of(
        {
            "data": {"name": "arrays", "root": "set"},
            "learner": {"head": "protonet"},
            "episode": facts["episode"],
            "evaluation": facts["evaluation"],
            "trainer": {"device": "cpu"},
        }
    )
    (tmp_path / "set" / "val.npz").write_bytes((tmp_path / "set" / "test.npz").read_bytes())
    runs.train(*runs.prepare(experiment, tmp_path / "plain"))
    return tmp_path


def test_training_on_clusters_finds_classes_and_reads_no_label(blobs: Path, call: Call) -> None:
    code, out, err = call("relabel", "plain", "--clusters", "12", "--least", "7")
    assert code == 0, err
    assert "12 clusters of set/train, with 180 of its 180 samples: clusters.json" in out
    split = Experiment.read("my.yaml").data.split("train")
    assert split.classes[:2] == ("cluster 0", "cluster 1")
    for blob in range(12):
        assert len(set(split.y[blob == TRUTH].tolist())) == 1

    (blobs / "set" / "val.npz").unlink()
    code, out, err = call("run", "my.yaml", "--out", "run")
    assert code == 0, err
    row = json.loads((blobs / "run" / "results.json").read_text())["rows"][0]
    assert row["traits"] == ["meta-trained without labels"]
    assert not any("val" in line for line in read_lines(blobs / "run" / "metrics.jsonl"))
    code, _, err = call("evaluate", "run", "data.clusters=other.json")
    assert code == 2 and "data.clusters is read while training only" in err


def test_functions_are_no_samples_to_cluster(tmp_path: Path) -> None:
    experiment = Experiment.of(
        {
            "data": {"name": "gaussian_process"},
            "learner": {"head": {"name": "cnp", "width": 4}},
            "episode": {"task": "functions", "shot": 2, "query": 2},
            "trainer": {"steps": 1, "batch": 1, "device": "cpu", "val_every": 1, "val_episodes": 1},
        }
    )
    runs.train(*runs.prepare(experiment, tmp_path / "run"))
    with refused("gaussian_process/train holds functions, which are no samples to cluster"):
        relabel(tmp_path / "run", tmp_path / "c.json", 5)


def test_mistakes_are_one_line(blobs: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def error_of(*command: str) -> str:
        code, _, err = call(*command)
        assert code == 2 and err.count("\n") == 1, err
        return err

    assert "no file clusters.json; `graphfsl relabel` writes one" in error_of("run", "my.yaml")
    assert "must lie in 2..180" in error_of("relabel", "plain", "--clusters", "181")
    few = error_of("relabel", "plain", "--clusters", "12", "--least", "99")
    assert "0 of 12 clusters have 99 members or more" in few
    assert not (blobs / "clusters.json").exists()
    with monkeypatch.context() as patch:
        patch.setattr("graphfsl.apply.relabel._kmeans", None)  # it is told before k-means
        for out in ("set", "my.yaml/new/c.json"):
            said = error_of("relabel", "plain", "--clusters", "4", "--out", out)
            assert f"cannot write {out}" in said

    assert call("relabel", "plain", "--clusters", "12")[0] == 2  # of 15 members, not 20
    assert call("relabel", "plain", "--clusters", "4")[0] == 0
    data = dict(np.load("set/train.npz"))
    np.savez("set/train.npz", features=data["features"][::-1], labels=data["labels"])
    assert "holds clusters of other samples than those of set/train" in error_of("run", "my.yaml")
    np.savez("set/train.npz", **data)
    written = json.loads(Path("clusters.json").read_text())

    def error_with(**changes: Any) -> str:
        Path("clusters.json").write_text(json.dumps(written | changes))
        return error_of("run", "my.yaml")

    others = written["clusters"][1:]
    assert "with the number 1000000000, but" in error_with(clusters=[10**9, *others])
    for wrong in (3.7, "3", True, -2):
        told = error_with(clusters=[wrong, *others])
        assert f"a cluster must be a whole number of at least -1, not {wrong!r}" in told
    assert "clusters.json is of format 99" in error_with(format=99)
    Path("clusters.json").write_text("[1]")
    assert "is no file of clusters" in error_of("run", "my.yaml")
    with pytest.raises(InputError, match="must be the path of a file"):
        Experiment.read("my.yaml", ["data.clusters=[1]"])
