"""Where in the image: whether blurring what a map points at takes the answer away.

`python -m benchmarks.where --data ROOT` explains answers of `simple_shot` on EfficientNet-Lite0's
maps of 4 x 4 cells, for CIFAR-FS validation classes (5-way 1-shot). Cells of the query are blurred
in some order, two by two (deletion), or come back into an image that is all blurred (insertion);
what is measured is the mean probability of the answer on the way: low is better in deletion, high
in insertion. Orders: the map of the answer against the runner-up, loudest cells first; the same of
an encoder whose weights are random; from the centre outwards; at random. Differences are paired by
episode. `--out FILE` writes the table.
"""

from __future__ import annotations

import argparse
import copy
import csv
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import graphfsl as gf
from graphfsl.apply.explain.activation_maps import (
    activation_maps,
    blurred,
    nearness_to_the_centre,
    ranked,
)
from graphfsl.core.episode import Episode
from graphfsl.core.pipeline import Pipeline
from graphfsl.experiment import run as runs
from graphfsl.functional.comparison import paired_difference
from graphfsl.functional.statistics import mean_and_ci95

RUN = Path("experiments/results/wang2019_cifarfs_efficientnet_5w1s")
MAP = "the map"
OTHERS = ("the map of random weights", "from the centre outwards", "at random")
CELLS_AT_ONCE = 2
SCALE = 10.0  # of the scores, squared distances of features of length 1, before the softmax
QUERIES = 1  # of each class
Curves = Mapping[str, tuple[float, float]]  # order -> areas under deletion and insertion


def untrained(learner: Pipeline, images: Tensor) -> Pipeline:
    """The same learner with random weights in its encoder.

    Its BatchNorm has the statistics of `images`, without which its maps would vanish.
    """
    other = copy.deepcopy(learner)
    for module in other.encoder.modules():
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d):
            module.reset_parameters()
    norms = [m for m in other.encoder.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.train()
        norm.momentum = None  # the plain mean
    with torch.no_grad():
        other.encoder(images)
    return other.eval()


def on_the_way(image: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """An image (C, H, W) while cells leave it, and while they come back: (steps, C, H, W) each.

    The cells (h, w) with the largest values go first.
    """
    nothing_seen = blurred(image)
    rank = F.interpolate(ranked(values)[None, None].float(), image.shape[-2:], mode="nearest")[0]
    gone = torch.arange(0, values.numel() + 1, CELLS_AT_ONCE).view(-1, 1, 1, 1)
    deleted = torch.where(rank < gone, nothing_seen, image)
    inserted = torch.where(rank < gone, image, nothing_seen)
    return deleted, inserted


@torch.no_grad()
def areas(learner: Pipeline, one: Episode, orders: Mapping[str, Tensor], answer: int) -> Curves:
    """The mean probability of the answer on the way, in both directions, for each order."""
    image = one.x[0, one.n_support]
    ways = [images for values in orders.values() for images in on_the_way(image, values)]
    shown = torch.cat(ways)
    x = torch.cat([one.x[0, one.support], shown])[None]
    w = F.pad(one.w[:, one.support], (0, 0, 0, len(shown)))
    scores = learner(Episode(x, w, one.n_support, len(shown)))
    p = (SCALE * scores[0]).softmax(-1)[:, answer]
    means = p.unflatten(0, (len(orders), 2, -1)).mean(-1).tolist()
    return {name: (of[0], of[1]) for name, of in zip(orders, means, strict=True)}


def explained(
    learner: Pipeline, random: Pipeline, episode: Episode, query: int, generator: torch.Generator
) -> tuple[Curves, float]:
    """The areas of one answer's orders, and how far its map is from summing to the scores."""
    alone = episode.one_query_each()
    one = alone.with_tensors({name: t[query, None] for name, t in alone.tensors.items()})
    found = activation_maps(learner, one, 0)
    other = activation_maps(random, one, 0).maps
    height, width = found.contrast.shape
    values = (
        found.contrast,
        other[found.answer] - other[found.other],
        nearness_to_the_centre(height, width),
        torch.rand(height, width, generator=generator),
    )
    orders = dict(zip((MAP, *OTHERS), values, strict=True))
    return areas(learner, one, orders, found.answer), found.error


def table(root: str, episodes: int) -> tuple[list[list[str]], float]:
    """A line for each order, and the largest error of a map."""
    run = runs.load(RUN)
    learner = run.learner.eval()
    assert isinstance(learner, Pipeline)
    split = gf.load_data("cifar_fs", "val", root)
    drawn = gf.Episodes(split, way=5, shot=1, query=QUERIES, transform=run.transform.plain())
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    random = untrained(learner, drawn.batch(range(6))[0].x.flatten(0, 1))

    errors, per_episode = [], []
    for number in range(episodes):
        episode, _ = drawn.batch([number])
        own = []
        for query in range(episode.n_query):
            curves, error = explained(learner, random, episode, query, generator)
            own.append([curves[name] for name in (MAP, *OTHERS)])
            errors.append(error)
        per_episode.append(torch.tensor(own, dtype=torch.float64).mean(0))
    every = torch.stack(per_episode)  # (episodes, orders, 2)

    lines = []
    for i, name in enumerate((MAP, *OTHERS)):
        line = [name]
        for way, sign in ((0, 1), (1, -1)):
            mean, half = mean_and_ci95(every[:, i, way])
            line.append(f"{mean:.4f} ± {half:.4f}")
            gain, spread = paired_difference(sign * every[:, i, way], sign * every[:, 0, way])
            line.append("" if i == 0 else f"{float(gain):+.4f} ± {float(spread):.4f}")
        lines.append(line)
    return lines, max(errors)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default=os.environ.get("GRAPHFSL_DATA"), metavar="ROOT")
    parser.add_argument("--episodes", type=int, default=60)
    parser.add_argument("--out", type=Path, help="a CSV of the table")
    asked = parser.parse_args()
    heads = ["order", "deletion", "the map is better by", "insertion", "the map is better by"]
    lines, error = table(asked.data, asked.episodes)
    for line in (heads, *lines):
        print("  ".join(f"{cell:26}" for cell in line))
    print(f"the cells of a map miss the scores by {error:.1e} of them at most")
    heads[2] += " in deletion"
    heads[4] += " in insertion"
    if asked.out:
        with asked.out.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows([heads, *lines])


if __name__ == "__main__":
    main()
