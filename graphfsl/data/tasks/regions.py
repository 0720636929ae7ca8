"""Detection: which regions of an image are of a class, of which a few boxes are known?

Regions that may hold an object are proposed without looking at classes; each is a node. Episodes
are a pure function of (data set, split, options, seed, i), independent of batch, worker and device.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from graphfsl.core import task
from graphfsl.core.arguments import real_number, whole_number
from graphfsl.core.episode import BaseTarget, Episode
from graphfsl.core.task import Answer, Caption, Demands, Draws, Metric, Normalise, Task
from graphfsl.data.proposals import check_kind, proposals
from graphfsl.data.scenes import SceneSplit, scene_split
from graphfsl.data.split import Split
from graphfsl.data.streams import CLASSES, IMAGES, SCENES, choose, episode_numbers, keys_of, uniform
from graphfsl.functional.detection_metrics import Boxes, average_precision, average_recall
from graphfsl.functional.layers import last_layer
from graphfsl.functional.regions import (
    around,
    crops,
    is_background,
    kept_regions,
    truth_of,
    voted,
)
from graphfsl.io.errors import InputError, require, unknown

__all__ = ["Regions"]
RANKS = ("score", "margin", "probability")


@dataclass(frozen=True)
class Draw(task.Draw):
    """Which images, and which boxes of them, make B episodes.

    Args:
        ids: (B, way * shot + query) the image of each shot, then the queries.
        classes: (B, way) the class of each column behind the background's.
        shots: (B, way * shot) which of its image's objects a shot is.
    """

    classes: np.ndarray
    shots: np.ndarray


@dataclass(frozen=True, repr=False)
class RegionTarget(BaseTarget):
    """What is true of the queries' regions, and where the objects are.

    Args:
        query: (B, Q) the column of each region, 0 for background, -100 where it does not count.
        boxes: (B, Q, 4) the regions.
        image: (B, Q) the query image that each lies in, -1 for padding.
        objects: (B, G, 4) the objects of the query images.
        object_image: (B, G) the image that each lies in, -1 for padding.
        object_label: (B, G) the column of each.
        difficult: (B, G) 1 for an object that is neither hit nor missed, 2 for a crowd, else 0.
        ids: (B, n) the image of each shot and of each query.
        classes: (B, way) the split's class of each column behind the background's.
    """

    query: Tensor
    boxes: Tensor
    image: Tensor
    objects: Tensor
    object_image: Tensor
    object_label: Tensor
    difficult: Tensor
    ids: Tensor
    classes: Tensor

    def loss(self, scores: Tensor, episode: Episode) -> Tensor:
        """Mean cross-entropy of the regions that count."""
        queries = last_layer(scores)[:, episode.query]
        truth = self.query
        if episode.way and bool((episode.w[..., 0].sum(1) == 0).any()):
            # without a background among the labels no score could be right
            truth = truth.masked_fill(truth == 0, -100)
        total = F.cross_entropy(
            queries.flatten(0, 1), truth.flatten(), ignore_index=-100, reduction="sum"
        )
        return total / (truth >= 0).sum().clamp_min(1)


@dataclass(frozen=True)
class Regions(Task):
    """What an episode of detection looks like; its classes alone are asked for (FSOD).

    A shot is one box, and not a difficult one. Other objects of its image are neither of a class
    nor background. Regions of support images that overlap no object are labeled as background, the
    first column.

    Args:
        way: classes beside the background.
        shot: labeled boxes of each class.
        query: query images.
        proposals: what proposes regions: "components", "selective_search", or the file of a net's
            weights (`graphfsl proposer`, or a detector of torchvision).
        most: regions of an image, the first ones that are proposed.
        background: labeled background regions of each support image at most; 0 for none.
        crop: pixels of a side to which a region is resized.
        context: the side of the square that is cut, by the longer side of the region.
        rank: what detections are sorted by: the "score" of the class, as minus a distance; its
            "margin" over the background's; or its "probability".
        overlap: intersection over union above which one of two detections of a class goes.
        voting: whether regions around a detection have a say in its box.
    """

    nodes_are_samples: ClassVar = False
    unpublished: ClassVar = (
        *("query", "proposals", "most", "background", "crop", "context", "rank", "overlap"),
        "voting",
    )
    always_shown: ClassVar = ("way", "shot")
    shared: ClassVar = {"query": " query images"}
    curves: ClassVar = {"shot": ("shots", "labeled boxes per class")}
    captions: ClassVar = {
        "way": Caption("{}-way", always=True),
        "shot": Caption("{}-shot"),
        "query": Caption("{} query images"),
        "proposals": Caption("regions by {}"),
        "background": Caption("{} background regions of an image"),
        "rank": Caption("ranked by {}"),
    }
    diagnoses: ClassVar = ("precisions",)
    by_class: ClassVar = {"precisions": "AP50 of each class, mean over draws"}
    draw_type: ClassVar = Draw

    way: int = 5
    shot: int = 1
    query: int = 20
    proposals: str = "components"
    most: int = 100
    background: int = 20
    crop: int = 28
    context: float = 28 / 22
    rank: str = "score"
    overlap: float = 0.3
    voting: bool = False

    def __post_init__(self) -> None:
        for name, least in (
            *(("way", 1), ("shot", 1), ("query", 1), ("most", 1), ("background", 0)),
            ("crop", 1),
        ):
            number = whole_number(getattr(self, name), f"episode.{name}", least)
            object.__setattr__(self, name, number)
        for name in ("context", "overlap"):
            object.__setattr__(self, name, real_number(getattr(self, name), f"episode.{name}"))
        require(self.context > 0, f"episode.context must be above 0, not {self.context}")
        require(0 <= self.overlap <= 1, f"episode.overlap must lie in [0, 1], not {self.overlap}")
        check_kind(self.proposals, "episode.proposals")
        if self.rank not in RANKS:
            raise unknown("episode.rank", self.rank, RANKS)
        require(
            self.rank != "margin" or self.background > 0,
            "episode.rank=margin is over the background's score; set episode.background above 0",
        )

    def __str__(self) -> str:
        """In words: "5-way 1-shot detection, 20 query images"."""
        return f"{self.title}, {self.query} query images"

    @property
    def title(self) -> str:
        """Its name for people: "5-way 1-shot detection"."""
        return f"{self.way}-way {self.shot}-shot detection"

    @property
    def size(self) -> tuple[float, ...]:
        """What tables are sorted by."""
        return self.way, self.shot

    @property
    def demands(self) -> Demands:
        """What it asks of a learner and of the machine."""
        support = self.way * self.shot * (1 + self.background)
        queries = self.query * self.most
        return Demands(way=self.way + 1, nodes=support + queries, support=support, queries=queries)

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """Average precision of each draw of shots, and the recall of its proposals."""
        return {
            "AP50": Metric(lambda s, t, e: self._precision(s, t, [0.5])),
            "AP": Metric(lambda s, t, e: self._precision(s, t, None)),
            "AR@10": Metric(lambda s, t, e: _recall(t, 10)),
            "AR@100": Metric(lambda s, t, e: _recall(t, 100)),
        }

    def diagnose(self, answers: Iterable[Answer], split: Split) -> dict[str, Any]:
        """The AP50 of every class.

        Returns:
            precisions: class -> mean over the draws whose query images show it.
        """
        found: dict[str, list[float]] = {}
        for scores, target, _ in answers:
            assert isinstance(target, RegionTarget)
            for b in range(len(scores)):
                detections, objects = self.detections(scores, target, b), objects_of(target, b)
                for column, number in enumerate(target.classes[b].tolist(), 1):
                    own = objects.where(objects.label == column)
                    value = average_precision(detections, own, [0.5])
                    found.setdefault(split.classes[number], []).append(value)
        means = {name: _mean_where_told(values) for name, values in sorted(found.items())}
        told = {name: round(mean, 4) for name, mean in means.items() if mean is not None}
        return {"precisions": told}

    def sample_shape(self, split: Split) -> tuple[int, ...]:
        """The shape of a crop."""
        return (split.shape[0], self.crop, self.crop)

    def draws(self, split: Split, seed: int) -> Draws:
        """What draws images and boxes.

        Raises:
            InputError: where the split has no boxes, or too few of a class.
        """
        return _Sampler(scene_split(split, "boxes"), self, seed)

    def assemble(
        self, draw: Draw, split: Split, raw: Tensor, normalise: Normalise, device: torch.device
    ) -> tuple[Episode, RegionTarget]:
        """One node a region: the shots, background of their images, then the queries' regions."""
        require(
            not normalise.augments,
            "regions are not augmented; leave data.augment out where episode.task=regions",
        )
        scenes = scene_split(split, "boxes")
        tasks = [
            self._nodes(scenes, draw.rows(slice(b, b + 1)), raw[b].cpu())
            for b in range(len(draw.ids))
        ]
        support, queries = (_stacked([t[part] for t in tasks]) for part in ("support", "queries"))
        objects = _stacked([t["objects"] for t in tasks])
        labeled, asked = support["label"] >= 0, queries["image"] >= 0
        k, q = labeled.shape[1], asked.shape[1]
        columns = F.one_hot(support["label"].clamp_min(0), self.way + 1)
        w = F.pad(columns * labeled.unsqueeze(-1), (0, 0, 0, q)).float()
        x = torch.cat([support["x"], queries["x"]], 1)
        mask = torch.cat([labeled, asked], 1).to(device)
        seen = normalise(x) * mask[..., None, None, None]
        episode = Episode(seen, w.to(seen), k, q, mask, relabeled=False)
        target = RegionTarget(
            query=queries["label"],
            boxes=queries["boxes"],
            image=queries["image"],
            objects=objects["boxes"],
            object_image=objects["image"],
            object_label=objects["label"],
            difficult=objects["difficult"],
            ids=torch.from_numpy(draw.ids),
            classes=torch.from_numpy(draw.classes),
        )
        return episode, target.to(device)

    def _nodes(self, split: SceneSplit, draw: Draw, raw: Tensor) -> dict[str, dict[str, Tensor]]:
        """The regions of one episode, whose images are raw (I, C, H, W)."""
        k = self.way * self.shot
        queries, objects = self._queries(split, draw, raw[k:])
        return {
            "support": self._support(split, draw, raw[:k]),
            "queries": queries,
            "objects": objects,
        }

    def _support(self, split: SceneSplit, draw: Draw, raw: Tensor) -> dict[str, Tensor]:
        """Each shot's region, and background of its image."""
        boxes, images, labels = [], [], []
        for node, image in enumerate(raw):
            objects = split.objects_of(int(draw.ids[0, node]))
            shot = torch.from_numpy(objects.boxes[draw.shots[0, node]])[None]
            free = self._regions(image)
            free = free[is_background(free, torch.from_numpy(objects.boxes))][: self.background]
            boxes += [shot, free]
            images.append(torch.full((1 + len(free),), node))
            column = node // self.shot + 1
            labels.append(torch.tensor([column] + [0] * len(free)))
        cut = self._cut(raw, torch.cat(boxes), torch.cat(images))
        return {**cut, "label": torch.cat(labels)}

    def _queries(
        self, split: SceneSplit, draw: Draw, raw: Tensor
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The regions of the query images, and the objects of the episode's classes in them."""
        column_of = {int(c): i + 1 for i, c in enumerate(draw.classes[0])}
        ids = draw.ids[0, self.way * self.shot :]
        found: dict[str, list[Tensor]] = {"boxes": [], "image": [], "label": []}
        truth: dict[str, list[Tensor]] = {"boxes": [], "image": [], "label": [], "difficult": []}
        for place, image in enumerate(raw):
            objects = split.objects_of(int(ids[place]))
            asked = np.isin(objects.labels, list(column_of))
            columns = torch.tensor([column_of.get(int(c), -100) for c in objects.labels]).long()
            regions = self._regions(image)
            every = torch.from_numpy(objects.boxes)
            found["boxes"].append(regions)
            found["image"].append(torch.full((len(regions),), place))
            # an object of another class is background here, as an unknown one is
            counted = columns.masked_fill(torch.from_numpy(objects.difficult), -100)
            found["label"].append(truth_of(regions, every[asked], counted[asked]))
            truth["boxes"].append(every[asked])
            truth["image"].append(torch.full((int(asked.sum()),), place))
            truth["label"].append(columns[asked])
            truth["difficult"].append(torch.from_numpy(objects.discount[asked]))
        cut = self._cut(raw, torch.cat(found["boxes"]), torch.cat(found["image"]))
        objects_found = {name: torch.cat(parts) for name, parts in truth.items()}
        return {**cut, "label": torch.cat(found["label"])}, objects_found

    def _regions(self, image: Tensor) -> Tensor:
        """The regions (m, 4) of an image (C, H, W)."""
        return torch.from_numpy(proposals(image.numpy(), self.proposals)[: self.most])

    def _cut(self, images: Tensor, boxes: Tensor, image: Tensor) -> dict[str, Tensor]:
        """Crops of regions, in bytes as images are, with the regions themselves."""
        squares = around(boxes, self.context)
        x = crops(images.float(), squares, image, self.crop).round().to(images.dtype)
        return {"x": x, "boxes": boxes, "image": image}

    def detections(self, scores: Tensor, target: RegionTarget, b: int) -> Boxes:
        """What is detected in the query images of episode b.

        Args:
            scores: (B, Q, C) of the regions.
            target: where these lie.
            b: which episode.
        """
        real = target.image[b] >= 0
        return self.detections_of(scores[b][real], target.boxes[b][real], target.image[b][real])

    def detections_of(self, scores: Tensor, boxes: Tensor, image: Tensor) -> Boxes:
        """What is detected where regions (m, 4) of images (m,) have scores (m, C)."""
        ranked = ranks(scores.float(), self.rank).cpu()
        boxes, image = boxes.cpu(), image.cpu()
        classes = torch.arange(1, scores.shape[-1])
        flat = ranked.T.flatten()
        box, of = boxes.repeat(len(classes), 1), image.repeat(len(classes))
        label = classes.repeat_interleave(len(boxes))
        there = flat.isfinite()  # a class without support is not detected
        flat, box, of, label = flat[there], box[there], of[there], label[there]
        groups = of * (len(classes) + 1) + label
        kept = kept_regions(box, flat, groups, self.overlap)
        final = box[kept]
        if self.voting:
            final = voted(final, groups[kept], box, flat, groups)
        parts = (final, of[kept], label[kept], flat[kept])
        return Boxes(*(part.numpy() for part in parts))

    def _precision(
        self, scores: Tensor, target: RegionTarget, overlaps: list[float] | None
    ) -> Tensor:
        """The average precision (B,) of each episode."""
        options: dict[str, Any] = {} if overlaps is None else {"overlaps": overlaps}
        values = [
            average_precision(self.detections(scores, target, b), objects_of(target, b), **options)
            for b in range(len(scores))
        ]
        return torch.tensor(values, dtype=torch.float64)


def ranks(scores: Tensor, rank: str) -> Tensor:
    """What detections are sorted by: scores (m, C) -> (m, C - 1), without the background."""
    if rank == "probability":
        return scores.softmax(-1)[:, 1:]
    if rank == "margin" and bool(scores[:, 0].isfinite().all()):  # some background was labeled
        return scores[:, 1:] - scores[:, :1]
    return scores[:, 1:]


def objects_of(target: RegionTarget, b: int) -> Boxes:
    """The objects of the query images of episode b."""
    real = target.object_image[b] >= 0
    parts = (target.objects, target.object_image, target.object_label, target.difficult)
    return Boxes(*(part[b][real].cpu().numpy() for part in parts))


def _recall(target: RegionTarget, most: int) -> Tensor:
    """The average recall (B,) of the first `most` proposals of each image."""
    values = []
    for b in range(len(target.boxes)):
        real = target.image[b] >= 0
        boxes, image = target.boxes[b][real].cpu().numpy(), target.image[b][real].cpu().numpy()
        order = -np.arange(len(boxes), dtype=np.float64)
        found = Boxes(boxes, image, np.zeros(len(boxes), np.int64), order)
        values.append(average_recall(found, objects_of(target, b), most))
    return torch.tensor(values, dtype=torch.float64)


def _mean_where_told(values: list[float]) -> float | None:
    """The mean of those that are numbers; None where none is."""
    numbers = [value for value in values if not math.isnan(value)]
    return sum(numbers) / len(numbers) if numbers else None


def _stacked(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Tensors of several episodes as one batch: padding is 0, and -1 where it is a number."""
    most = max(len(part["image"]) for part in parts)

    def padded(t: Tensor, name: str) -> Tensor:
        fill = -1 if name in ("image", "label") else 0
        rest = t.new_full((most - len(t), *t.shape[1:]), fill)
        return torch.cat([t, rest])

    found = {name: torch.stack([padded(p[name], name) for p in parts]) for name in parts[0]}
    if "label" in found:
        no_truth = (found["image"] < 0) & (found["label"] < 0)
        found["label"] = found["label"].masked_fill(no_truth, -100)
    return found


class _Sampler:
    """Which boxes are shots, and which images are queries."""

    def __init__(self, split: SceneSplit, asked: Regions, seed: int) -> None:
        self.split, self.asked, self.seed = split, asked, seed
        shown = split.shown()
        series = split.series if split.series is not None else np.zeros(len(split.x), np.int64)
        self.rows, self.classes = [], []
        most = 0
        for s in np.unique(series):
            rows = np.flatnonzero(series == s)
            # a shot may share its image with another, but never with a query
            classes = np.flatnonzero(shown[rows].sum(0) >= asked.shot + 1)
            most = max(most, len(classes))
            if len(classes) >= asked.way and len(rows) >= asked.way * asked.shot + asked.query:
                self.rows.append(rows)
                self.classes.append(classes)
        if not self.rows:
            raise InputError(
                f"{split.name}: {most} classes are shown by {asked.shot + 1} images or more, and "
                f"an episode takes {asked.way} of them and {asked.way * asked.shot + asked.query} "
                "images; lower episode.way, shot or query"
            )
        self.shown = shown

    def draw(self, i: np.ndarray | list[int]) -> Draw:
        """The episodes with the numbers i."""
        keys = keys_of(self.split.name, self.seed, episode_numbers(i))
        which = (uniform(keys, SCENES, 1, 1)[:, 0, 0] * len(self.rows)).astype(np.int64)
        ids, classes, shots = [], [], []
        for b, s in enumerate(which):
            key = keys[b : b + 1]
            known = self.classes[s]
            chosen = choose(np.array([[len(known)]]), uniform(key, CLASSES, 1, self.asked.way))
            columns = known[chosen[0, 0]]
            images, boxes = self._episode(key, self.rows[s], columns)
            ids.append(images)
            classes.append(columns)
            shots.append(boxes)
        return Draw(np.stack(ids), np.stack(classes), np.stack(shots))

    def _episode(
        self, key: np.ndarray, rows: np.ndarray, columns: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The images (way * shot + query,) of an episode, and the box (way * shot,) of each shot.

        Queries show at least one of the classes, as long as there are such images.
        """
        order = rows[np.argsort(uniform(key, IMAGES, 1, len(rows))[0, 0])]
        pick = uniform(key, IMAGES, 2, self.asked.way * self.asked.shot)[0, 1]
        shots: list[tuple[int, int]] = []
        for column, u in zip(np.repeat(columns, self.asked.shot), pick, strict=True):
            shots.append(self._shot(order[self.shown[order, column]], int(column), u, shots))
        support = [image for image, _ in shots]
        boxes = [box for _, box in shots]
        rest = order[~np.isin(order, support)]
        showing = self.shown[rest][:, columns].any(1)
        queries = np.concatenate([rest[showing], rest[~showing]])[: self.asked.query]
        return np.concatenate([support, queries]).astype(np.int64), np.array(boxes, np.int64)

    def _shot(
        self, images: np.ndarray, column: int, u: float, shots: list[tuple[int, int]]
    ) -> tuple[int, int]:
        """A box of a class in the first image of which none is a shot yet, or else of any image.

        Args:
            images: that show the class, in order.
            column: the class.
            u: in (0, 1), which of the image's boxes.
            shots: image and box of those that there are.
        """
        used = np.isin(images, [image for image, _ in shots])
        for image in np.concatenate([images[~used], images[used]]).tolist():
            objects = self.split.objects_of(image)
            own = np.flatnonzero((objects.labels == column) & ~objects.difficult)
            free = [box for box in own.tolist() if (image, box) not in shots]
            if free:
                return image, free[int(u * len(free))]
        raise InputError(
            f"{self.split.name}: class {self.split.classes[column]!r} has too few boxes for "
            f"{self.asked.shot} shots; lower episode.shot"
        )
