"""`graphfsl generate`: what it writes, what it measures, and what it refuses."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from graphfsl.apply.generate import (
    Generated,
    Nearest,
    draw,
    generator_of,
    pipeline_of,
    to_bytes,
)
from graphfsl.apply.generator_quality import frechet, told_apart
from graphfsl.apply.predict import open_run
from graphfsl.data import Transform
from graphfsl.io.checkpoint import whole_folder
from graphfsl.io.errors import InputError
from graphfsl.methods.augment.affine_copies import AffineCopies
from tests.support.command import PNG, Call, posix, refused, write_split

GENERATORS = {
    "neural_statistician": "{name: neural_statistician, steps: 40, width: 4}",
    "affine_copies": "affine_copies",
    "prototype_vae": "[feature_transform, {name: prototype_vae, base_steps: 40}]",
    "behind calibrate": "[feature_transform, calibrate, {name: prototype_vae, base_steps: 40}]",
}


@pytest.fixture
def support(world: Path) -> Path:
    """Two images of each of two classes."""
    x = np.random.default_rng(3).integers(0, 255, (4, 16, 16, 3), np.uint8)
    for i, image in enumerate(x):
        path = world / "few" / ("a" if i < 2 else "b") / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return world / "few"


def trained_with(call: Call, name: str) -> None:
    code, _, err = call(
        "run", "my.yaml", f"learner.augment={GENERATORS[name]}", "trainer.steps=2", "--out", "r"
    )
    assert code == 0, err


@pytest.mark.parametrize("name", ["neural_statistician", "affine_copies"])
def test_images_of_each_class_with_the_nearest_training_image(
    world: Path, support: Path, call: Call, name: str
) -> None:
    trained_with(call, name)
    code, out, err = call("generate", "r", "--support", support, "--per-class", 5, "--out", "drawn")
    assert code == 0, err
    assert "10 images of 2 classes; the nearest training image is" in out
    files = sorted(p.relative_to("drawn").as_posix() for p in Path("drawn").rglob("*.png"))
    expected = [f"images/{c}/{i:03d}.png" for c in "ab" for i in range(5)]
    assert files == ["contact_sheet.png", *expected]
    image = np.asarray(Image.open("drawn/images/a/000.png"))
    assert image.shape == (16, 16, 3)
    assert image.std() > 1, "it is no empty image"

    base = np.load("data/train.npz")["images"].astype(float)
    with Path("drawn/generated.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == ["a"] * 5 + ["b"] * 5
    for row in rows:
        drawn = np.asarray(Image.open(Path("drawn") / row["sample"])).astype(float)
        by_hand = np.sqrt(((base - drawn) ** 2).mean((1, 2, 3)))
        assert int(row["nearest training sample"]) == by_hand.argmin()
        assert float(row["distance"]) == pytest.approx(by_hand.min(), abs=1e-3)
    given = [np.asarray(Image.open(p)).astype(float) for p in sorted(support.rglob("*.png"))]
    usual = [np.sqrt(((base - x) ** 2).mean((1, 2, 3))).min() for x in given]
    summary = json.loads(Path("drawn/summary.json").read_text())
    assert summary["nearest_of_given"] == pytest.approx(float(np.median(usual)), abs=1e-3)
    assert Image.open("drawn/contact_sheet.png").width > 500


def test_a_generator_that_draws_one_thing_is_told(
    world: Path, support: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GAN once drew nothing but black: far from copies, and of no use."""
    trained_with(call, "affine_copies")
    command = ["generate", "r", "--support", support, "--per-class", 5, "--out"]
    _, out, err = call(*command, "varied")
    assert "10 images" in out and "alike" not in out, err

    def black(_: AffineCopies, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        return x.new_zeros(*z.shape[:3], *x.shape[-3:])

    monkeypatch.setattr(AffineCopies, "draw", black)
    _, out, err = call(*command, "black")
    assert "what was drawn is all nearly alike: the generator has collapsed" in out, err


def test_variety_is_a_share_of_that_of_the_given_samples() -> None:
    nothing = torch.zeros(0)
    given = torch.tensor([[0.0, 4.0], [2.0, 4.0]])
    for samples, share in (([[1.0, 1.0]] * 3, 0), ([[3.0, 0.0], [5.0, 0.0]], 1)):
        drawn = Generated(torch.tensor(samples), nothing, given, nothing, nothing, ())
        assert drawn.variety == pytest.approx(share)
    assert replace(drawn, given=given[:1]).variety == math.inf


def test_features_are_a_data_set_of_their_own(world: Path, support: Path, call: Call) -> None:
    trained_with(call, "prototype_vae")
    code, out, err = call("generate", "r", "--support", support, "--per-class", 7, "--out", "drawn")
    assert code == 0, err
    assert "14 features of 2 classes" in out
    stored = np.load("drawn/features.npz")
    assert stored["features"].shape == (14, 8)
    assert stored["labels"].tolist() == [0] * 7 + [1] * 7
    assert stored["class_names"].tolist() == ["a", "b"]
    assert len(np.unique(stored["features"], axis=0)) == 14
    assert Path("drawn/contact_sheet.png").is_file()


def test_nodes_of_other_parts_are_no_given_images(world: Path, support: Path, call: Call) -> None:
    """What is usual for real samples is not told by base means that `calibrate` adds."""
    trained_with(call, "behind calibrate")
    predictor = open_run("r")
    images = {name: sorted((support / name).iterdir()) for name in ("a", "b")}
    drawn = draw(predictor, images, 3)
    net = pipeline_of(predictor.run)
    x = predictor.run.transform.plain()(drawn.images)
    with torch.no_grad():
        by_hand = net.augment[0].of_base(net.readout(net.encoder(x)))
    torch.testing.assert_close(drawn.given, by_hand)


def test_without_training_data_there_is_no_nearest_image(
    world: Path, support: Path, call: Call
) -> None:
    trained_with(call, "affine_copies")
    (world / "data").rename(world / "elsewhere")
    code, out, _ = call("generate", "r", "--support", support, "--out", "drawn")
    assert code == 0
    assert "no nearest training images: " in out
    assert "nearest training sample" not in Path("drawn/generated.csv").read_text()


@pytest.mark.parametrize("name", ["neural_statistician", "prototype_vae"])
def test_a_generator_is_held_against_real_samples(world: Path, call: Call, name: str) -> None:
    write_split(world / "data" / "test.npz", 2, classes=6, each=30)
    trained_with(call, name)
    code, out, err = call("generate", "r", "--measure")
    assert code == 0, err
    rows = {row["name"]: row for row in json.loads(Path("r/generator.json").read_text())}
    rival = "AffineCopies" if name == "neural_statistician" else "Gaussian"
    assert len(rows) == 3
    assert rival in rows
    assert rows["real"]["logistic"] == pytest.approx(0.5, abs=0.1)
    assert rows["real"]["fid"] < min(row["fid"] for n, row in rows.items() if n != "real")
    assert all(name in out for name in rows)


def test_mistakes_are_one_line(world: Path, support: Path, call: Call, trained: Path) -> None:
    few, none = ("--support", support), "this run's learner has no generator; train one"
    refused(world, call, "generate", trained, *few, says=none)
    refused(world, call, "generate", trained, says="give either --support")
    refused(world, call, "generate", trained, "--measure", *few, says="give either --support")
    refused(world, call, "generate", trained, "--measure", "--per-class", 5, says="--per-class out")
    refused(world, call, "generate", trained, "--measure", says=none)
    trained_with(call, "affine_copies")
    (world / "full").mkdir()
    (world / "full" / "mine.txt").write_text("mine")
    refused(
        world, call, "generate", "r", *few, "--out", "full", says="full holds something already"
    )
    two = "learner.augment=[affine_copies,affine_copies]"
    refused(world, call, "generate", "r", two, *few, says="has 2 generators; leave one of them")
    mean = "learner.augment={name: affine_copies, averaged: true}"
    refused(world, call, "generate", "r", mean, *few, says="gives the mean of its draws alone")
    new = "learner.augment={name: prototype_vae, base_steps: 10}"
    refused(world, call, "generate", "r", new, *few, says="another architecture")
    (world / "empty").mkdir()
    (world / "broken" / "a").mkdir(parents=True)
    (world / "broken" / "a" / "1.png").write_bytes(PNG[:50])
    refused(world, call, "generate", "r", "--support", "empty", says="empty")
    refused(world, call, "generate", "r", "--support", "broken", says="1.png")
    own = ("--measure", "evaluation.split=train")
    refused(world, call, "generate", "r", *own, says="the generator has learned from train")


def test_images_go_back_to_the_bytes_that_they_were() -> None:
    transform = Transform([0.5, 0.2, 0.1], [0.3, 0.1, 0.25])
    x = torch.randint(0, 256, (4, 3, 5, 5), dtype=torch.uint8)
    assert torch.equal(to_bytes(transform(x), transform), x)
    assert torch.equal(to_bytes(Transform()(x), Transform()), x)


def test_what_is_drawn_alike_is_told_apart_by_chance_and_the_rest_is_found() -> None:
    classes = torch.arange(1000) % 20
    condition = torch.randn(20, 6)[classes] + torch.randn(1000, 6)
    real, alike = (condition + torch.randn(1000, 6) for _ in range(2))
    for layers in (1, 2):
        assert abs(told_apart(alike, real, condition, classes, layers) - 0.5) < 0.06
        moved = told_apart(alike + 1, real, condition, classes, layers)
        assert moved > 0.8
        again = told_apart(alike + 1, real, condition, classes, layers)
        assert again == moved, "generators are compared on the same halves"
    narrow = condition + 0.2 * torch.randn(1000, 6)
    assert told_apart(narrow, real, condition, classes, 1) < 0.6, "a line does not see spread"
    assert told_apart(narrow, real, condition, classes, 2) > 0.9


def test_the_frechet_distance_is_that_of_normal_distributions() -> None:
    real = torch.randn(4000, 3) * torch.tensor([1.0, 2.0, 3.0])
    drawn = torch.randn(4000, 3) * torch.tensor([2.0, 2.0, 1.0]) + torch.tensor([0.0, 1.0, 0.0])
    # ||difference of means||^2 + sum of squared differences of standard deviations
    assert frechet(drawn, real) == pytest.approx(1 + 1 + 4, rel=0.1)


def test_every_image_of_a_class_has_its_turn_whatever_draws_weigh(
    world: Path, support: Path, call: Call
) -> None:
    (support / "b" / "3.png").unlink()
    trained_with(call, "affine_copies")
    still = "rotate: 0, translate: 0, scale: 0, shear: 0, weight: 0"
    predictor = open_run("r", [f"learner.augment={{name: affine_copies, {still}}}"])
    part = generator_of(predictor.learner)
    given = {name: sorted((support / name).iterdir()) for name in ("a", "b")}
    drawn = draw(predictor, given, 4)
    assert drawn.labels.tolist() == [0] * 4 + [1] * 4
    which = torch.cdist(drawn.samples.float().flatten(1), drawn.images.float().flatten(1)).argmin(1)
    assert which.tolist() == [0, 1, 0, 1, 2, 2, 2, 2]
    assert (part.samples, part.weight) == (5, 0), "the learner answers as before"


@pytest.mark.parametrize("name", ["..", "", "a/b"])
def test_a_class_is_no_path(world: Path, support: Path, call: Call, name: str) -> None:
    trained_with(call, "affine_copies")
    with pytest.raises(InputError, match="becomes a folder, which cannot be called"):
        draw(open_run("r"), {name: sorted((support / "a").iterdir())}, 2)


def test_given_training_images_are_said_to_be_some(world: Path, call: Call) -> None:
    trained_with(call, "affine_copies")
    base = np.load("data/train.npz")
    (world / "own" / "a").mkdir(parents=True)
    Image.fromarray(base["images"][0]).save(world / "own" / "a" / "0.png")
    code, out, _ = call("generate", "r", "--support", "own", "--per-class", 2, "--out", "drawn")
    assert code == 0
    assert "most of the given images are training images themselves" in out


def test_an_interruption_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), whole_folder(tmp_path / "out") as folder:
        (folder / "half").write_text("half")
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())
    (tmp_path / "out").mkdir()
    with whole_folder(tmp_path / "out") as folder:
        (folder / "a").write_text("a")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["a"]
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@posix
@pytest.mark.parametrize("is_there", [True, False])
def test_a_link_leads_to_the_folder(tmp_path: Path, is_there: bool) -> None:
    """To an empty folder, as on another disk, or to none yet."""
    if is_there:
        (tmp_path / "far").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "far")
    with whole_folder(tmp_path / "link") as folder:
        (folder / "a").write_text("a")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "far" / "a").read_text() == "a"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["far", "link"]


def test_the_share_is_of_medians_also_of_two_given_images() -> None:
    """As one image of each of two classes: the lower of two distances is no middle."""
    nothing = torch.zeros(0)
    found = Nearest(nothing, torch.tensor([1.0, 3.0, 5.0, 9.0]), torch.tensor([1.0, 3.0]), nothing)
    assert found.share == 4 / 2
