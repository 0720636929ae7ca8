"""Episodes whose classes are images: what is drawn, what a view is, and that no label is read."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import graphfsl as gf
from graphfsl.data import Episodes, Split, Transform
from graphfsl.data.episode_files import read_episodes, write_episodes
from graphfsl.data.sets import glyphs
from graphfsl.data.streams import few_of
from graphfsl.data.tasks.views import Views
from graphfsl.experiment import run as runs
from graphfsl.experiment.experiment import Experiment
from graphfsl.experiment.measure import measure
from graphfsl.io.checkpoint import load_checkpoint, read_lines
from graphfsl.io.errors import InputError


@pytest.fixture(scope="module")
def letters() -> Split:
    return glyphs.load("val")


def shuffled(y: Tensor) -> Tensor:
    return y[torch.randperm(len(y), generator=torch.Generator().manual_seed(1))]


def test_few_of_many_are_different_and_each_set_is_as_likely() -> None:
    u = np.random.default_rng(0).random((6000, 3))
    chosen = np.sort(few_of(5, u), 1)
    assert chosen.min() == 0 and chosen.max() == 4
    assert (np.diff(chosen, axis=1) > 0).all()
    _, counts = np.unique(chosen, axis=0, return_counts=True)
    assert len(counts) == 10 and abs(counts - 600).max() < 100
    assert (np.sort(few_of(3, u), 1) == np.arange(3)).all()


def test_each_class_is_one_image_and_labels_are_not_read(letters: Split) -> None:
    task = Views(way=8, shot=2, query=3)
    drawn = task.draws(letters, 0).draw(np.arange(50))
    k = 16
    assert drawn.ids.shape == drawn.label.shape == (50, 40)
    for ids, label in zip(drawn.ids, drawn.label, strict=True):
        of_class = [set(ids[label == column].tolist()) for column in range(8)]
        assert all(len(images) == 1 for images in of_class)
        assert len(set.union(*of_class)) == 8
        assert np.bincount(label[:k]).tolist() == [2] * 8
        assert np.bincount(label[k:]).tolist() == [3] * 8
    assert len({tuple(row) for row in drawn.label[:, k:].tolist()}) == 50, "queries are shuffled"
    task.check_draw(drawn, letters)

    other = dataclasses.replace(letters, y=shuffled(letters.y))
    one_class = Split(letters.x, torch.zeros_like(letters.y), ("any",), letters.name)
    for split in (other, one_class):
        again = task.draws(split, 0).draw([7, 3])
        for name, array in again.arrays.items():
            assert (array == drawn.arrays[name][[7, 3]]).all(), name


def test_a_view_is_never_the_image_and_no_two_are_alike(letters: Split) -> None:
    task = Views(way=6, shot=2, query=2)
    episodes = Episodes(letters, task, 0, Transform([0.5], [0.25]))
    episode, target = episodes.batch([4, 5])
    stored = Transform([0.5], [0.25])(letters.gather(target.ids))
    apart = (episode.x - stored).flatten(2).abs().amax(-1)
    assert (apart > 1).all()
    views = episode.x.flatten(0, 1).flatten(1)
    assert torch.pdist(views).min() > 1
    # paper, and what is dropped, is 0 before it is normalised
    assert float(episode.x.min()) == pytest.approx(-2)

    alone, _ = episodes.batch([5])
    assert torch.equal(alone.x[0], episode.x[1])
    # the run's own augmentation takes no part
    beside = Episodes(letters, task, 0, Transform([0.5], [0.25], rotate=90, flip=True))
    assert torch.equal(beside.batch([4, 5])[0].x, episode.x)
    label = target.query
    assert torch.equal(
        episode.w[:, episode.support].argmax(-1)[:, ::2], torch.arange(6).expand(2, -1)
    )
    assert not episode.w[:, episode.query].any() and label.shape == (2, 12)
    assert (target.classes == -1).all()


def test_each_option_makes_views_of_its_own(letters: Split) -> None:
    nothing = {"rotate": 0, "translate": 0, "scale": 0, "shear": 0, "drop": 0}
    made = {}
    for name in ("rotate", "translate", "scale", "shear"):
        task = Views(**{**nothing, name: getattr(Views(), name)})
        made[name] = Episodes(letters, task, 0).batch([0])[0].x
    rotated = made["rotate"]
    dropped = (
        Episodes(letters, Views(**{**nothing, "rotate": 25.0, "drop": 0.3}), 0).batch([0])[0].x
    )
    gone = (dropped == 0) & (rotated > 0)
    assert abs(float(gone.sum() / (rotated > 0).sum()) - 0.3) < 0.05
    assert torch.equal(dropped[~gone], rotated[~gone])
    pairs = torch.stack([x.flatten() for x in made.values()])
    assert torch.pdist(pairs).min() > 1


def test_listed_episodes_are_the_same_views(letters: Split, tmp_path: Path) -> None:
    task, file = Views(way=3, query=2), tmp_path / "episodes.json"
    write_episodes(file, letters, task, 5, 8)
    listed = read_episodes(file, letters)
    assert listed.task == task
    again = Episodes(letters, listed=listed)
    for number in range(8):
        one, other = Episodes(letters, task, 5).batch([number]), again.batch([number])
        assert torch.equal(one[0].x, other[0].x)
        assert torch.equal(one[1].query, other[1].query)
    facts = json.loads(file.read_text())
    facts["episodes"][1]["ids"][0] = facts["episodes"][1]["ids"][1]
    file.write_text(json.dumps(facts))
    with pytest.raises(InputError, match="views of several images in one class"):
        read_episodes(file, letters)


def test_hues_of_one_drawing_are_one_image() -> None:
    x = torch.randint(0, 256, (12, 1, 8, 8), dtype=torch.uint8)
    split = Split(x, torch.zeros(12, dtype=torch.long), ("a",), "painted", variants=4)
    drawn = Views(way=3, query=1).draws(split, 0).draw(np.arange(40))
    assert all(len(set(row)) == 3 for row in (drawn.ids // 4).tolist())
    assert len(np.unique(drawn.ids)) == 12


def test_images_that_are_all_the_same_give_chance() -> None:
    x = torch.full((30, 1, 28, 28), 255, dtype=torch.uint8)
    split = Split(x, torch.arange(30) % 2, ("a", "b"), "same")
    learner = gf.build(
        {"encoder": {"name": "conv4", "width": 4}, "head": "protonet"}, (1, 28, 28), 5
    )
    found = gf.evaluate(learner, split, Views(query=4), episodes=100)
    assert abs(100 * found.mean - 20) < 4


def world(folder: Path, labels: Tensor) -> Experiment:
    """A tiny experiment on views, of base images with these labels."""
    for name in ("train", "test"):
        split = glyphs.load(name)
        y = labels if name == "train" else split.y[:200]
        folder.mkdir(parents=True, exist_ok=True)
        np.savez(folder / f"{name}.npz", images=split.x[: len(y), 0].numpy(), labels=y.numpy())
    return Experiment.of(
        {
            "data": {"name": "arrays", "root": str(folder)},
            "learner": {"encoder": {"name": "conv4", "width": 4}, "head": "protonet"},
            "episode": {"way": 3, "query": 5, "unlabeled": 2},
            "train_episode": {"task": "views", "way": 6, "query": 2},
            "trainer": {"steps": 4, "val_every": 1, "device": "cpu"},
            "evaluation": {"episodes": 4, "settings": [{"unlabeled": 0}]},
        }
    )


def test_shuffled_training_labels_change_no_weight(tmp_path: Path) -> None:
    """There is no validation split either: nothing is selected."""
    labels, found = glyphs.load("train").y[:300], []
    for name, y in (("a", labels), ("b", shuffled(labels))):
        experiment = world(tmp_path / name / "set", y)
        run, base = runs.prepare(experiment, tmp_path / f"run-{name}")
        run = runs.train(run, base)
        assert run.steps == 4
        lines = read_lines(run.path / "metrics.jsonl")
        assert lines and not any("val" in line for line in lines)
        found.append(load_checkpoint(run.path / "model.safetensors")[0])
        (row,) = measure(run)
        assert row.task == "classes" and "meta-trained without labels" in row.traits
    first, second = found
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_training_on_views_takes_what_it_knows_of_the_episode(tmp_path: Path) -> None:
    experiment = world(tmp_path / "set", glyphs.load("train").y[:300])
    assert experiment.train_task == Views(way=6, shot=1, query=2)
    assert experiment.changed("episode.shot=2", "train_episode.drop=0").train_task == Views(
        way=6, shot=2, query=2, drop=0
    )
    assert not experiment.selects and experiment.changed("train_episode=null").selects


def test_mistakes_are_one_line(letters: Split, tmp_path: Path) -> None:
    for options, why in (
        ({"way": 1}, "episode.way .* at least 2"),
        ({"drop": 1.0}, "episode.drop must be a number from 0 to 0.99"),
        ({"rotate": 0, "translate": 0, "scale": 0, "shear": 0}, "must differ from their image"),
    ):
        with pytest.raises(InputError, match=why):
            Views(**options)  # type: ignore[arg-type]
    features = Split(torch.randn(20, 3), torch.arange(20) % 2, ("a", "b"), "rows")
    with pytest.raises(InputError, match="rows holds no images, of which views could be made"):
        Views().draws(features, 0)
    with pytest.raises(InputError, match="has 5 images, but way 6 needs as many"):
        Views(way=6).draws(Split(letters.x[:5], letters.y[:5], letters.classes[:1], "few"), 0)
    labels = glyphs.load("train").y[:300]
    experiment = world(tmp_path / "set", labels).changed("learner.head=simple_shot")
    with pytest.raises(InputError, match="learns from base classes, and the task 6-way 1-shot of"):
        runs.prepare(experiment, tmp_path / "run")
    with pytest.raises(InputError, match="unknown option of train_episode 'unlabeled'"):
        experiment.changed("train_episode.unlabeled=3")
