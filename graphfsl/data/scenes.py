"""`SceneSplit`: images of which every pixel, or every object, has a class of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NoReturn

import numpy as np
import torch
from torch import Tensor

from graphfsl.core.display import block, first_of, kind_of
from graphfsl.data.split import Split
from graphfsl.io.errors import InputError, require

BACKGROUND, IGNORED = -1, -100  # in label maps, beside the numbers of classes


@dataclass(frozen=True)
class Objects:
    """The annotated objects of one image.

    Args:
        boxes: (m, 4) left, top, right, bottom in pixels; right and bottom are outside of the box.
        labels: (m,) the class of each.
        difficult: (m,) bool, those that neither a hit nor a miss is counted of.
        crowd: (m,) bool, those of the difficult that are many objects in one box; None for none.
    """

    boxes: np.ndarray
    labels: np.ndarray
    difficult: np.ndarray
    crowd: np.ndarray | None = None

    @property
    def discount(self) -> np.ndarray:
        """(m,) 0 for what counts, 1 for what is difficult, and 2 for a crowd."""
        crowd = np.zeros_like(self.difficult) if self.crowd is None else self.crowd
        found: np.ndarray = self.difficult.astype(np.int64) + crowd
        return found

    @classmethod
    def of(cls, boxes: Sequence[Sequence[float]], labels: Sequence[int]) -> Objects:
        """Objects of which none is difficult."""
        found = np.asarray(boxes, np.float32).reshape(-1, 4)
        return cls(found, np.asarray(labels, np.int64), np.zeros(len(found), bool))


@dataclass(frozen=True, repr=False)
class SceneSplit(Split):
    """Images of one size that show objects of several classes, with label maps or boxes or both.

    Its `y` is -1: an image as a whole has no class. Tasks of whole images refuse it.

    Args:
        maps: (N, H, W) int16 the class of every pixel, BACKGROUND or IGNORED; None without masks.
        objects: the boxes of every image; None without boxes.
        series: (N,) the series that each image belongs to, such as one video; the images of an
            episode are then of one series. None for one series.
    """

    maps: Tensor | None = None
    objects: tuple[Objects, ...] | None = None
    series: np.ndarray | None = None

    def __post_init__(self) -> None:
        maps = self.maps
        if maps is not None:
            right = (len(self.x), *self.x.shape[2:])
            require(
                tuple(maps.shape) == right,
                f"{self.name}: label maps must be {right}, not {tuple(maps.shape)}",
            )
            require(
                bool(((maps >= BACKGROUND) | (maps == IGNORED)).all())
                and int(maps.max()) < len(self.classes),
                f"{self.name}: label maps hold classes 0..{len(self.classes) - 1}, {BACKGROUND} "
                f"for the background and {IGNORED} where a pixel does not count",
            )
        require(
            self.objects is None or len(self.objects) == len(self.x),
            f"{self.name}: {len(self.x)} images but boxes of {len(self.objects or ())}",
        )
        super().__post_init__()

    def __repr__(self) -> str:
        known = [
            text for text, has in (("masks", self.has_masks), ("boxes", self.has_boxes)) if has
        ]
        shown = self.counts
        facts = {
            "images": f"{len(self.x):,} of {kind_of(self.x, self.shape)}, with "
            + (" and ".join(known) or "neither masks nor boxes"),
            "classes": first_of(self.classes),
            "images of a class": f"{shown.min():,} to {shown.max():,}",
        }
        return block(f"Split {self.name}", facts)

    @property
    def has_masks(self) -> bool:
        """Whether it says the class of every pixel."""
        return self.maps is not None

    @property
    def has_boxes(self) -> bool:
        """Whether it says where the objects are."""
        return self.objects is not None

    @property
    def counts(self) -> np.ndarray:
        """The number of images that show each class."""
        return np.asarray(self.shown().sum(0))

    def shown(self, least: float = 0.0) -> np.ndarray:
        """Which classes (N, C) each image shows.

        Args:
            least: the share of an image's pixels below which an object does not count; of boxes it
                is not asked, and those that are difficult, such as a crowd, show no class.
        """
        found = np.zeros((len(self.x), len(self.classes)), bool)
        if self.maps is not None:
            pixels = self.maps[0].numel()
            for i, image in enumerate(self.maps):
                labels = image[image >= 0].long()
                share = torch.bincount(labels, minlength=len(self.classes)) / pixels
                found[i] = ((share > 0) & (share >= least)).numpy()
            return found
        for i, objects in enumerate(self.objects or ()):
            found[i, objects.labels[~objects.difficult]] = True
        return found

    def label_maps(self, ids: Tensor) -> Tensor:
        """The label maps (…, H, W) of the images with these ids (…).

        Raises:
            InputError: where there are none.
        """
        if self.maps is None:
            raise InputError(
                f"{self.name} has no masks; choose a data set with masks, such as glyph_scenes or "
                "camvid"
            )
        found = self.maps.index_select(0, ids.flatten().cpu())
        return found.view(*ids.shape, *found.shape[1:])

    def objects_of(self, image: int) -> Objects:
        """The objects of an image.

        Raises:
            InputError: where there are none.
        """
        if self.objects is None:
            raise InputError(
                f"{self.name} has no boxes; choose a data set with boxes, such as glyph_scenes or "
                "voc_boxes"
            )
        return self.objects[image]

    @property
    def label_bytes(self) -> bytes:
        """All that it says of pixels and objects, for a digest."""
        parts = [] if self.maps is None else [self.maps.numpy().tobytes()]
        for objects in self.objects or ():
            parts += [objects.boxes.tobytes(), objects.labels.tobytes()]
            parts += [objects.difficult.tobytes()] if objects.difficult.any() else []
        return b"".join(parts)

    def part(self, rows: Tensor, y: Tensor, classes: Sequence[int], name: str) -> NoReturn:
        """Refused: its images show several classes at once."""
        raise InputError(
            f"{self.name}: images that show several classes cannot be divided by classes; leave "
            "data.base_classes and data.min_samples out"
        )


class DrawnScenes(SceneSplit):
    """Scenes that are drawn when they are asked for; a subclass says how.

    Its `x` holds no pixels: one zero, seen as all images.
    """

    def gather(self, ids: Tensor) -> Tensor:
        """The images of these ids: (…) -> (…, C, H, W)."""
        found = self.draw(ids.flatten().cpu().numpy())
        return found.view(*ids.shape, *found.shape[1:])

    def draw(self, ids: np.ndarray) -> Tensor:
        """The images (m, C, H, W) uint8 with these ids (m,)."""
        raise NotImplementedError

    def blocks(self, size: int) -> Iterator[Tensor]:
        """All images in order, `size` at a time."""
        for ids in torch.arange(len(self.x)).split(min(size, 256)):
            yield self.gather(ids)

    def to(self, device: torch.device | str) -> Split:
        """Itself: what is drawn is moved when it is gathered."""
        return self


def scene_split(split: Split, needs: str) -> SceneSplit:
    """Refuse a split of whole images, or give it back.

    Args:
        split: that an episode is to be drawn from.
        needs: what its images must have, "masks" or "boxes".

    Raises:
        InputError: names a data set that would do.
    """
    able = isinstance(split, SceneSplit) and getattr(split, f"has_{needs}")
    if not able or not isinstance(split, SceneSplit):
        raise InputError(
            f"{split.name} has no {needs}; choose a data set with {needs}, such as "
            "data.name=glyph_scenes"
        )
    return split
