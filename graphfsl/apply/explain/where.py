"""Where in the image an answer comes from, in numbers and drawn over the image."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from graphfsl.apply.explain.activation_maps import (
    activation_maps,
    map_deletion,
    nearness_to_the_centre,
    ranked,
)
from graphfsl.apply.explain.correspondence import matches
from graphfsl.core.episode import Episode
from graphfsl.core.learner import Learner
from graphfsl.core.pipeline import Pipeline
from graphfsl.io.errors import InputError
from graphfsl.report.figures import COLORS, line
from graphfsl.report.figures import draw as draw_panel

__all__ = ["curves", "overlays", "tell_where"]

LEAST = 4  # cells; fewer say nothing of where
RANDOM = 8  # orders in which cells are blurred at random
SIDE = 224  # pixels of a drawing, at least
FOR, AGAINST = (214.0, 39.0, 40.0), (31.0, 119.0, 180.0)  # red, blue


def tell_where(learner: Learner, episode: Episode, query: int) -> dict[str, Any]:
    """The maps of an answer (`activation_maps`), and what blurring the image says of them.

    Where there is no exact map, `left_out` says why.

    Args:
        learner: what answered, in evaluation mode.
        episode: of one task.
        query: which of its queries.
    """
    try:
        found = activation_maps(learner, episode, query)
    except InputError as error:
        return {"left_out": str(error)}
    height, width = found.contrast.shape
    if height * width < LEAST:
        size = f"{height} x {width} cell" + "s" * (height * width > 1)
        return {"left_out": f"the encoder's map has {size}, which say nothing of where"}

    assert isinstance(learner, Pipeline)  # no other has maps
    rank = ranked(found.contrast)
    alike = matches(learner, episode, query, rank, found.answer)
    alone = episode.one_query_each()
    one = alone.with_tensors({name: t[query, None] for name, t in alone.tensors.items()})

    def deletion(order: Tensor) -> Tensor:
        return map_deletion(learner, one, 0, order, found.answer)

    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(RANDOM, height, width, generator=generator)
    this = deletion(rank)
    random = torch.stack([deletion(ranked(values)) for values in noise])
    centre = deletion(ranked(nearness_to_the_centre(height, width)))
    return {
        "answer": found.answer,
        "other": found.other,
        "map": found.maps[found.answer].tolist(),
        "other_map": found.maps[found.other].tolist(),
        "error": found.error,
        "margin": float(found.scores[found.answer] - found.scores[found.other]),
        "margin_of_cells": float(found.contrast.sum()),
        "deletion": this.tolist(),
        "random_deletion": random.tolist(),
        "centre_deletion": centre.tolist(),
        "better_than_random": float((random.mean(0) - this).mean()),
        "better_than_centre": float((centre - this).mean()),
        "alike": [match.told() for match in alike],
    }


def overlays(
    image: Tensor, where: dict[str, Any], names: Sequence[str]
) -> list[tuple[str, str | bytes]]:
    """The maps over the query's image, with captions.

    Args:
        image: (C, H, W) bytes.
        where: as `tell_where` makes it.
        names: of the class columns.
    """
    own, other = torch.tensor(where["map"]), torch.tensor(where["other_map"])
    answer, runner_up = names[where["answer"]], names[where["other"]]
    return [
        (f"What speaks for {answer} (red) and against it (blue)", _over(image, own)),
        (f"Why {answer} and not {runner_up}", _over(image, own - other)),
    ]


def _over(image: Tensor, cells: Tensor) -> bytes:
    """A gray image, coloured by cells (h, w): the bytes of a JPEG."""
    side = max(SIDE // max(image.shape[-2:]), 1)
    gray = image.float().mean(0)[None, None]
    gray = F.interpolate(gray, scale_factor=side, mode="nearest")[0, 0]
    heat = F.interpolate(cells[None, None].float(), gray.shape[-2:], mode="bilinear")[0, 0]
    heat = heat / cells.abs().max().clamp_min(1e-12)
    color = torch.where(heat[..., None] > 0, torch.tensor(FOR), torch.tensor(AGAINST))  # (H, W, 3)
    share = 0.7 * heat.abs().clamp_max(1)[..., None]
    mixed = (1 - share) * gray[..., None] + share * color
    file = io.BytesIO()
    Image.fromarray(mixed.round().byte().numpy()).save(file, "jpeg", quality=90)
    return file.getvalue()


def curves(where: dict[str, Any]) -> tuple[str, str]:
    """What becomes of the answer as cells are blurred: a caption and an SVG."""
    random = torch.tensor(where["random_deletion"])
    band = zip(random.mean(0).tolist(), random.std(0, correction=0).tolist(), strict=True)

    def plot(axes: Any) -> None:
        points = [(i, mean, spread) for i, (mean, spread) in enumerate(band)]
        line(axes, points, color="#888888", label="random orders, with their standard deviation")
        for name, label, color in (
            ("centre_deletion", "from the centre outwards", COLORS[1]),
            ("deletion", "this map", COLORS[0]),
        ):
            line(axes, [(i, p, 0) for i, p in enumerate(where[name])], color=color, label=label)
        axes.set_ylim(-0.02, 1.02)

    caption = (
        f"Blurring cells: {where['better_than_random']:+.3f} better than random orders, "
        f"{where['better_than_centre']:+.3f} better than from the centre outwards"
    )
    return caption, draw_panel(plot, "cells blurred, the loudest first", "probability")
