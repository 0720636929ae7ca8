"""`graphfsl proposer`: a net that proposes regions, and files of weights that do."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from torchvision.models import get_model
from torchvision.ops import box_iou

from graphfsl.apply.detect.train_proposer import loss_of, recalls, trained
from graphfsl.data.proposals import proposals
from graphfsl.data.scenes import Objects, SceneSplit
from graphfsl.io.errors import InputError
from graphfsl.nn.objectness import Objectness, objectness_of_file, save_objectness
from graphfsl.nn.torchvision_detector import detector_of_file
from tests.support import ROOT
from tests.support.command import Call
from tests.support.scenes import scenes

EXPERIMENT = ROOT / "experiments/nearest_neighbor/cover1967_glyph_scenes_5w1s.yaml"


def blocks() -> SceneSplit:
    """Scenes of rectangles, three times as large as elsewhere."""
    small = scenes(24, side=16)
    x = small.x.repeat_interleave(3, -1).repeat_interleave(3, -2)
    objects = tuple(Objects(3 * o.boxes, o.labels, o.difficult) for o in small.objects or ())
    return SceneSplit(x, small.y, small.classes, small.name, objects=objects)


def test_a_net_learns_where_things_are_and_is_read_from_its_file(tmp_path: Path) -> None:
    split = blocks()
    torch.manual_seed(0)
    before = recalls(Objectness(3, 12, 48), split)[0]["AR@10"]
    net = trained(split, 48, 12, 50, 0, lambda line: None)
    assert recalls(net, split)[0]["AR@10"] > before + 30
    file = tmp_path / "net.safetensors"
    save_objectness(net, file, {"steps": 50})
    image = split.x[0]
    found = torch.from_numpy(proposals(image.numpy(), str(file)))
    torch.testing.assert_close(found, net.half().float().propose(image), atol=0.1, rtol=0)

    # a larger image is seen as small as those of the training
    large = image.repeat_interleave(2, -1).repeat_interleave(2, -2)
    twice = torch.from_numpy(proposals(large.numpy(), str(file)))
    truth = 2 * torch.from_numpy(split.objects_of(0).boxes)
    assert float(box_iou(twice[:3], truth).max()) > 0.5


def test_classes_are_not_looked_at() -> None:
    split = blocks()
    names = [o.labels for o in split.objects or ()]
    turned = tuple(
        dataclasses.replace(o, labels=(own + 1) % 3)
        for o, own in zip(split.objects or (), names, strict=True)
    )
    other = dataclasses.replace(split, objects=turned)
    torch.manual_seed(0)
    net, ids = Objectness(3, 8, 48), torch.arange(6)
    assert torch.equal(loss_of(net, split, ids), loss_of(net, other, ids))


def test_the_command_writes_a_file_and_tells_what_it_reaches(
    tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("graphfsl.apply.detect.train_proposer.ASKED", 4)
    out = tmp_path / "net.safetensors"
    code, printed, err = call(
        "proposer", EXPERIMENT, "--out", out, "--steps", 2, "--width", 4, "--json"
    )
    assert code == 0, err
    rows = json.loads(printed)
    names = [f"glyph_scenes/{split}" for split in ("train", "val", "test")]
    assert [row["split"] for row in rows] == [name for name in names for _ in range(2)]
    assert rows[1]["proposals"] == "components" and rows[1]["AR@100"] > 60
    assert objectness_of_file(str(out)).width == 4
    for options, message in (
        (("--out", out), "is there already"),
        (("--out", tmp_path / "net.pth"), "ends in .safetensors"),
        (("--out", tmp_path / "b.safetensors", "data.name=glyphs"), "has no boxes"),
        (
            ("--out", tmp_path / "b.safetensors", "trainer.steps=5"),
            "trainer.steps=5 changes nothing",
        ),
    ):
        code, _, err = call("proposer", EXPERIMENT, "--steps", 1, *options)
        assert code == 2 and message in err, err


def test_a_detector_of_torchvision_proposes_its_boxes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    name = "ssdlite320_mobilenet_v3_large"
    net = get_model(name, weights=None, weights_backbone=None)
    file = tmp_path / f"{name}_coco-123.pth"
    torch.save(net.state_dict(), file)
    image = torch.randint(0, 256, (1, 40, 60), dtype=torch.uint8)
    found = proposals(image.numpy(), str(file))
    assert len(found) and (found >= 0).all() and (found[:, 2:] <= [60, 40]).all()

    other = tmp_path / "net.safetensors"
    save_objectness(Objectness(1, 4, 48), other, {})
    assert detector_of_file(str(other)) is None
    wrong = other.rename(tmp_path / f"{name}.safetensors")
    with pytest.raises(InputError, match="is of another model"):
        proposals(image.numpy(), str(wrong))
    with pytest.raises(InputError, match="not found"):
        proposals(image.numpy(), str(tmp_path / "none.safetensors"))
    run = ROOT / "experiments/results/snell2017_glyphs_5w1s/model.safetensors"
    with pytest.raises(InputError, match="holds no net of proposals"):
        proposals(image.numpy(), str(run))
