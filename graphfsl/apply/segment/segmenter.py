"""`Segmenter`: what finds the pixels of classes that a few images with masks show."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from graphfsl.apply.predict import open_run
from graphfsl.apply.segment.support_masks import SupportMasks
from graphfsl.core.cells import of_images
from graphfsl.core.encoder import own_normalisation
from graphfsl.core.episode import Episode
from graphfsl.core.learner import Learner
from graphfsl.core.pipeline import Pipeline
from graphfsl.core.protocol import check_classes
from graphfsl.data.mask_files import squeezed, squeezed_image
from graphfsl.data.scenes import IGNORED
from graphfsl.data.transforms import Transform
from graphfsl.experiment.builder import build_learner
from graphfsl.experiment.encoders import weighted_encoder
from graphfsl.experiment.learner_spec import LearnerSpec, PartSpec
from graphfsl.functional.cells import FLOOR
from graphfsl.functional.presence import presence
from graphfsl.io.errors import InputError, require

STRIDES = [16, 32]  # of the feature maps of a pretrained encoder
SIDE = 320  # pixels of a side that such an encoder sees
HEAD, REFINE = "panet", "own_graph"  # what answers where no run is given
STRIP = 2**21  # pixels whose probabilities are held at once


@dataclass(frozen=True)
class FoundMask:
    """The answer for one image.

    Args:
        labels: (H, W) uint8, 0 for the background and k + 1 for class k; a class that is not there
            has no pixel.
        presence: (classes,) the sign that the image shows each, in [0, 1].
        there: (classes,) bool, whether it does.
    """

    labels: np.ndarray
    presence: np.ndarray
    there: np.ndarray


class Segmenter:
    """Finds the pixels of classes that a few labeled images show; each image by itself.

    Args:
        learner: of episodes whose pixels have labels.
        transform: the normalisation of images.
        shape: (channels, height, width) of the images that it sees.
        support: the labeled images.
        ink: whether it sees drawings, bright on dark: images with a bright border are inverted.
    """

    def __init__(
        self,
        learner: Learner,
        transform: Transform,
        shape: Sequence[int],
        support: SupportMasks,
        ink: bool = False,
    ) -> None:
        check_classes(learner)
        require(
            not learner.transductive,
            "this learner answers for several images together, and they are asked about one by "
            "one; choose another learner.refine or learner.batch_norm=support",
        )
        self.learner, self.transform = learner.eval(), transform.plain()
        self.channels, self.side = shape[0], shape[-1]
        require(
            shape[-2] == shape[-1],
            f"this learner sees images of {shape[-1]} x {shape[-2]} pixels; only square ones can "
            "be asked here",
        )
        self.way, self.ink = len(support.classes) + 1, ink
        pairs = [
            squeezed(self._inked(image), labels, self.side)
            for image, labels in zip(support.images, support.maps, strict=True)
        ]
        self.images = torch.stack([torch.from_numpy(image) for image, _ in pairs])
        maps = torch.stack([torch.from_numpy(labels) for _, labels in pairs]).long()
        one_hot = F.one_hot((maps + 1).clamp_min(0), self.way)
        self.w = (one_hot * (maps != IGNORED).unsqueeze(-1)).movedim(-1, 1).float()
        self._check_shown(support)

    def _inked(self, image: np.ndarray) -> np.ndarray:
        """The image (channels, H, W), inverted where it is a drawing on paper."""
        border = [image[:, 0], image[:, -1], image[:, :, 0], image[:, :, -1]]
        on_paper = self.ink and np.median(np.concatenate(border, 1)) > 127
        return 255 - image if on_paper else image

    def _check_shown(self, support: SupportMasks) -> None:
        """Refuse a class, or a background, of which nothing is left at the size that is seen."""
        amount = self.w.sum((0, 2, 3))
        lost = [name for name, n in zip(support.classes, amount[1:], strict=True) if n == 0]
        require(
            not lost,
            f"class {(lost or [''])[0]!r} has no pixel left where images are squeezed to "
            f"{self.side} x {self.side}; label a larger one, or give --size",
        )
        require(
            bool(amount[0] > 0),
            "the masks cover every pixel, so that nothing shows what is not of the classes; label "
            "an image with some background",
        )

    @torch.no_grad()
    def find(self, image: np.ndarray, least: float = 0.5) -> FoundMask:
        """The mask of an image (channels, H, W) of any size.

        Args:
            image: uint8, of the learner's channels.
            least: the sign of presence below which a class is not there.

        Raises:
            InputError: for a learner that does not tell the parts of an image apart, or that has no
                answer.
        """
        small = torch.from_numpy(squeezed_image(self._inked(image), self.side))
        scores = self._scores(small[None]).float().cpu()  # (1, h, w, C)
        require(
            scores[0, ..., 0].numel() > 1,
            f"this learner sees an image of {self.side} x {self.side} pixels as one cell, which "
            "has no parts to tell apart; give a larger --size, or a run of episode.task=pixels",
        )
        require(
            not bool(scores.isnan().any()), "the learner has no answer for an image: NaN scores"
        )
        sign = presence(scores)[0].numpy()
        there = sign >= least
        hidden = ~torch.from_numpy(np.concatenate([[True], there]))
        logs = scores.log_softmax(-1).clamp_min(FLOOR).masked_fill(hidden, -np.inf)
        labels = full_size_answer(logs[0].movedim(-1, 0), image.shape[1:])
        return FoundMask(labels, sign, there)

    @functools.cached_property
    def _support(self) -> Episode | None:
        """The labeled images' cells, encoded once; None where they depend on the query too."""
        if not isinstance(self.learner, Pipeline) or not self.learner.fixed:
            return None
        return self._encoded(self.images, self.w, labeled=True)

    def _scores(self, image: Tensor) -> Tensor:
        """Scores (1, h, w, C) of the cells of an image (1, C, H, W)."""
        nothing, known = torch.zeros_like(self.w[:1]), self._support
        if known is None or not isinstance(self.learner, Pipeline):
            x = self.transform(torch.cat([self.images, image]))[None]
            w = torch.cat([self.w, nothing])[None]
            episode = Episode(x, w, len(self.images), 1, relabeled=False)
            scores: Tensor = self.learner(episode.to(self._device))[:, 0]
            return scores
        asked = self._encoded(image, nothing, labeled=False)
        features = Episode(
            torch.cat([known.x, asked.x], 1),
            torch.cat([known.w, asked.w], 1),
            known.n_support,
            asked.n_query,
            relabeled=False,
            cells=known.cells,
        )
        of_cells = of_images(self.learner.score_features(features), features)
        return of_cells[:, -1]

    @torch.no_grad()
    def _encoded(self, images: Tensor, w: Tensor, labeled: bool) -> Episode:
        """The cells of images (n, C, H, W), as support or as queries."""
        n = len(images)
        k, q = (n, 0) if labeled else (0, n)
        episode = Episode(self.transform(images)[None], w[None], k, q, relabeled=False)
        assert isinstance(self.learner, Pipeline)
        return self.learner.encode(episode.to(self._device))

    @property
    def _device(self) -> torch.device:
        return next((p.device for p in self.learner.parameters()), torch.device("cpu"))


def full_size_answer(logs: Tensor, size: Sequence[int], strip: int = STRIP) -> np.ndarray:
    """The most probable class of every pixel, of log-probabilities of cells.

    It works by strips of rows, so that memory does not grow with the image but by its answer.

    Args:
        logs: (C, h, w), minus infinity throughout for a class that is not to be answered.
        size: (H, W).
        strip: pixels whose probabilities are held at once.

    Returns:
        (H, W) uint8.
    """
    height, width = size
    kept = logs.isfinite().flatten(1).all(1).nonzero().flatten()
    maps = logs[kept][None]
    rows = max(1, strip // (width * len(kept)))
    across = (2 * torch.arange(width) + 1) / width - 1
    found = np.empty((height, width), np.uint8)
    for top in range(0, height, rows):
        here = torch.arange(top, min(top + rows, height))
        down = (2 * here + 1) / height - 1
        grid = torch.stack(torch.meshgrid(across, down, indexing="xy"), -1)[None]
        values = F.grid_sample(
            maps, grid, mode="bilinear", padding_mode="border", align_corners=False
        )
        # `max` is several times as quick as `argmax` over the first axis
        found[top : top + len(here)] = kept[values[0].max(0).indices].numpy()
    return found


def learner_of_encoder(
    encoder: PartSpec, side: int | None, way: int
) -> tuple[Learner, Transform, tuple[int, int, int]]:
    """What answers without a run: masked means of a frozen encoder's cells, and propagation.

    Args:
        encoder: one that comes with weights.
        side: pixels of a side that it sees; None takes SIDE.
        way: columns of the scores.

    Returns:
        The learner, the normalisation of images, and the shape of those that it sees.
    """
    spec = weighted_encoder(encoder)
    side = SIDE if side is None else side
    options: dict[str, Any] = {"strides": STRIDES, **spec.options}
    if spec.name not in ("timm", "efficientnet_lite0"):
        options.pop("strides")
    else:
        options = {"size": None, **options}
    section = {
        "encoder": {"name": spec.name, "frozen": True, **options},
        "head": HEAD,
        "refine": REFINE,
    }
    shape = (3, side, side)
    learner = build_learner(LearnerSpec.of(section), shape, way)
    normal = own_normalisation(learner) or {}
    return learner, Transform(normal.get("mean"), normal.get("std")), shape


def segmenter_of(
    run: Path | None,
    overrides: Sequence[str],
    encoder: PartSpec,
    side: int | None,
    support: SupportMasks,
) -> Segmenter:
    """What answers: a trained run, or a pretrained encoder where none is given.

    Raises:
        InputError: for overrides or a size beside what they do not go with.
    """
    if run is None:
        require(
            not overrides,
            f"{(list(overrides) or [''])[0]!r} changes a run, and none is given; give a run first",
        )
        learner, transform, shape = learner_of_encoder(encoder, side, len(support.classes) + 1)
        return Segmenter(learner, transform, shape, support)
    predictor = open_run(run, overrides)
    trained = predictor.run
    if len(trained.shape) != 3:
        raise InputError(f"{run} was trained on features, not on images")
    shape = (trained.shape[0], *([side, side] if side else trained.shape[1:]))
    return Segmenter(predictor.learner, trained.transform, shape, support, trained.ink)


def overlay(image: np.ndarray, labels: np.ndarray, colors: Sequence[Sequence[int]]) -> Image.Image:
    """An image (channels, H, W) with its classes in colour: half of each pixel that has one."""
    shown = np.repeat(image, 3, 0) if len(image) == 1 else image
    picture = shown.transpose(1, 2, 0).copy()
    for column, color in enumerate(colors, 1):
        pixels = labels == column
        picture[pixels] = picture[pixels] // 2 + np.array(color, np.uint8) // 2
    return Image.fromarray(picture)
