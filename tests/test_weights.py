"""Weights of an encoder from a file: every format and wrapping that people have, and nothing that does not fit."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from graphfsl.builder import brings_weights, build
from graphfsl.errors import InputError
from graphfsl.nn import ENCODERS, Conv4, ResNet12, Timm
from graphfsl.nn.weights import load_encoder_weights, read_weights

timm = pytest.importorskip("timm", reason="the extra `timm` is not installed")
SMALL: dict[str, dict[str, Any]] = {
    "conv4": {"width": 4},
    "conv4_maps": {"width": 4},
    "conv4_r2d2": {"width": [4, 4, 4, 4]},
    "conv4_stride2": {"width": 4},
    "resnet12": {"widths": [4, 4, 4, 4]},
    "wrn28_10": {"depth": 10, "width": 1},
    "timm": {"model": "resnet10t"},
    "efficientnet_lite0": {},
}


def trained(net: nn.Module) -> nn.Module:
    """Every number another, those of BatchNorm too."""
    with torch.no_grad():
        for tensor in net.state_dict().values():
            tensor.copy_(torch.rand(tensor.shape) + 0.1 if tensor.is_floating_point() else tensor + 3)
    return net


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def refused(line: str) -> Any:
    return pytest.raises(InputError, match=line)


@pytest.mark.parametrize("name", ENCODERS)
def test_every_encoder_takes_a_file(tmp_path: Path, name: str) -> None:
    options = {k: v for k, v in SMALL[name].items()}
    if name == "efficientnet_lite0":
        source = trained(Timm(3, model="tf_efficientnet_lite0"))
    else:
        source = trained(ENCODERS[name](3, **options))
    file = str(tmp_path / "w.safetensors")
    save_file({f"module.{k}": v.contiguous() for k, v in source.state_dict().items()}, file)
    section = {"encoder": {"name": name, **options, "weights": file}, "head": "protonet"}
    learner = build(section, (3, 32, 32), 5)
    assert same(learner.encoder.state_dict(), source.state_dict())
    assert brings_weights(section["encoder"])
    build(section | {"encoder": {**section["encoder"], "weights": "nowhere"}}, (3, 32, 32), 5, device="meta")
    with refused(r"nowhere cannot be read"):
        build(section | {"encoder": {**section["encoder"], "weights": "nowhere"}}, (3, 32, 32), 5)


class Settings(argparse.Namespace):
    """As training codes keep beside their weights."""


WRAPPED: dict[str, Callable[[dict[str, Tensor]], Any]] = {
    "plain": lambda s: s,
    "module": lambda s: {f"module.{k}": v for k, v in s.items()},
    "checkpoint": lambda s: {
        "epoch": 3, "best": 0.5, "args": Settings(lr=0.1, gpus={1, 2}), "state_dict": s,
        "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 0.1, "betas": (0.9, 0.999)}]},
    },
    "model in model": lambda s: {"model": {f"module.encoder.{k}": v for k, v in s.items()}},
    "with a classifier": lambda s: {f"backbone.{k}": v for k, v in s.items()} | {"fc.weight": torch.ones(2, 2)},
    "beside an average of it": lambda s: {"state_dict": s, "state_dict_ema": {k: v + 1 for k, v in s.items()}},
    "parameters": lambda s: {k: nn.Parameter(v) if v.is_floating_point() else v for k, v in s.items()},
    "half precision": lambda s: {k: v.half() if v.is_floating_point() else v for k, v in s.items()},
}  # fmt: skip


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("wrapping", WRAPPED)
def test_what_torch_saved_is_understood(tmp_path: Path, wrapping: str, legacy: bool) -> None:
    source = trained(ResNet12(3, [3, 4, 5, 6]))
    torch.save(WRAPPED[wrapping](source.state_dict()), tmp_path / "w.pth", _use_new_zipfile_serialization=not legacy)
    encoder = ResNet12(3, [3, 4, 5, 6])
    load_encoder_weights(encoder, str(tmp_path / "w.pth"))
    expected = source.state_dict()
    if wrapping == "half precision":
        expected = {k: v.half().float() if v.is_floating_point() else v for k, v in expected.items()}
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
    with refused(r"'convs\.0\.weight' as float32 \(4, 1, 3, 3\), where the encoder needs \(4, 3, 3, 3\)"):
        load(Conv4(1, 4).state_dict())
    with refused(r"holds 'convs\.4\.weight' besides"):
        load(state | {"convs.4.weight": torch.ones(4, 4, 3, 3)})
    with refused(r"as int8 .*, where the encoder needs"):
        load(state | {"convs.2.bias": torch.ones(4, dtype=torch.int8)})
    with refused(r"'norms\.2\.weight' holds NaN or infinity"):
        load(state | {"norms.2.weight": torch.full((4,), torch.nan)})
    with refused(r"more than one set of weights that fit: student, teacher"):
        load({who: {k: v + shift for k, v in state.items()} for shift, who in enumerate(("student", "teacher"))})
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
    load({k: v for k, v in state.items() if "num_batches" not in k})  # as codes before PyTorch 0.4.1 wrote them


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
    torch.save({"state_dict": state, "trap": Trap(mark)}, tmp_path / "w.pth", _use_new_zipfile_serialization=not legacy)
    tables = read_weights(tmp_path / "w.pth")
    assert list(tables) == ["state_dict"] and same(tables["state_dict"], dict(state))
    assert not mark.exists()


def test_the_path_of_weights_must_be_text() -> None:
    with refused(re.escape("learner.encoder.weights must be the path of a file, not 3")):
        build({"encoder": {"name": "conv4", "weights": 3}, "head": "protonet"}, (3, 32, 32), 5)
