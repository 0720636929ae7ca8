"""What blurs cells of an image blurs those that are asked for, and measures what is lost."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from benchmarks import where
from graphfsl.core.episode import Episode
from graphfsl.core.learner import Head
from graphfsl.core.pipeline import Pipeline

SIDE, CELLS = 16, 4


@pytest.fixture
def image() -> Tensor:
    torch.manual_seed(0)
    return torch.rand(1, SIDE, SIDE)


def changed_cells(images: Tensor, image: Tensor) -> list[set[int]]:
    """For each image the cells, of 4 x 4, in which it differs from another one."""
    away = torch.nn.functional.max_pool2d((images - image).abs(), SIDE // CELLS).flatten(1)
    return [set(of.nonzero().flatten().tolist()) for of in away]


def test_the_largest_cells_leave_first_and_come_back_first(image: Tensor) -> None:
    values = torch.randn(CELLS, CELLS)
    order = values.flatten().argsort(descending=True).tolist()
    deleted, inserted = where.on_the_way(image, values)
    assert len(deleted) == len(inserted) == CELLS * CELLS // where.CELLS_AT_ONCE + 1
    blurred = inserted[0]
    assert torch.equal(deleted[-1], blurred) and torch.equal(inserted[-1], image)
    for step, (gone, back) in enumerate(
        zip(changed_cells(deleted, image), changed_cells(inserted, blurred), strict=True)
    ):
        assert gone == back == set(order[: step * where.CELLS_AT_ONCE])


class FirstCell(Head):
    """Knows the answer, class 0, by how uneven the first of the 4 x 4 cells is."""

    def score(self, episode: Episode) -> Tensor:
        cell = episode.x.unflatten(-1, (1, SIDE, SIDE))[..., 0, :4, :4]
        uneven = cell.flatten(2).std(-1)
        return torch.stack([uneven, torch.zeros_like(uneven)], -1)


def test_areas_tell_an_order_that_finds_what_the_answer_rests_on(image: Tensor) -> None:
    x = torch.stack([image, image, image]).flatten(1)[None]
    w = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]])
    right = torch.arange(CELLS * CELLS, 0, -1.0).view(CELLS, CELLS)
    orders = {"right": right, "wrong": -right}

    class OfImages(Pipeline):
        def forward(self, episode: Episode) -> Tensor:
            return super().forward(episode.replace(x=episode.x.flatten(2)))

    one = Episode(x.unflatten(-1, (1, SIDE, SIDE)), w, 2, 1)
    found = where.areas(OfImages(head=FirstCell()), one, orders, answer=0)
    assert found["right"][0] < found["wrong"][0] and found["right"][1] > found["wrong"][1]

    steps = CELLS * CELLS // where.CELLS_AT_ONCE + 1
    blurred = where.on_the_way(image, right)[0][-1]
    whole, lost = ((where.SCALE * i[0, :4, :4].std()).sigmoid().item() for i in (image, blurred))
    assert found["right"][0] == pytest.approx((whole + (steps - 1) * lost) / steps, abs=1e-4)
    assert found["wrong"][0] == pytest.approx(((steps - 1) * whole + lost) / steps, abs=1e-4)
