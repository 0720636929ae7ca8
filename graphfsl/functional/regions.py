"""Regions of images: crops of them, and which of overlapping ones stay."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torchvision.ops import batched_nms, box_iou, roi_align


def around(boxes: Float[Tensor, "m 4"], context: float) -> Float[Tensor, "m 4"]:
    """Squares around boxes: as long as the longer side times `context`, with the same middle.

    Args:
        boxes: (m, 4) left, top, right, bottom.
        context: 1 for squares that touch their box.
    """
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    half = (boxes[:, 2:] - boxes[:, :2]).amax(1, keepdim=True) * context / 2
    return torch.cat([middle - half, middle + half], 1)


def crops(
    images: Float[Tensor, "I ch H W"],
    boxes: Float[Tensor, "m 4"],
    image: Int[Tensor, " m"],
    size: int,
) -> Float[Tensor, "m ch {size} {size}"]:
    """Parts of images, each resized to a square; what lies outside of an image is 0.

    Args:
        images: (I, ch, H, W).
        boxes: (m, 4) in pixels.
        image: (m,) the image of each.
        size: pixels of a side.
    """
    rows = torch.cat([image[:, None].to(boxes), boxes], 1).to(images)
    found: Tensor = roi_align(images, rows, (size, size), aligned=True)
    return found


def kept_regions(
    boxes: Float[Tensor, "m 4"],
    scores: Float[Tensor, " m"],
    groups: Int[Tensor, " m"],
    overlap: float,
) -> Int[Tensor, " k"]:
    """Which regions stay where overlapping ones of a group are one: the best of them, in order.

    Args:
        boxes: (m, 4).
        scores: (m,).
        groups: (m,) the image and the class, as one number; groups do not touch each other.
        overlap: intersection over union above which the worse one goes.
    """
    found: Tensor = batched_nms(boxes, scores, groups, overlap)
    return found


def voted(
    boxes: Float[Tensor, "k 4"],
    of: Int[Tensor, " k"],
    all_boxes: Float[Tensor, "m 4"],
    scores: Float[Tensor, " m"],
    groups: Int[Tensor, " m"],
    overlap: float = 0.5,
) -> Float[Tensor, "k 4"]:
    """Boxes that regions around them have a say in, by their scores.

    Gidaris and Komodakis 2015, https://arxiv.org/abs/1505.01749, section 5: the mean of all regions
    of the same group that overlap a kept one, weighed by softmax of their scores.

    Args:
        boxes: (k, 4) that were kept.
        of: (k,) the group of each.
        all_boxes: (m, 4) that there were.
        scores: (m,) of these.
        groups: (m,) of these.
        overlap: intersection over union of regions that have a say.
    """
    near = (box_iou(boxes, all_boxes) >= overlap) & (of[:, None] == groups)
    weight = scores.expand_as(near).masked_fill(~near, float("-inf")).softmax(-1)
    return weight @ all_boxes


def truth_of(
    boxes: Float[Tensor, "m 4"],
    objects: Float[Tensor, "g 4"],
    labels: Int[Tensor, " g"],
    hit: float = 0.5,
    miss: float = 0.3,
) -> Int[Tensor, " m"]:
    """The column of each region: that of the object that it overlaps most.

    Args:
        boxes: (m, 4) of one image.
        objects: (g, 4) of that image.
        labels: (g,) their columns, -100 for one that counts for nothing.
        hit: intersection over union from which a region is of the object's class.
        miss: intersection over union below which it is background, 0; between them it is -100.
    """
    if not len(objects):
        return torch.zeros(len(boxes), dtype=torch.int64)
    best, at = box_iou(boxes, objects).max(1)
    found: Tensor = labels[at].where(best >= hit, -100)
    return found.masked_fill(best < miss, 0)


def is_background(
    boxes: Float[Tensor, "m 4"], objects: Float[Tensor, "g 4"], miss: float = 0.3
) -> Bool[Tensor, " m"]:
    """Which regions overlap no object, of whatever class, by `miss` or more."""
    if not len(objects):
        return torch.ones(len(boxes), dtype=torch.bool)
    free: Tensor = box_iou(boxes, objects).amax(1) < miss
    return free
