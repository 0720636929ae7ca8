"""Masks from three clicks a class, beside the nearest click in colour and place.

`python -m benchmarks.clicks --data ROOT` clicks three random pixels of each class of every
validation frame of CamVid that shows it three times, and compares `graphfsl segment --clicks` with
the nearest click. mIoU is from sums over frames. Every tenth frame is left out: on these the
options were chosen; `--chosen` asks about them, and `--pixels` for another grid.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from graphfsl import data
from graphfsl.apply.segment import clicks
from graphfsl.data.scenes import SceneSplit

EACH = 3


def clicked(labels: np.ndarray, seed: int) -> clicks.Clicks:
    """Random pixels of each class of a label map (H, W)."""
    rng = np.random.default_rng(seed)
    names, points = [], []
    for column in np.unique(labels[labels >= 0]):
        rows = np.argwhere(labels == column)
        if len(rows) >= EACH:
            names.append(str(column))
            points.append(rows[rng.choice(len(rows), EACH, replace=False)][:, ::-1])
    columns = np.arange(len(names)).repeat(EACH)
    return clicks.Clicks(names, np.concatenate(points), columns)


def nearest(image: np.ndarray, given: clicks.Clicks) -> np.ndarray:
    """The class of the click that is nearest in colour and place, of every pixel.

    Colours are in [0, 1], places in parts of the longer side.
    """
    height, width = image.shape[1:]
    down, across = np.mgrid[:height, :width] / max(height, width)
    features = np.concatenate([image / 255, across[None], down[None]]).transpose(1, 2, 0)
    clicked_on = features[given.points[:, 1], given.points[:, 0]]
    squares = ((features[:, :, None] - clicked_on) ** 2).sum(-1)
    found: np.ndarray = given.columns[squares.argmin(-1)]
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default=os.environ.get("GRAPHFSL_DATA", "data"))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--pixels", type=int, default=clicks.MOST_PIXELS)
    parser.add_argument("--chosen", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    split = data.load("camvid", "val", root=given.data)
    assert isinstance(split, SceneSplit) and split.maps is not None
    count = len(split.classes)
    methods: dict[str, Callable[[np.ndarray, clicks.Clicks], np.ndarray]] = {
        "nearest click in colour and place": nearest,
        "random walk": partial(clicks.mask_of_clicks, most=given.pixels),
    }
    both = {name: np.zeros(count) for name in methods}
    either = {name: np.zeros(count) for name in methods}
    frames = [i for i in range(len(split.x)) if (i % 10 == 0) == given.chosen]
    for seed in range(given.seeds):
        for i in frames:
            truth = split.maps[i].numpy()
            asked = clicked(truth, 1000 * seed + i)
            numbers = np.array([int(name) for name in asked.classes])
            for name, method in methods.items():
                answer = numbers[method(split.x[i].numpy(), asked)]
                for column in range(count):
                    said, is_so = (answer == column) & (truth >= 0), truth == column
                    both[name][column] += (said & is_so).sum()
                    either[name][column] += (said | is_so).sum()
    print(f"{len(frames)} frames, {EACH} clicks a class, {given.seeds} draws of clicks\n")
    print("| | mIoU |\n| --- | --: |")
    for name in methods:
        there = either[name] > 0
        print(f"| {name} | {100 * (both[name][there] / either[name][there]).mean():.2f} |")


if __name__ == "__main__":
    main()
