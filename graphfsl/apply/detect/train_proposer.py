"""`graphfsl proposer`: a net that proposes regions, trained on the boxes of base classes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graphfsl.data.proposals import components
from graphfsl.data.scenes import SceneSplit, scene_split
from graphfsl.data.streams import SCENES, keys_of, uniform
from graphfsl.experiment.experiment import Experiment
from graphfsl.functional.detection_metrics import Boxes, average_recall
from graphfsl.functional.objectness import cell_middles, cell_objects, objectness_loss
from graphfsl.io.errors import InputError, require
from graphfsl.nn.objectness import STRIDE, Objectness, save_objectness

BATCH = 16  # images of a step
RATE = 0.002  # the highest learning rate; it rises from a 25th of it and falls to nothing
LARGEST_SIDE = 160  # pixels of the longer side that a net sees, where nothing is said
TOLD = 100  # steps between two lines about the loss
ASKED = 300  # images of each split of which the recall is told
KEPT = (10, 100)  # proposals of an image
Log = Callable[[str], None]


def train_proposer(
    experiment: Experiment,
    out: Path,
    steps: int,
    width: int,
    side: int | None,
    log: Log,
) -> list[dict[str, Any]]:
    """Train a net on the boxes of the base classes, write it, and tell its recall.

    Args:
        experiment: its data and its seed.
        out: the file that is written.
        steps: of the training.
        width: filters of every layer.
        side: pixels of the longer side of images that the net sees; None for their own, of at most
            LARGEST_SIDE.
        log: of the loss.

    Returns:
        For each split a row of the net's proposals and one of components: their average recall.

    Raises:
        InputError: where there are no boxes, or the file is there already.
    """
    require(out.suffix == ".safetensors", f"--out is a file that ends in .safetensors, not {out}")
    require(not out.exists(), f"{out} is there already; remove it, or choose another --out")
    base = scene_split(experiment.data.split("train"), "boxes")
    seen = side or min(max(base.shape[1:]), LARGEST_SIDE)
    net = trained(base, seen, width, steps, experiment.seed, log)
    out.parent.mkdir(parents=True, exist_ok=True)
    save_objectness(net, out, {"trained_on": base.name, "steps": steps, "seed": experiment.seed})
    rows = []
    for name in ("train", "val", "test"):
        try:
            split = scene_split(experiment.data.split(name), "boxes")
        except InputError as error:
            log(f"{name} is left out: {error}")
            continue
        rows += recalls(net, split)
    return rows


def trained(
    split: SceneSplit, side: int, width: int, steps: int, seed: int, log: Log
) -> Objectness:
    """A net that was trained on the objects of a split; their classes are not looked at."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = Objectness(split.shape[0], width, side).train()
    optimizer = torch.optim.Adam(net.parameters(), RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, max(steps, 2))
    keys = keys_of(f"{split.name}/objectness", seed, np.arange(steps))
    total = 0.0
    for step in range(steps):
        u = uniform(keys[step : step + 1], SCENES, 1, BATCH)[0, 0]
        ids = torch.from_numpy((u * len(split.x)).astype(np.int64))
        loss = loss_of(net, split, ids)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        total += float(loss.detach())
        if (step + 1) % TOLD == 0:
            log(f"step {step + 1:,} of {steps:,}: loss {total / TOLD:.4f}")
            total = 0.0
    return net.eval()


def loss_of(net: Objectness, split: SceneSplit, ids: Tensor) -> Tensor:
    """The loss of a net on the images of a split with these ids (m,)."""
    x, scale = net.seen(split.gather(ids))
    maps = net(x)
    height, width = maps.shape[-2:]
    middles = cell_middles(height, width, STRIDE)
    objects = [torch.from_numpy(split.objects_of(i).boxes) * scale for i in ids.tolist()]
    pairs = [cell_objects(middles, boxes) for boxes in objects]
    there = torch.stack([there for there, _ in pairs])
    boxes = torch.stack([boxes for _, boxes in pairs])
    return objectness_loss(maps, there, boxes, STRIDE)


def recalls(net: Objectness, split: SceneSplit) -> list[dict[str, Any]]:
    """The average recall on the first images of a split, of a net and of components."""
    ids = torch.arange(min(ASKED, len(split.x)))
    images = [split.gather(i) for i in ids]
    objects = [split.objects_of(i) for i in ids.tolist()]
    discount = np.concatenate([o.discount for o in objects])
    truth = _of_images([o.boxes for o in objects])._replace(score=discount)
    kinds = {
        "this net": [net.propose(image).numpy() for image in images],
        "components": [components(image.numpy()) for image in images],
    }
    rows = []
    for name, boxes in kinds.items():
        found = _of_images(boxes)
        row = {"split": split.name, "proposals": name, "objects": int((discount == 0).sum())}
        reached = {f"AR@{k}": round(100 * average_recall(found, truth, k), 2) for k in KEPT}
        rows.append(row | reached)
    return rows


def _of_images(boxes: list[np.ndarray]) -> Boxes:
    """The boxes of images in turn, those of each by falling score."""
    counts = [len(own) for own in boxes]
    image = np.repeat(np.arange(len(boxes)), counts)
    score = np.concatenate([-np.arange(count, dtype=np.float64) for count in counts])
    every = np.concatenate(boxes).astype(np.float32).reshape(-1, 4)
    return Boxes(every, image, np.zeros(len(every), np.int64), score)
