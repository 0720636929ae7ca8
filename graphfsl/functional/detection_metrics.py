"""Average precision and recall of detections, as COCO defines them.

Lin et al. 2014, https://arxiv.org/abs/1405.0312; https://cocodataset.org/#detection-eval.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torchvision.ops import box_iou

OVERLAPS = np.linspace(0.5, 0.95, 10)  # intersection over union that a hit needs
RECALLS = np.linspace(0, 1, 101)  # at which precision is read
CROWD = 2  # objects in one box: a detection is of it by the share of the detection that it covers
MOST = 100  # detections of an image that count


class Boxes(NamedTuple):
    """Boxes of several images, with what is said of each.

    Args:
        boxes: (m, 4) left, top, right, bottom.
        image: (m,) the image that each lies in.
        label: (m,) its class.
        score: (m,) of detections, the higher the surer; of the truth, whether it does not count:
            1 for a difficult object, which is neither hit nor missed, and CROWD for a crowd.
    """

    boxes: Float[np.ndarray, "m 4"]
    image: Int[np.ndarray, " m"]
    label: Int[np.ndarray, " m"]
    score: Float[np.ndarray, " m"]

    def where(self, rows: np.ndarray) -> Boxes:
        """Those of these rows."""
        return Boxes(*(part[rows] for part in self))


def average_precision(
    found: Boxes, truth: Boxes, overlaps: Sequence[float] | np.ndarray = OVERLAPS, most: int = MOST
) -> float:
    """Mean over classes and overlaps of the precision at 101 recalls; NaN without an object.

    Detections are sorted by score over all images, and each takes the object of its image and class
    that it overlaps most and nobody has taken. What shares a score is judged together, so that the
    order of the input does not matter. A class without objects is left out.

    Args:
        found: detections.
        truth: objects.
        overlaps: intersection over union that a hit needs; [0.5] for AP50.
        most: detections of each image and class that count, the surest ones.
    """
    values = []
    for label in np.unique(truth.label[truth.score == 0]):
        detections = surest(found.where(found.label == label), most)
        objects = truth.where(truth.label == label)
        for overlap in overlaps:
            hit, ignored = matches(detections, objects, float(overlap))
            counts = ~ignored
            total = int((objects.score == 0).sum())
            values.append(_area(hit[counts], detections.score[counts], total))
    return float(np.mean(values)) if values else float("nan")


def average_recall(
    found: Boxes, truth: Boxes, most: int, overlaps: Sequence[float] | np.ndarray = OVERLAPS
) -> float:
    """The share of objects that some detection hits, whatever its class; the mean over overlaps.

    Args:
        found: proposals; their classes are not looked at.
        truth: objects.
        most: proposals of each image that count, the surest ones.
        overlaps: intersection over union that a hit needs.

    Returns:
        NaN without an object.
    """
    total = int((truth.score == 0).sum())
    if not total:
        return float("nan")
    proposals = surest(found._replace(label=np.zeros_like(found.label)), most)
    objects = truth._replace(label=np.zeros_like(truth.label))
    hits = [int(matches(proposals, objects, float(o))[0].sum()) for o in overlaps]
    return float(np.mean(hits)) / total


def surest(found: Boxes, most: int) -> Boxes:
    """The detections sorted by falling score, of each image at most so many."""
    order = np.argsort(-found.score, kind="stable")
    kept = []
    seen: dict[int, int] = {}
    for row in order.tolist():
        image = int(found.image[row])
        seen[image] = seen.get(image, 0) + 1
        if seen[image] <= most:
            kept.append(row)
    return found.where(np.array(kept, np.int64))


def matches(
    found: Boxes, truth: Boxes, overlap: float
) -> tuple[Bool[np.ndarray, " m"], Bool[np.ndarray, " m"]]:
    """Which detections of one class hit an object, and which do not count.

    Args:
        found: sorted by falling score.
        truth: of the same class.
        overlap: intersection over union that a hit needs.

    Returns:
        (m,) hits, and (m,) those on difficult objects.
    """
    hit = np.zeros(len(found.score), bool)
    ignored = np.zeros(len(found.score), bool)
    for image in np.unique(found.image):
        rows = np.flatnonzero(found.image == image)
        objects = np.flatnonzero(truth.image == image)
        if not len(objects):
            continue
        # those that count first: a difficult one is taken only where no other will do
        objects = objects[np.argsort(truth.score[objects], kind="stable")]
        iou = _overlaps(found.boxes[rows], truth.boxes[objects], truth.score[objects] == CROWD)
        taken = np.zeros(len(objects), bool)
        difficult = truth.score[objects] > 0
        for row, overlaps in zip(rows, iou, strict=True):
            free = ~taken | difficult
            able = (overlaps >= min(overlap, 1 - 1e-10)) & free
            if (able & ~difficult).any():
                able &= ~difficult
            if not able.any():
                continue
            best = int(np.argmax(np.where(able, overlaps, -1)))
            taken[best] = True
            hit[row], ignored[row] = not difficult[best], difficult[best]
    return hit, ignored


def _overlaps(
    found: Float[np.ndarray, "m 4"],
    objects: Float[np.ndarray, "g 4"],
    crowd: Bool[np.ndarray, " g"],
) -> Float[np.ndarray, "m g"]:
    """Intersection over union; of a crowd, over the detection alone."""
    iou: np.ndarray = box_iou(_tensor(found), _tensor(objects)).numpy()
    if not crowd.any():
        return iou
    area, other = ((b[:, 2:] - b[:, :2]).prod(1) for b in (found, objects))
    both = iou * (area[:, None] + other) / (1 + iou)
    return np.where(crowd, both / np.maximum(area, 1e-9)[:, None], iou)


def _tensor(boxes: Float[np.ndarray, "m 4"]) -> Float[torch.Tensor, "m 4"]:
    return torch.from_numpy(np.ascontiguousarray(boxes, np.float64))


def _area(hit: np.ndarray, score: np.ndarray, total: int) -> float:
    """The mean over RECALLS of the best precision at that recall or beyond.

    Args:
        hit: (m,) of detections by falling score.
        score: (m,) their scores; equal ones are judged together.
        total: how many objects there are.
    """
    if not len(hit):
        return 0.0
    last = np.append(score[1:] != score[:-1], True)  # of those that share a score
    hits = np.cumsum(hit)[last]
    count = np.arange(1, len(hit) + 1)[last]
    precision = np.maximum.accumulate((hits / count)[::-1])[::-1]
    place = np.searchsorted(hits / total, RECALLS, side="left")
    reached = place < len(precision)
    return float(np.where(reached, precision[place.clip(max=len(precision) - 1)], 0).mean())
