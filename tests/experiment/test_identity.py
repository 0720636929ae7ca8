"""A run, a shared pretraining and a study know their data: other content is told, another place is
not.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from graphfsl.data import Split, identity
from graphfsl.data.identity import difference, digest
from graphfsl.data.identity import identity as identity_of
from graphfsl.experiment.same_run import known_data
from graphfsl.io.errors import InputError
from tests.support.command import Call

RUN = (
    "run",
    "my.yaml",
    "trainer={steps: 2, batch: 2, val_every: 2, val_episodes: 2}",
    "evaluation.episodes=2",
)
MEAN = ("data.mean=[0.5, 0.5, 0.5]", "data.std=[0.2, 0.2, 0.2]")


def split(seed: int = 0, classes: tuple[str, ...] = ("a", "b"), n: int = 3) -> Split:
    x = np.random.default_rng(seed).integers(0, 256, (n * len(classes), 3, 4, 4), dtype=np.uint8)
    return Split(
        torch.from_numpy(x), torch.arange(len(classes)).repeat_interleave(n), classes, "d/train"
    )


def test_an_identity_is_of_the_content_alone() -> None:
    one = identity_of(split())
    assert identity_of(Split(split().x.clone(), split().y, ("a", "b"), "other/train")) == one
    assert difference(one, json.loads(json.dumps(one))) is None
    swapped = split().x.clone()
    swapped[4] = 255 - swapped[4]
    changes = {
        "images of class 'b' are others": Split(swapped, split().y, ("a", "b"), "d"),
        "class 'c' was added": Split(split().x, split().y, ("a", "c"), "d"),
        "an image was added to class 'b', which had 3": Split(
            torch.cat([split().x, split().x[:1]]),
            torch.tensor([0, 0, 0, 1, 1, 1, 1]),
            ("a", "b"),
            "d",
        ),
        "an image was taken out of class 'b', which had 3": Split(
            split().x[:5], split().y[:5], ("a", "b"), "d"
        ),
        "another order": Split(split().x, torch.tensor([0, 0, 1, 0, 1, 1]), ("a", "b"), "d"),
    }
    for words, other in changes.items():
        found = identity_of(other)
        told = difference(one, found)
        assert told is not None and digest(found) != digest(one)
        assert (
            words in told
            or (words == "another order" and "others" in told)
            or ("no longer there") in told
        )
    hidden = Split(split().x, torch.tensor([0, 0, 0, 1, 1, -1]), ("a", "b"), "d")
    assert difference(one, identity_of(hidden)) is not None


def test_samples_on_disk_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHFSL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("graphfsl.data.memory_map.IN_RAM", 0)
    np.save(tmp_path / "x.npy", split().x.numpy())

    def mapped() -> Split:
        return Split(np.load(tmp_path / "x.npy", mmap_mode="r"), split().y, ("a", "b"), "d")  # type: ignore[arg-type]

    first = identity_of(mapped())
    assert first == identity_of(split())
    monkeypatch.setattr(identity, "_classes", lambda *_: 1 / 0)
    assert identity_of(mapped()) == first
    np.save(tmp_path / "x.npy", 255 - split().x.numpy())
    with pytest.raises(ZeroDivisionError):
        identity_of(mapped())


def swap(world: Path, part: str = "train") -> None:
    """Other images under the same names."""
    with np.load(world / f"data/{part}.npz") as file:
        held = dict(file)
    held["images"] = held["images"][:, ::-1].copy()
    held["images"][0] = 255 - held["images"][0]
    np.savez(world / f"data/{part}.npz", **held)


def test_a_run_directory_refuses_other_data(world: Path, call: Call) -> None:
    assert call(*RUN, *MEAN, "-o", "r")[0] == 0
    before = Path("r/results.json").read_text()
    shutil.copytree(world / "data", world / "moved/data")
    code, _, err = call(*RUN, *MEAN, f"data.root={world / 'moved/data'}", "-o", "r")
    assert code == 0, err  # equal content at another place
    swap(world)
    code, _, err = call(*RUN, *MEAN, "-o", "r")
    assert code == 2 and "run of other data: in split 'train' images of class" in err, err
    shutil.copytree(world / "moved/data", world / "data", dirs_exist_ok=True)
    with np.load("data/train.npz") as file:
        held = dict(file)
    more = {
        k: np.concatenate([v, v[-1:]]) if len(v) == len(held["labels"]) else v
        for k, v in held.items()
    }
    np.savez("data/train.npz", **more)
    for options in (MEAN, ()):  # the mean of the images is another too, and not what is told
        assert call(*RUN, *options, "-o", f"s{len(options)}")[0] == 0
        np.savez("data/train.npz", **held)
        code, _, err = call(*RUN, *options, "-o", f"s{len(options)}")
        assert code == 2 and "an image was taken out of class" in err, err
        np.savez("data/train.npz", **more)
    assert (
        json.loads(before)["rows"][0]["accuracies"]
        == json.loads(Path("r/results.json").read_text())["rows"][0]["accuracies"]
    )


def test_another_configuration_is_named_by_its_first_key(world: Path, call: Call) -> None:
    assert call(*RUN, "-o", "r")[0] == 0
    code, _, err = call(*RUN, "learner.encoder.width=9", "-o", "r")
    assert (
        code == 2 and ("another configuration: learner.encoder.width is 8 there and 9 here") in err
    ), err
    np.savez("data/train.npz", **{**dict(np.load("data/train.npz")), "labels": np.arange(72) % 3})
    code, _, err = call(*RUN, "learner.encoder.width=9", "-o", "r")
    assert code == 2 and "learner.encoder.width" in err, "what was asked for is told first"


def test_a_directory_of_before_goes_on_and_learns_its_data(world: Path, call: Call) -> None:
    assert call(*RUN, "-o", "r")[0] == 0
    Path("r/data.json").unlink()
    with pytest.warns(UserWarning, match="does not say on what data"):
        assert call(*RUN, "-o", "r")[0] == 0
    assert Path("r/data.json").is_file()


PRETRAIN = (
    "pretrain={objective: cross_entropy, trainer: {steps: 2, batch: 8, val_every: 2, "
    "val_episodes: 2}}",
    *MEAN,
)


def test_a_shared_pretraining_is_of_its_data(world: Path, call: Call) -> None:
    assert "found the pretraining" not in call(*RUN, *PRETRAIN, "-o", "runs/a")[1]
    code, out, err = call(*RUN, *PRETRAIN, "learner.head=simple_shot", "-o", "runs/b")
    assert (
        code == 0
        and ("found the pretraining of conv4 by cross_entropy on data/train (72 samples") in out
    ), err
    (first,) = Path("runs").glob("pretrain-*")
    swap(world)
    code, out, err = call(*RUN, *PRETRAIN, "-o", "runs/c")
    assert code == 0 and "found the pretraining" not in out, err
    assert len(list(Path("runs").glob("pretrain-*"))) == 2
    assert json.loads(Path("runs/c/results.json").read_text())["pretraining_seconds"] > 0
    swapped = next(p for p in Path("runs").glob("pretrain-*") if p != first)
    assert (first / "model.safetensors").read_bytes() != (
        swapped / "model.safetensors"
    ).read_bytes()


def test_a_pretraining_of_before_is_found_and_said(world: Path, call: Call) -> None:
    from graphfsl.experiment.experiment import Experiment, digest
    from graphfsl.experiment.pretraining import folder

    assert call(*RUN, *PRETRAIN, "-o", "runs/a")[0] == 0
    (new,) = Path("runs").glob("pretrain-*")
    facts = json.loads(Path("runs/a/config.json").read_text())
    old = folder(Experiment.of(facts["config"]), Path("runs"))
    assert old != new and digest({}) != old.name
    (new / "data.json").unlink()
    new.rename(old)
    code, out, err = call(*RUN, *PRETRAIN, "-o", "runs/b")
    assert code == 0 and "it does not say on which images" in out, err
    assert list(Path("runs").glob("pretrain-*")) == [old]


@pytest.mark.parametrize(
    "entry", [[], {}, None, [3], ["3", "a"], [3, None], {"a": 1}, [{"a": 1}, "a"]]
)
def test_a_damaged_identity_is_told(entry: Any, tmp_path: Path) -> None:
    (tmp_path / "data.json").write_text(
        json.dumps({"train": {"classes": {"a": [3, "f0"], "b": entry}}})
    )
    with pytest.raises(InputError, match=r"data.json is damaged; remove it"):
        known_data(tmp_path)
