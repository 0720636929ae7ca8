"""Places of two images that are alike: of an image and itself, moved, and as they are framed."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image, ImageColor
from torch import Tensor, nn

from graphfsl.apply.explain.correspondence import correspondence, framed, matches
from graphfsl.core.episode import Episode
from graphfsl.core.pipeline import Pipeline
from graphfsl.methods.heads.protonet import ProtoNet
from graphfsl.report.figures import COLORS

CELL = 8  # pixels


class Cells(nn.Module):
    """The pixels of each cell as they are, and the mean of the map."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.pixel_unshuffle(x, CELL)

    def readout(self, maps: Tensor) -> Tensor:
        return maps.mean((2, 3))


def test_an_image_corresponds_to_itself_place_by_place() -> None:
    maps = torch.randn(8, 3, 4, generator=torch.Generator().manual_seed(0))
    found = correspondence(maps, maps)
    assert found.shape == (12, 12) and (found.argmax(1) == torch.arange(12)).all()
    moved = correspondence(maps, maps.roll(1, 2))  # everything one place to the right
    wanted = torch.arange(12).view(3, 4).roll(-1, 1).flatten()
    assert (moved.argmax(1) == wanted).all()


def test_the_loudest_places_are_found_in_the_support_of_the_answer_alone() -> None:
    """The query is the second sample of its class, moved; the other class has a copy of it."""
    g = torch.Generator().manual_seed(0)
    support = torch.randn(4, 1, 3 * CELL, 4 * CELL, generator=g)
    query = support[1].roll(CELL, -1)  # one cell to the right
    support[2] = query
    w = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [0.0, 0.0]]])
    episode = Episode(torch.cat([support, query[None]])[None], w, 4, 1)
    rank = torch.arange(12).view(3, 4).flip(1)  # the last cell of the first row is the loudest
    learner = Pipeline(Cells(), head=ProtoNet()).eval()

    found = matches(learner, episode, 0, rank, answer=0)
    assert [match.cell for match in found] == [(0, 3), (0, 2), (0, 1)]
    assert [match.support_cell for match in found] == [(0, 2), (0, 1), (0, 0)]
    assert {match.node for match in found} == {1}
    torch.testing.assert_close(torch.tensor([match.cosine for match in found]), torch.ones(3))
    assert {match.node for match in matches(learner, episode, 0, rank, answer=1)} == {2}


def test_frames_stand_around_their_cells() -> None:
    seen = torch.zeros(3, 3, 16, 16, dtype=torch.uint8)
    told = [
        {"cell": [0, 1], "node": 1, "support_cell": [1, 0], "cosine": 0.5},
        {"cell": [1, 1], "node": 1, "support_cell": [1, 0], "cosine": 0.25},
    ]
    (first, own), (second, like) = framed(seen, 2, told, (2, 2), "cat")
    assert first == "The places that speak most for cat, the loudest first"
    assert second.endswith("the samples of cat, node 1: 1 (cosine 0.50), 2 (cosine 0.25)")

    blue, orange = (np.array(ImageColor.getrgb(color)) for color in COLORS[:2])
    drawn, other = (np.asarray(Image.open(io.BytesIO(png))) for png in (own, like))
    side = len(drawn) // 2
    assert (drawn[1, side + 1] == blue).all() and (drawn[side + 1, side + 1] == orange).all()
    assert (drawn[:, : side - 1] == 0).all()
    assert (other[side + 1, 1] == blue).all() and (other[-8, 7] == orange).all()
    assert (other[: side - 1] == 0).all()
