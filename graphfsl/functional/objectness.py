"""Where something is, whatever its class: what cells of a map should say, their loss, their boxes.

Each cell says how sure it is that its middle lies in the inner part of an object, and how far the
four sides of that object are (Tian, Shen, Chen, He 2019, FCOS, https://arxiv.org/abs/1904.01355).
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torchvision.ops import generalized_box_iou_loss, nms, sigmoid_focal_loss

INNER = 0.5  # the part of a box, each way, whose cells are of it
FARTHEST = 6.0  # log of the distance to a side, in cells, so that no number overflows


def cell_middles(height: int, width: int, stride: int) -> Float[Tensor, "cells 2"]:
    """The middles (height * width, 2) of the cells of a map, x and y in pixels, row by row."""
    y = (torch.arange(height) + 0.5) * stride
    x = (torch.arange(width) + 0.5) * stride
    down, across = torch.meshgrid(y, x, indexing="ij")
    return torch.stack([across.flatten(), down.flatten()], -1)


def cell_objects(
    middles: Float[Tensor, "cells 2"], objects: Float[Tensor, "g 4"]
) -> tuple[Bool[Tensor, " cells"], Float[Tensor, "cells 4"]]:
    """Which cells are of an object, and of which: where inner parts overlap, of the smallest.

    Args:
        middles: (cells, 2) of the cells, in pixels.
        objects: (g, 4) left, top, right, bottom of one image.

    Returns:
        (cells,) whether, and (cells, 4) the box, zero elsewhere.
    """
    boxes = middles.new_zeros(len(middles), 4)
    if not len(objects):
        return boxes.bool().any(1), boxes
    middle = (objects[:, :2] + objects[:, 2:]) / 2
    reach = INNER * (objects[:, 2:] - objects[:, :2]) / 2
    inside = ((middles[:, None] - middle).abs() <= reach).all(-1)  # (cells, g)
    area = (objects[:, 2:] - objects[:, :2]).prod(-1)
    smallest, which = area.expand_as(inside).masked_fill(~inside, float("inf")).min(1)
    there = smallest.isfinite()
    return there, torch.where(there[:, None], objects[which], boxes)


def cell_boxes(
    maps: Float[Tensor, "M 5 h w"], stride: int
) -> tuple[Float[Tensor, "M cells"], Float[Tensor, "M cells 4"]]:
    """What a map says: how sure each cell is, as a logit, and its box in pixels.

    Args:
        maps: (M, 5, h, w) a logit, then logs of the distances, in cells, from the middle of a cell
            to the left, the top, the right and the bottom of its object.
        stride: pixels of a cell's side.
    """
    logit, distance = maps.flatten(2).split([1, 4], 1)
    reach = stride * distance.clamp(max=FARTHEST).exp().mT  # (M, cells, 4)
    height, width = maps.shape[-2:]
    middles = cell_middles(height, width, stride).to(maps)
    boxes = torch.cat([middles - reach[..., :2], middles + reach[..., 2:]], -1)
    return logit[:, 0], boxes


def objectness_loss(
    maps: Float[Tensor, "M 5 h w"],
    there: Bool[Tensor, "M cells"],
    boxes: Float[Tensor, "M cells 4"],
    stride: int,
) -> Float[Tensor, ""]:
    """Focal loss of all cells and the boxes' GIoU loss of those of an object, for each such cell.

    Args:
        maps: (M, 5, h, w), see `cell_boxes`.
        there: (M, cells), see `cell_objects`.
        boxes: (M, cells, 4).
        stride: pixels of a cell's side.
    """
    logit, found = cell_boxes(maps, stride)
    objects = there.sum().clamp_min(1)
    sure: Tensor = sigmoid_focal_loss(logit, there.to(logit), reduction="sum")
    placed: Tensor = generalized_box_iou_loss(found[there], boxes[there], reduction="sum")
    return (sure + placed) / objects


def best_boxes(
    logit: Float[Tensor, " cells"], boxes: Float[Tensor, "cells 4"], overlap: float, most: int
) -> Float[Tensor, "m 4"]:
    """At most so many boxes of one image, the surest first, none of which overlaps a surer one.

    Args:
        logit: (cells,) how sure each is.
        boxes: (cells, 4).
        overlap: intersection over union above which the less sure of two goes.
        most: of them.
    """
    kept: Tensor = nms(boxes, logit, overlap)
    return boxes[kept[:most]]
