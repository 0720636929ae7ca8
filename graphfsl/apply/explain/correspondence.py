"""Which places of the support a query's loudest places are like, in numbers and framed."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from graphfsl.core.encoder import call_encoder
from graphfsl.core.episode import Episode
from graphfsl.core.pipeline import Pipeline
from graphfsl.functional.distances import cosine
from graphfsl.report.figures import COLORS

__all__ = ["correspondence", "framed", "matches"]

LOUDEST = 3  # places of the query that are looked for
SIDE = 224  # pixels of a drawing, at least
FRAME, TEXT = 3, 18  # pixels of a frame's line and of a number's height
Cell = tuple[int, int]  # row and column


@dataclass(frozen=True)
class Match:
    """A place of the query, and the one of the answer's support that is most like it.

    cell: of the query's map. node: which support node. support_cell: of its map. cosine: of the
    encoder's features in both.
    """

    cell: Cell
    node: int
    support_cell: Cell
    cosine: float

    def told(self) -> dict[str, Any]:
        """The match as JSON has it."""
        return {
            "cell": list(self.cell),
            "node": self.node,
            "support_cell": list(self.support_cell),
            "cosine": self.cosine,
        }


def correspondence(query: Tensor, support: Tensor) -> Tensor:
    """How alike places of two images are: cosines (hw, hw) of the cells of two maps (d, h, w)."""
    of_query, of_support = query.flatten(1).mT, support.flatten(1).mT
    return cosine(of_query[None], of_support[None])[0]


@torch.no_grad()
def matches(
    learner: Pipeline, episode: Episode, query: int, rank: Tensor, answer: int
) -> list[Match]:
    """The match of each of the query's loudest cells.

    Args:
        learner: whose encoder makes maps.
        episode: of images, one task.
        query: which of its queries.
        rank: (h, w) of the query's cells, 0 for the loudest.
        answer: the class column whose support is searched.
    """
    labeled = episode.w[0, episode.support, answer] > 0
    nodes = labeled.nonzero().squeeze(-1).tolist()
    images = episode.x[0, [*nodes, episode.n_support + query]]
    *of_support, of_query = call_encoder(learner.encoder, images, maps=True)
    alike = torch.stack([correspondence(of_query, maps) for maps in of_support], 1)  # (hw, k, hw)
    width = rank.shape[1]
    found = []
    for loud in rank.flatten().argsort()[:LOUDEST].tolist():
        best = int(alike[loud].argmax())
        which, there = divmod(best, alike.shape[-1])
        value = float(alike[loud, which, there])
        found.append(Match(divmod(loud, width), nodes[which], divmod(there, width), value))
    return found


def framed(
    seen: Tensor, query: int, told: Sequence[dict[str, Any]], size: Cell, answer: str
) -> list[tuple[str, bytes]]:
    """The query and the support images of its matches, with captions.

    Args:
        seen: (n, C, H, W) bytes, the images of the episode.
        query: the query's node.
        told: matches, as `Match.told` has them.
        size: of the maps, in cells.
        answer: the class that is searched.
    """
    own = {number: tuple(match["cell"]) for number, match in enumerate(told)}
    caption = f"The places that speak most for {answer}, the loudest first"
    out = [(caption, _with_frames(seen[query], own, size))]
    for node in dict.fromkeys(match["node"] for match in told):
        here = {number: match for number, match in enumerate(told) if match["node"] == node}
        cells = {number: tuple(match["support_cell"]) for number, match in here.items()}
        values = ", ".join(f"{i + 1} (cosine {match['cosine']:.2f})" for i, match in here.items())
        caption = f"What is most like them in the samples of {answer}, node {node}: {values}"
        out.append((caption, _with_frames(seen[node], cells, size)))
    return out


def _with_frames(image: Tensor, cells: dict[int, Cell], size: Cell) -> bytes:
    """An image (C, H, W) with cells framed and numbered: the bytes of a PNG."""
    pixels = image.permute(1, 2, 0).squeeze(-1).numpy()
    drawn = Image.fromarray(pixels).convert("RGB")
    enlarged = max(SIDE // max(drawn.size), 1)
    drawn = drawn.resize(
        (drawn.width * enlarged, drawn.height * enlarged), Image.Resampling.NEAREST
    )
    pen = ImageDraw.Draw(drawn)
    height, width = drawn.height / size[0], drawn.width / size[1]
    frames: dict[Cell, int] = {}  # several of one cell lie in each other
    for number, (row, column) in cells.items():
        before = frames.get((row, column), 0)
        frames[row, column] = before + 1
        inset = 2 * FRAME * before
        left, top = column * width + inset, row * height + inset
        right, bottom = (column + 1) * width - inset - 1, (row + 1) * height - inset - 1
        color = COLORS[number % len(COLORS)]
        pen.rectangle((left, top, right, bottom), outline=color, width=FRAME)
        place = (left + 2 * FRAME + TEXT * before, row * height + 2 * FRAME)
        name = str(number + 1)
        pen.text(place, name, color, font_size=TEXT, stroke_width=2, stroke_fill="white")
    file = io.BytesIO()
    drawn.save(file, "png")
    return file.getvalue()
