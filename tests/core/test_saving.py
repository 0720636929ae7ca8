"""`Learner.save` and `graphfsl.load`: a learner that was trained in Python answers as before, raw
images too.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.base import clone
from torch import nn

import graphfsl as gf
from graphfsl.cli.terminal import app
from graphfsl.core.learner import Learner
from graphfsl.core.pipeline import Pipeline
from graphfsl.io.errors import InputError
from graphfsl.methods.heads.protonet import ProtoNet
from graphfsl.testing import DIM, TinyEncoder
from tests.support.methods import METHODS, answers_values

SHAPE = (1, 16, 16)
TRANSFORM = gf.Transform([0.4], [0.2])
SAVED = [(s, n) for s, n in METHODS if s != "pretrain" and not answers_values(s, n)]


def images(n: int = 24, seed: int = 0) -> tuple[np.ndarray, list[str]]:
    """Noisy squares of three classes, bytes (n, 16, 16), and their labels."""
    rng = np.random.default_rng(seed)
    pattern = np.random.default_rng(7).integers(60, 190, (3, 16, 16))
    y = np.arange(n) % 3
    return (pattern[y] + rng.integers(-40, 40, (n, 16, 16))).astype(np.uint8), [
        f"class {c}" for c in y
    ]


def split(name: str = "mine/train") -> gf.Split:
    x, labels = images(36)
    names = sorted(set(labels))
    return gf.Split(
        torch.from_numpy(x)[:, None],
        torch.tensor([names.index(c) for c in labels]),
        tuple(names),
        name,
    )


def trained(section: Any = None, learner: Learner | None = None, steps: int = 2) -> Learner:
    torch.manual_seed(0)
    made = learner or gf.build(
        section or {"encoder": {"name": "conv4", "width": 8}, "head": "protonet"}, SHAPE, 3
    )
    gf.Trainer(steps=steps, lr=0.01).fit(
        made, gf.Episodes(split(), way=3, shot=1, query=2, unlabeled=2, transform=TRANSFORM)
    )
    return made.eval()


def answers(what: Any, **options: Any) -> np.ndarray:
    x, y = images(12, seed=1)
    return gf.FewShotClassifier(what, **options).fit(x[:6], y[:6]).predict_proba(x[6:])


@pytest.mark.parametrize(("slot", "name"), SAVED, ids=[f"{s}-{n}" for s, n in SAVED])
def test_every_method_answers_as_before(slot: str, name: str, tmp_path: Path) -> None:
    section: dict[str, Any] = {"head": "protonet", {"head": "head"}.get(slot, slot): name}
    maps = slot == "head" and gf.get(slot, name).wants_maps
    section["encoder"] = {"name": "conv4_maps", "width": 8} if maps else "pixels"
    if slot == "adapt":
        section |= {"head": "imprinting" if gf.get(slot, name).adapts_frozen else "linear"}
        section["adapt"] = {"name": name, "steps": 2}
        if name in ("boil", "cavia"):  # which adapt an encoder
            section["encoder"] = {"name": "mlp", "widths": [8]}
    elif slot == "head" and not gf.get(slot, name).reads_support:
        section["adapt"] = "maml"
    torch.manual_seed(0)
    made = gf.build(section, SHAPE, 3)
    if any(p.requires_grad for p in made.parameters()):
        made = trained(learner=made, steps=1)
    for p in made.parameters():
        nn.init.normal_(p, std=0.1)
    made.save(tmp_path / "kept")
    loaded = gf.load(tmp_path / "kept").learner
    assert loaded is not made and type(loaded) is type(made)
    x, labels = images(12)
    w = torch.eye(3)[torch.tensor([int(c[-1]) for c in labels])]
    k = 3 * (made.shots or 2)
    w[k:] = 0
    episode = gf.Episode(TRANSFORM(torch.from_numpy(x)[None, :, None]), w[None], k, 3)
    with torch.no_grad():
        found, expected = (
            torch.manual_seed(0) and model.eval()(episode) for model in (loaded, made)
        )
    assert torch.equal(found, expected)


def test_images_are_normalised_as_in_training(tmp_path: Path) -> None:
    made = trained()
    made.save(tmp_path)
    x, y = images(12, seed=1)
    by_hand = (torch.from_numpy(x)[:, None] / 255 - 0.4) / 0.2
    w = torch.eye(3)[[sorted(set(y)).index(c) for c in y]]
    w[6:] = 0
    with torch.no_grad():
        expected = made(gf.Episode(by_hand[None], w[None], 6, 6))[0].softmax(-1).numpy()
    predictor = gf.load(tmp_path)
    support = {c: [x[i] for i in range(6) if y[i] == c] for c in sorted(set(y))}
    told = [list(p.probabilities.values()) for p in predictor.predict(support, list(x[6:]))]
    for found in (answers(made), answers(str(tmp_path)), answers(predictor), np.array(told)):
        assert np.allclose(found, expected, atol=1e-5)
    assert not np.allclose(answers(made, transform=gf.Transform()), expected, atol=1e-3)
    # the same weights, of which nothing else is known
    untrained = Pipeline(made.encoder, head=ProtoNet())
    assert np.allclose(
        answers(untrained, transform=gf.Transform([0.4], [0.2], rotate=90)), expected, atol=1e-5
    )
    assert not np.allclose(answers(untrained), expected, atol=1e-3)
    with pytest.raises(InputError, match="a run brings its own normalisation"):
        answers(predictor, transform=TRANSFORM)


def test_facts_of_training_are_kept_and_may_be_given(tmp_path: Path) -> None:
    made = trained()
    made.save(tmp_path / "a")
    run = gf.load(tmp_path / "a").run
    assert (
        run.classes == ("class 0", "class 1", "class 2")
        and run.shape == SHAPE
        and run.steps == 2
        and not run.ink
    )
    assert run.transform.mean == [0.4] and run.transform.std == [0.2]
    made.save(tmp_path / "a", transform=gf.Transform([0.5], [0.1]), classes=["x", "y"])
    run = gf.load(tmp_path / "a").run
    assert run.classes == ("x", "y") and run.transform.std == [0.1]
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["learner.safetensors"]
    drawn = gf.build({"encoder": "conv4", "head": "protonet"}, (1, 28, 28), 5)
    glyphs = gf.Episodes(gf.load_data("glyphs", "val"), way=5, shot=1, query=1)
    gf.Trainer(steps=1).fit(drawn, glyphs)
    drawn.save(tmp_path / "b")
    predictor = gf.load(tmp_path / "b")
    assert predictor.run.ink, "ink on paper is turned to what the learner saw"
    assert predictor.image(np.full((28, 28), 250, np.uint8)).max() == 5
    assert gf.load(tmp_path / "a", ["learner.refine=soft_kmeans"]).learner.uses_unlabeled


def test_a_learner_made_by_hand_goes_into_another(tmp_path: Path) -> None:
    made = trained(learner=Pipeline(TinyEncoder(), head=ProtoNet()))
    made.save(tmp_path)
    with pytest.raises(InputError, match=r"put together in Python.*learner="):
        gf.load(tmp_path)
    other = Pipeline(TinyEncoder(), head=ProtoNet())
    assert np.array_equal(answers(gf.load(tmp_path, learner=other)), answers(made))
    with pytest.raises(InputError, match="of another architecture"):
        gf.load(tmp_path, learner=Pipeline(nn.Conv2d(1, 2, 3), head=ProtoNet()))
    with pytest.raises(InputError, match="taken as it is"):
        gf.load(tmp_path, ["learner.refine=soft_kmeans"], learner=other)
    Pipeline(TinyEncoder(), head=ProtoNet()).save(tmp_path / "untrained", shape=SHAPE)
    assert gf.load(tmp_path / "untrained", learner=other).run.shape == SHAPE
    with pytest.raises(InputError, match=r"give shape=\(channels"):
        Pipeline(TinyEncoder(), head=ProtoNet()).save(tmp_path / "no")
    assert not (tmp_path / "no").exists()


def test_the_batch_norm_policy_is_kept(tmp_path: Path) -> None:
    made = trained()
    made.set_batch_norm("support")
    made.save(tmp_path)
    loaded = gf.load(tmp_path).learner
    assert loaded.batch_norm == "support"
    assert np.array_equal(answers(loaded, transform=TRANSFORM), answers(made))


def test_what_building_anew_would_lose_is_refused(tmp_path: Path) -> None:
    made: Any = trained()
    made.head.temperature = 3.0
    with pytest.raises(InputError, match=r"head\.temperature = 3\.0"):
        made.save(tmp_path)
    made = trained()
    made.refine.append(gf.get("refine", "soft_kmeans")())
    with pytest.raises(InputError, match="refine"):
        made.save(tmp_path)
    with pytest.raises(InputError, match=r"float64"):
        trained().double().save(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")
    with pytest.raises(InputError, match="holds a run"):
        trained().save(tmp_path / "run")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        trained().save(tmp_path / "file")


def test_damaged_and_absent_files(tmp_path: Path) -> None:
    trained().save(tmp_path)
    file = tmp_path / "learner.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-40])
    with pytest.raises(InputError, match="broken"):
        gf.load(tmp_path)
    file.write_bytes(whole.replace(b'\\"std\\": [0.2]', b'\\"std\\": [0.9]'))
    with pytest.raises(InputError, match="checksum"):
        gf.load(tmp_path)
    with pytest.raises(InputError, match="means nothing"):
        gf.load(tmp_path / "none", learner=trained())


def test_a_saved_learner_is_as_good_as_a_run(tmp_path: Path) -> None:
    made = gf.build({"encoder": "conv4", "head": "protonet"}, (1, 28, 28), 5)
    gf.Trainer(steps=1).fit(
        made, gf.Episodes(gf.load_data("glyphs", "val"), way=5, shot=1, query=1)
    )
    made.save(tmp_path)
    with pytest.raises(InputError, match=r"saved without a data set; set data\.name"):
        app(["evaluate", str(tmp_path)], standalone_mode=False)
    app(
        ["evaluate", str(tmp_path), "data.name=glyphs", "evaluation.episodes=4"],
        standalone_mode=False,
    )
    (file,) = (tmp_path / "evaluations").glob("*.json")
    (row,) = json.loads(file.read_text())["rows"]
    assert row["steps"] == 1 and row["episodes"] == 4


def test_a_saved_encoder_starts_another_learner(tmp_path: Path) -> None:
    made: Any = trained()
    made.save(tmp_path)
    entry = {"name": "conv4", "width": 8, "weights": str(tmp_path / "learner.safetensors")}
    other: Any = gf.build({"encoder": entry, "head": "simple_shot"}, SHAPE, 5)
    for name, tensor in made.encoder.state_dict().items():
        assert torch.equal(other.encoder.state_dict()[name], tensor)


def test_vectors_too(tmp_path: Path) -> None:
    x = torch.randn(20, DIM, generator=torch.Generator().manual_seed(0))
    made = gf.build({"head": "feat"}, (DIM,), 2)
    made.save(tmp_path)
    y = np.arange(20) % 2
    a, b = (
        gf.FewShotClassifier(m).fit(x[:10], y[:10]).predict_proba(x[10:])
        for m in (made, gf.load(tmp_path))
    )
    assert np.array_equal(a, b)


def test_a_normalisation_makes_no_transformer_of_the_classifier() -> None:
    classifier = gf.FewShotClassifier("protonet", transform=TRANSFORM)
    assert (
        not hasattr(classifier, "transform") and classifier.get_params()["transform"] is TRANSFORM
    )
    assert clone(classifier).get_params()["transform"].mean == [0.4]
    assert classifier.set_params(transform=None).get_params()["transform"] is None


def test_a_saved_learner_encodes_folders(tmp_path: Path) -> None:
    """`label` and `features` take it where they take a run."""
    x, labels = images()
    color = [Image.fromarray(image).convert("RGB") for image in x]
    for i, (image, label) in enumerate(zip(color, labels, strict=True)):
        (tmp_path / "photos" / label).mkdir(parents=True, exist_ok=True)
        image.save(tmp_path / "photos" / label / f"{i}.png")
    few = "".join(f"{label}/{i}.png,{label}\n" for i, label in enumerate(labels[:6]))
    (tmp_path / "few.csv").write_text("sample,label\n" + few)
    made = gf.build({"encoder": {"name": "conv4", "width": 8}, "head": "protonet"}, (3, 16, 16), 3)
    base = gf.Split(
        torch.randint(256, (30, 3, 16, 16)).to(torch.uint8),
        torch.arange(30) % 3,
        ("a", "b", "c"),
        "m/t",
    )
    gf.Trainer(steps=1).fit(made, gf.Episodes(base, way=3, shot=1, query=2))
    made.save(tmp_path / "kept")
    run = ["--run", str(tmp_path / "kept")]
    few_labels = ["--support", str(tmp_path / "few.csv")]
    photos = str(tmp_path / "photos")
    app(["features", photos, *run, "--out", str(tmp_path / "features")], standalone_mode=False)
    assert np.load(tmp_path / "features" / "test.npz")["features"].shape == (24, 8)
    app(
        ["label", photos, *run, *few_labels, "--out", str(tmp_path / "labels")],
        standalone_mode=False,
    )
    assert len((tmp_path / "labels" / "labels.csv").read_text().splitlines()) == 25
