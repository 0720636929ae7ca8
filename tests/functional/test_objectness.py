"""What cells say of objects without classes: targets, boxes and their loss."""

from __future__ import annotations

import torch
from torch import Tensor

from graphfsl.functional.objectness import (
    best_boxes,
    cell_boxes,
    cell_middles,
    cell_objects,
    objectness_loss,
)

OBJECTS = torch.tensor([[4.0, 4, 28, 20], [10, 8, 18, 16], [30, 30, 32, 32]])


def right_maps(there: Tensor, boxes: Tensor, middles: Tensor) -> Tensor:
    """The map (1, 5, 8, 8) that says all that is true."""
    distance = torch.cat([middles - boxes[:, :2], boxes[:, 2:] - middles], 1)
    logs = (distance / 4).clamp_min(1e-6).log().where(there[:, None], 0.0)
    logit = torch.where(there, 9.0, -9.0)
    return torch.cat([logit[:, None], logs], 1).T.reshape(1, 5, 8, 8)


def test_cells_in_the_inner_half_are_of_the_smallest_object_there() -> None:
    middles = cell_middles(8, 8, 4)
    there, boxes = cell_objects(middles, OBJECTS)
    for (x, y), is_there, box in zip(middles.tolist(), there, boxes, strict=True):
        inside = []
        for left, top, right, bottom in OBJECTS.tolist():
            width, height = right - left, bottom - top
            of_width = left + width / 4 <= x <= right - width / 4
            if of_width and top + height / 4 <= y <= bottom - height / 4:
                inside.append((width * height, [left, top, right, bottom]))
        assert bool(is_there) == bool(inside)
        assert box.tolist() == (min(inside)[1] if inside else [0, 0, 0, 0])
    assert there.sum() > 4
    assert not cell_objects(middles, OBJECTS[:0])[0].any()


def test_boxes_come_back_from_what_cells_say_of_them() -> None:
    middles = cell_middles(8, 8, 4)
    there, boxes = cell_objects(middles, OBJECTS)
    logit, found = cell_boxes(right_maps(there, boxes, middles), 4)
    torch.testing.assert_close(found[0][there], boxes[there])
    assert ((logit[0] > 0) == there).all()


def test_the_loss_is_lowest_where_all_is_said_right() -> None:
    middles = cell_middles(8, 8, 4)
    there, boxes = cell_objects(middles, OBJECTS)
    right = right_maps(there, boxes, middles)
    least = objectness_loss(right, there[None], boxes[None], 4)
    assert float(least) < 1e-3
    less_sure, larger = right.clone(), right.clone()
    less_sure[:, 0] *= 0.1
    larger[:, 3] += 0.3
    for worse in (less_sure, larger):
        assert objectness_loss(worse, there[None], boxes[None], 4) > least + 0.01
    nothing = objectness_loss(right, torch.zeros_like(there)[None], boxes[None], 4)
    assert nothing.isfinite()


def test_the_surest_boxes_stay_and_what_overlaps_them_goes() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 30], [0, 0, 10, 9.5], [40, 0, 50, 9]])
    logit = torch.tensor([0.5, 2.0, 1.0, -1.0])
    assert torch.equal(best_boxes(logit, boxes, 0.7, 2), boxes[[1, 2]])
