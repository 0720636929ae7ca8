"""Weights of an encoder from a file: every format and wrapping that people have, and nothing that
does not fit.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

import graphfsl
from graphfsl.apply.folder_encoder import encoder_option, folder_encoder, write_folder_features
from graphfsl.apply.label.pool_files import read_pool
from graphfsl.core.pipeline import Pipeline
from graphfsl.data import images
from graphfsl.data.images import decode
from graphfsl.data.sets import arrays
from graphfsl.experiment.builder import build
from graphfsl.experiment.encoders import brings_weights
from graphfsl.experiment.learner_spec import PartSpec
from graphfsl.io import files as regular
from graphfsl.io.errors import InputError
from graphfsl.loops.encode import encode_split
from graphfsl.loops.feature_cache import cached_features
from graphfsl.methods.heads.protonet import ProtoNet
from graphfsl.nn import ENCODERS, Conv4, ResNet12, Timm
from graphfsl.nn.weights import load_encoder_weights, read_weights

timm = pytest.importorskip("timm", reason="the extra `timm` is not installed")
SMALL: dict[str, dict[str, Any]] = {
    "conv4": {"width": 4},
    "conv4_maps": {"width": 4},
    "conv4_r2d2": {"width": [4, 4, 4, 4]},
    "conv4_stride2": {"width": 4},
    "dense_conv": {"width": 4},
    "resnet12": {"widths": [4, 4, 4, 4]},
    "wrn28_10": {"depth": 10, "width": 1},
    "timm": {"model": "resnet10t"},
    "efficientnet_lite0": {},
    "ink_parts": {"width": 4},
    "mlp": {"widths": [4, 4]},
}


def trained(net: nn.Module) -> nn.Module:
    """Every number another, those of BatchNorm too."""
    with torch.no_grad():
        for tensor in net.state_dict().values():
            tensor.copy_(
                torch.rand(tensor.shape) + 0.1 if tensor.is_floating_point() else tensor + 3
            )
    return net


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def refused(line: str) -> Any:
    return pytest.raises(InputError, match=line)


@pytest.mark.parametrize("name", ENCODERS)
def test_every_encoder_takes_a_file(tmp_path: Path, name: str) -> None:
    options = dict(SMALL[name])
    if name == "efficientnet_lite0":
        source = trained(Timm(3, model="tf_efficientnet_lite0"))
    else:
        size = {"pixels": 32 * 32} if name == "mlp" else {}
        source = trained(ENCODERS[name](3, **options, **size))
    file = str(tmp_path / "w.safetensors")
    save_file({f"module.{k}": v.contiguous() for k, v in source.state_dict().items()}, file)
    encoder: dict[str, Any] = {"name": name, **options, "weights": file}
    section = {"encoder": encoder, "head": "protonet"}
    learner = build(section, (3, 32, 32), 5)
    assert same(learner.encoder.state_dict(), source.state_dict())
    assert brings_weights(PartSpec.of(encoder, "encoder"))
    build(
        section | {"encoder": encoder | {"weights": "nowhere"}},
        (3, 32, 32),
        5,
        device="meta",
    )
    with refused(r"nowhere cannot be read"):
        build(section | {"encoder": encoder | {"weights": "nowhere"}}, (3, 32, 32), 5)


class Settings(argparse.Namespace):
    """As training codes keep beside their weights."""


WRAPPED: dict[str, Callable[[dict[str, Tensor]], Any]] = {
    "plain": lambda s: s,
    "module": lambda s: {f"module.{k}": v for k, v in s.items()},
    "checkpoint": lambda s: {
        "epoch": 3,
        "best": 0.5,
        "args": Settings(lr=0.1, gpus={1, 2}),
        "state_dict": s,
        "optimizer": {
            "state": {0: {"exp_avg": torch.ones(3)}},
            "param_groups": [{"lr": 0.1, "betas": (0.9, 0.999)}],
        },
    },
    "model in model": lambda s: {"model": {f"module.encoder.{k}": v for k, v in s.items()}},
    "with a classifier": lambda s: (
        {f"backbone.{k}": v for k, v in s.items()} | {"fc.weight": torch.ones(2, 2)}
    ),
    "beside an average of it": lambda s: {
        "state_dict": s,
        "state_dict_ema": {k: v + 1 for k, v in s.items()},
    },
    "parameters": lambda s: {
        k: nn.Parameter(v) if v.is_floating_point() else v for k, v in s.items()
    },
    "half precision": lambda s: {k: v.half() if v.is_floating_point() else v for k, v in s.items()},
}


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("wrapping", WRAPPED)
def test_what_torch_saved_is_understood(tmp_path: Path, wrapping: str, legacy: bool) -> None:
    source = trained(ResNet12(3, [3, 4, 5, 6]))
    torch.save(
        WRAPPED[wrapping](source.state_dict()),
        tmp_path / "w.pth",
        _use_new_zipfile_serialization=not legacy,
    )
    encoder = ResNet12(3, [3, 4, 5, 6])
    load_encoder_weights(encoder, str(tmp_path / "w.pth"))
    expected = source.state_dict()
    if wrapping == "half precision":
        expected = {
            k: v.half().float() if v.is_floating_point() else v for k, v in expected.items()
        }
    assert same(encoder.state_dict(), expected)


def test_what_does_not_fit_is_one_line(tmp_path: Path) -> None:
    state, encoder, file = trained(Conv4(3, 4)).state_dict(), Conv4(3, 4), tmp_path / "w.pth"
    before = {k: v.clone() for k, v in encoder.state_dict().items()}

    def load(value: Any) -> None:
        torch.save(value, file)
        load_encoder_weights(encoder, str(file))

    with refused(r"lacks 'convs\.3\.weight'"):
        load({k: v for k, v in state.items() if k != "convs.3.weight"})
    with refused(r"lacks 'encoder\.norms\.1\.running_mean'"):
        load({f"encoder.{k}": v for k, v in state.items() if k != "norms.1.running_mean"})
    with refused(
        r"'convs\.0\.weight' as float32 \(4, 1, 3, 3\), where the encoder needs \(4, 3, "
        r"3, 3\)"
    ):
        load(Conv4(1, 4).state_dict())
    with refused(r"holds 'convs\.4\.weight' besides"):
        load(state | {"convs.4.weight": torch.ones(4, 4, 3, 3)})
    with refused(r"as int8 .*, where the encoder needs"):
        load(state | {"convs.2.bias": torch.ones(4, dtype=torch.int8)})
    with refused(r"'norms\.2\.weight' holds NaN or infinity"):
        load(state | {"norms.2.weight": torch.full((4,), torch.nan)})
    with refused(r"more than one set of weights that fit: student, teacher"):
        load(
            {
                who: {k: v + shift for k, v in state.items()}
                for shift, who in enumerate(("student", "teacher"))
            }
        )
    with refused(r"holds a whole Conv4, not its weights"):
        load(encoder)
    with refused(r"holds no weights by name"):
        load({"epoch": 3})
    with refused(r"lacks"):
        load({"a": torch.ones(1)})
    file.write_bytes(b"PK\x03\x04 and no zip")
    with refused(r"none of torch\.save"):
        load_encoder_weights(encoder, str(file))
    torch.save(state, file)
    file.write_bytes(file.read_bytes()[:-2000])
    with refused(r"none of torch\.save, or cut short"):
        load_encoder_weights(encoder, str(file))
    with refused(r"cannot be read"):
        load_encoder_weights(encoder, str(tmp_path))
    assert same(encoder.state_dict(), before), "nothing is half loaded"
    # as codes before PyTorch 0.4.1 wrote them
    load({k: v for k, v in state.items() if "num_batches" not in k})


def test_names_of_another_code_are_converted_as_timm_does(tmp_path: Path) -> None:
    net = trained(timm.create_model("vit_tiny_patch16_224", num_classes=3))
    theirs = {"model": {f"module.{k}": v for k, v in net.state_dict().items()}}  # DeiT's files
    torch.save(theirs, tmp_path / "deit.pth")
    encoder = Timm(3, model="vit_tiny_patch16_224", weights=str(tmp_path / "deit.pth"))
    expected = {k: v for k, v in net.state_dict().items() if not k.startswith("head.")}
    assert same({k.removeprefix("net."): v for k, v in encoder.state_dict().items()}, expected)


class Trap:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.mark),))


@pytest.mark.parametrize("legacy", [False, True])
def test_nothing_that_a_file_says_is_run(tmp_path: Path, legacy: bool) -> None:
    mark = tmp_path / "mark"
    state = Conv4(3, 4).state_dict()
    torch.save(
        {"state_dict": state, "trap": Trap(mark)},
        tmp_path / "w.pth",
        _use_new_zipfile_serialization=not legacy,
    )
    tables = read_weights(tmp_path / "w.pth")
    assert list(tables) == ["state_dict"] and same(tables["state_dict"], dict(state))
    assert not mark.exists()


def test_the_path_of_weights_must_be_text() -> None:
    with refused(re.escape("learner.encoder.weights must be the path of a file, not 3")):
        build({"encoder": {"name": "conv4", "weights": 3}, "head": "protonet"}, (3, 32, 32), 5)


# Doors: who encodes images without an episode


@pytest.fixture
def birds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two classes of small images, and a table that labels two of each."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GRAPHFSL_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    for k, c in enumerate(("jay", "wren")):
        (tmp_path / "in" / c).mkdir(parents=True)
        for i in range(4):
            pixels = rng.integers(0, 100, (20, 20, 3)) + 100 * k
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "in" / c / f"{i}.png")
    lines = [f"{c}/{i}.png,{c}" for c in ("jay", "wren") for i in (0, 1)]
    Path("few.csv").write_text("\n".join(["sample,label", *lines]))
    return tmp_path


DOORS = (
    ("features", "in", "-o", "out"),
    ("label", "in", "--support", "few.csv", "--neighbors", "2", "-o", "out"),
)


@pytest.mark.parametrize("door", DOORS, ids=["features", "label"])
def test_no_door_takes_an_encoder_without_weights(
    birds: Path, call: Any, door: tuple[str, ...]
) -> None:
    for name in ("conv4", "resnet12", "wrn28_10"):
        code, _, err = call(*door, "--encoder", name)
        assert (
            code == 2
            and "has no weights" in err
            and "weights=FILE" in err
            and len(err.splitlines()) == 1
        )
    torch.save(Conv4(3, 8).state_dict(), "under_support.pth")
    code, _, err = call(
        *door, "--encoder", "{name: conv4, width: 8}", "--weights", "under_support.pth"
    )
    assert code == 2 and "stored no averages" in err and "batch_norm=running" in err
    assert not Path("out").exists()


def test_weights_decide_the_features(birds: Path, call: Any) -> None:
    found = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        torch.save(
            {
                "state_dict": {
                    f"module.{k}": v for k, v in trained(Conv4(3, 8)).state_dict().items()
                }
            },
            "w.pth",
        )
        with pytest.warns(UserWarning, match=r"w\.pth as numbers in \[0, 1\]"):
            chosen = encoder_option("{name: conv4, width: 8}", Path("w.pth"), None)
            write_folder_features(birds / "in", birds / "out", chosen, size=32)
        with np.load("out/test.npz", allow_pickle=False) as file:
            found.append(file["features"])
    assert np.array_equal(found[0], found[1]) and not np.array_equal(found[0], found[2])
    net = trained(Conv4(3, 8))
    load_encoder_weights(net, "w.pth")
    image = torch.from_numpy(decode((birds / "in/jay/0.png").read_bytes(), 32, 3, ""))[None] / 255
    assert torch.allclose(net.eval()(image).flatten(), torch.from_numpy(found[2][0]), atol=1e-5)


def test_any_model_of_timm_is_an_encoder(
    birds: Path, call: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(trained(timm.create_model("resnet10t")).state_dict(), "w.pth")
    code, _, err = call(*DOORS[0], "--encoder", "resnet10t", "--weights", "w.pth", "--size", "32")
    assert (code, err) == (0, ""), "its normalisation is known"
    net, transform, size, channels = folder_encoder(
        {"name": "resnet10t", "weights": "w.pth"}, None, None
    )
    assert (size, channels) == (timm.get_pretrained_cfg("resnet10t").input_size[-1], 3)
    assert transform.mean == list(timm.get_pretrained_cfg("resnet10t").mean) and net.frozen

    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_: 1 / 0)  # there is no hub
    code, _, err = call(*DOORS[0], "--encoder", "resnet10t")
    assert (
        code == 2
        and ("cannot be fetched") in err
        and "weights=FILE" in err
        and len(err.splitlines()) == 1
    )
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: "w.pth")
    assert call(*DOORS[0], "--encoder", "resnet10t", "--size", "32")[0] == 0, (
        "from the cache of the hub"
    )
    assert "unknown encoder 'resnet10u'" in call(*DOORS[0], "--encoder", "resnet10u")[2]
    assert "needs 'model'" in call(*DOORS[0], "--encoder", "timm")[2]
    code, _, err = call(*DOORS[0], "--weights", "w.pth", "--run", "r")
    assert code == 2 and "one of --weights and --run" in err


RUN = (
    "run",
    "my.yaml",
    "trainer={steps: 4, batch: 2, val_every: 2, val_episodes: 2}",
    "evaluation.episodes=2",
)


@pytest.mark.parametrize("policy", ["support", "apart", "joint"])
def test_a_run_without_averages_encodes_nothing_alone(world: Path, call: Any, policy: str) -> None:
    policies = [f"learner.batch_norm={policy}"]
    assert call(*RUN, *policies, "-o", "r")[0] == 0
    # Averages of before: weights that moved on under another policy are not theirs.
    assert (
        call(
            *RUN, *policies, "pretrain={objective: cross_entropy, trainer: {steps: 2}}", "-o", "p"
        )[0]
        == 0
    )
    assert call(*RUN, "-o", "good")[0] == 0
    picture = Image.fromarray(
        np.random.default_rng(0).integers(0, 256, (16, 16, 3)).astype(np.uint8)
    )
    for name in ("jay/0", "jay/1", "wren/0", "wren/1"):
        (world / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        picture.save(world / "in" / f"{name}.png")
    Path("few.csv").write_text("sample,label\njay/0.png,jay\nwren/0.png,wren\n")
    for run in ("r", "p"):
        for door in DOORS:
            code, _, err = call(*door, "--run", run)
            assert code == 2 and ("stored no averages") in err and "batch_norm=running" in err, (
                run,
                door,
            )
        code, _, err = call("evaluate", run, "learner.batch_norm=running")
        assert code == 2 and "stored no BatchNorm averages" in err
    assert call(*DOORS[0], "--run", "good")[0] == 0
    assert not graphfsl.load("r").run.has_averages and graphfsl.load("good").run.has_averages


def test_an_encoder_trained_without_averages_is_refused_by_the_library(tmp_path: Path) -> None:
    net = Conv4(3, 8)
    rng = torch.Generator().manual_seed(0)
    split = graphfsl.Split(
        torch.randint(256, (12, 3, 16, 16), generator=rng, dtype=torch.uint8),
        torch.arange(12) % 3,
        ("a", "b", "c"),
        "d",
    )
    images = split.x.permute(0, 2, 3, 1).numpy()
    untrained = Pipeline(net, head=ProtoNet())
    assert encode_split(untrained, split, graphfsl.Transform()).x.shape == (12, 8), (
        "a baseline, and meant so"
    )
    with torch.no_grad():
        for norm in net.norms:
            norm.weight.add_(torch.arange(8) / 100)  # as training under `support` leaves it
    for frozen in (False, True):
        learner = Pipeline(net.requires_grad_(not frozen), head=ProtoNet())
        with refused("stored no averages"):
            encode_split(learner, split, graphfsl.Transform())
        with refused("stored no averages"):
            cached_features(learner, split, graphfsl.Transform())
        with refused("stored no averages"):
            graphfsl.evaluate(learner, split, way=3, shot=1, query=2, episodes=2)
        with refused("stored no averages"):
            graphfsl.FewShotClassifier(learner).fit(images, split.y.numpy())


def test_an_untrained_encoder_in_a_mapping_is_warned_about(tmp_path: Path) -> None:
    x, y = np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3)).astype(np.uint8), [0, 1] * 3
    with pytest.warns(UserWarning, match="'conv4' is untrained; give weights=FILE"):
        graphfsl.FewShotClassifier({"encoder": "conv4", "head": "protonet"}).fit(x, y)
    torch.save(trained(Conv4(3)).state_dict(), tmp_path / "w.pth")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        entry = {"name": "conv4", "weights": str(tmp_path / "w.pth")}
        graphfsl.FewShotClassifier({"encoder": entry, "head": "protonet"}).fit(x, y)


@pytest.mark.parametrize("frozen", ["true", "false"])
def test_a_run_outlives_the_file_that_its_encoder_came_from(
    world: Path, call: Any, frozen: str
) -> None:
    torch.save(trained(Conv4(3, 8)).state_dict(), "w.pth")
    encoder = f"learner.encoder={{name: conv4, width: 8, weights: w.pth, frozen: {frozen}}}"
    code, _, err = call(*RUN, encoder, "learner.head={name: protonet, distance: cosine}", "-o", "r")
    assert code == 0, err
    before = json.loads(call("evaluate", "r", "--json")[1])[0]["accuracy"]
    Path("w.pth").unlink()
    assert json.loads(call("evaluate", "r", "--json")[1])[0]["accuracy"] == before
    if frozen == "true":
        Path("r/model.safetensors").unlink()  # what is left saw features only
        code, _, err = call("evaluate", "r")
        assert code == 2 and "w.pth cannot be read" in err


SWAPPED = (
    "learner.encoder={name: conv4, width: 8, weights: w.pth, frozen: true}",
    "learner.head=nearest_neighbor",
)


def swap(seed: int) -> None:
    torch.manual_seed(seed)
    torch.save(trained(Conv4(3, 8)).state_dict(), "w.pth")


def test_a_run_knows_the_content_of_its_file_of_weights(world: Path, call: Any) -> None:
    swap(0)
    assert call(*RUN, *SWAPPED, "-o", "r")[0] == 0
    assert call(*RUN, *SWAPPED, "-o", "r")[0] == 0
    before = json.loads(call("evaluate", "r", "--json")[1])[0]["accuracy"]
    swap(1)
    code, _, err = call(*RUN, *SWAPPED, "-o", "r")
    assert code == 2 and "r began with other weights" in err and err.count("\n") == 1
    assert json.loads(call("evaluate", "r", "--json")[1])[0]["accuracy"] == before, (
        "the checkpoint holds them"
    )
    Path("r/model.safetensors").unlink()
    code, _, err = call("evaluate", "r")
    assert code == 2 and "r began with other weights" in err


def test_a_study_and_a_pretraining_know_it_too(world: Path, call: Any) -> None:
    swap(0)
    encoder = "{name: conv4, width: 8, weights: w.pth, frozen: true}"
    Path("s.yaml").write_text(
        f"experiment: my.yaml\nset: {{learner.encoder: {encoder}, evaluation.episodes: 4}}\n"
        "grid: {learner.head: [protonet, nearest_neighbor]}\n"
    )
    assert call("ablate", "s.yaml", "-o", "s")[0] == 0
    pretraining = (
        "pretrain",
        "my.yaml",
        SWAPPED[0],
        "pretrain={objective: cross_entropy, trainer: {steps: 1}}",
    )
    first = call(*pretraining, "-o", "p")
    assert first[0] == 0 and call(*pretraining, "-o", "p")[1].count("found the pretraining") == 1
    swap(1)
    code, _, err = call("ablate", "s.yaml", "-o", "s")
    assert code == 2 and "s began with other weights" in err and err.count("\n") == 1
    code, out, _ = call(*pretraining, "-o", "p")
    assert code == 0 and "found" not in out and len(list(Path("p").glob("pretrain-*"))) == 2


def test_features_are_of_the_content_of_the_file(world: Path, call: Any) -> None:
    for k in range(2):
        (world / "images" / str(k)).mkdir(parents=True)
        Image.fromarray(np.full((16, 16, 3), 90 + k, np.uint8)).save(
            world / "images" / str(k) / "a.png"
        )
    found = []
    for seed in (0, 1):
        swap(seed)
        encoder = ("--encoder", "{name: conv4, width: 8}", "--weights", "w.pth")
        code, _, err = call("features", "images", *encoder, "-o", "f")
        assert code == 0, err
        with np.load("f/test.npz") as file:
            found.append(file["features"])
    assert not np.allclose(*found)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no pipes")
def test_weights_that_are_a_pipe_or_a_device_are_one_line(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pth")
    (tmp_path / "zero.safetensors").symlink_to("/dev/zero")
    for name in ("pipe.pth", "zero.safetensors"):
        with refused("is not a regular file"):
            read_weights(tmp_path / name)
        with refused("is not a regular file"):
            Timm(3, model="resnet10t", weights=str(tmp_path / name))


def test_what_would_unpack_to_more_than_memory_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save({"a": torch.zeros(1000)}, tmp_path / "w.pth")
    np.savez_compressed(
        tmp_path / "test.npz", features=np.zeros((1000, 4)), labels=np.zeros(1000, int)
    )
    monkeypatch.setattr(regular, "memory_of_machine", lambda: 2000)
    for read in (
        lambda: read_weights(tmp_path / "w.pth"),
        lambda: arrays.load("test", str(tmp_path)),
        lambda: read_pool(tmp_path / "test.npz", "pixels", None, None),
    ):
        with refused(r"would unpack to [\d,]+ bytes, and this machine has 2,000"):
            read()
    with zipfile.ZipFile(tmp_path / "z.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", bytes(10**6))
    monkeypatch.setattr(images, "MOST", 10**5)
    with refused("would unpack to 1,000,000 bytes"):
        images.Files(tmp_path / "z").read("a.png")
