"""`Detector`: what finds objects of classes of which a few boxes are known."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from graphfsl.apply.predict import open_run
from graphfsl.core.encoder import block_size, own_normalisation
from graphfsl.core.episode import Episode
from graphfsl.core.learner import Learner
from graphfsl.core.pipeline import Pipeline
from graphfsl.core.protocol import check_classes
from graphfsl.data.box_files import BoxedImage
from graphfsl.data.mask_files import read_image
from graphfsl.data.pixel_range import Range
from graphfsl.data.proposals import enlarged, proposals, reduced
from graphfsl.data.tasks.regions import Regions
from graphfsl.data.transforms import Transform
from graphfsl.experiment.builder import build_learner
from graphfsl.experiment.encoders import weighted_encoder
from graphfsl.experiment.learner_spec import LearnerSpec, PartSpec
from graphfsl.functional.detection_metrics import Boxes
from graphfsl.functional.regions import around, crops, is_background
from graphfsl.io.errors import InputError, require
from graphfsl.loops.encode import encode

SIDE = 112  # pixels of a side of the crops that a pretrained encoder sees
HEAD = {"name": "nearest_neighbor", "distance": "cosine", "scale": 20.0}
BACKGROUND = 20  # labeled background regions of each support image
# the only ones without which a background is not known
NO_BACKGROUND = "no region of the labeled images is free of boxes"


class Detector:
    """Finds objects of a few classes in one image after another.

    Every proposed region of a labeled image that overlaps none of its boxes is labeled background,
    so that all objects of the classes must have boxes there.

    Args:
        learner: of episodes of crops.
        transform: their normalisation.
        shape: (channels, height, width) of a crop.
        support: labeled images.
        classes: the names of the classes.
        kind: of the proposals, a name in `proposals.KINDS`.
        most: regions of an image.
        limits: which values are black and white, see `images.to_bytes`.
        ink: whether the learner sees drawings, bright on dark.
    """

    def __init__(
        self,
        learner: Learner,
        transform: Transform,
        shape: Sequence[int],
        support: Sequence[BoxedImage],
        classes: Sequence[str],
        kind: str,
        most: int,
        limits: Range | None = None,
        ink: bool = False,
    ) -> None:
        check_classes(learner)
        if not isinstance(learner, Pipeline) or not learner.fixed:
            raise InputError(
                "regions are encoded one by one, which this learner's encoder cannot; choose a run "
                "without an inner loop and with learner.batch_norm=running"
            )
        require(
            shape[-1] == shape[-2], "this learner sees crops that are no squares; choose another"
        )
        self.classes, self.channels, self.ink, self.limits = classes, shape[0], ink, limits
        self.encoder, self.transform = learner.eval(), transform.plain()
        self.learner = learner.on_features().eval()
        self.task = Regions(
            way=len(classes), crop=shape[-1], proposals=kind, most=most, rank="probability"
        )
        x, labels = self._labeled(support)
        self.x = self._encoded(x)
        self.w = torch.nn.functional.one_hot(labels, len(classes) + 1).float()

    def _labeled(self, support: Sequence[BoxedImage]) -> tuple[Tensor, Tensor]:
        """Crops of the labeled boxes and of background, and their columns."""
        parts, labels = [], []
        for boxed in support:
            image, step = reduced(self.read(boxed.path))
            boxes = torch.from_numpy(boxed.boxes) / step
            regions = self.regions(image)
            free = regions[is_background(regions, boxes)][:BACKGROUND]
            shots = boxes[torch.from_numpy(~boxed.difficult)]  # a crowd shows no single object
            parts.append(self._crops(image, torch.cat([shots, free])))
            labels += [list(self.classes).index(name) + 1 for name in boxed.shown]
            labels += [0] * len(free)
        require(
            0 in labels,
            f"{NO_BACKGROUND}, so that nothing shows what is not of the classes; label an image "
            "with something else in it",
        )
        return torch.cat(parts), torch.tensor(labels)

    def read(self, path: Path) -> np.ndarray:
        """An image file (channels, H, W) as the learner's images are."""
        image = read_image(path, self.channels, self.limits)
        border = [image[:, 0], image[:, -1], image[:, :, 0], image[:, :, -1]]
        on_paper = self.ink and np.median(np.concatenate(border, 1)) > 127
        return 255 - image if on_paper else image

    def regions(self, image: np.ndarray) -> Tensor:
        """The regions (m, 4) of an image that may hold an object."""
        return torch.from_numpy(proposals(image, self.task.proposals)[: self.task.most])

    def _crops(self, image: np.ndarray, boxes: Tensor) -> Tensor:
        squares = around(boxes, self.task.context)
        of = torch.zeros(len(boxes), dtype=torch.int64)
        pixels = torch.from_numpy(image)[None].float()
        return crops(pixels, squares, of, self.task.crop).round().to(torch.uint8)

    def _encoded(self, x: Tensor) -> Tensor:
        size = block_size(self.encoder.encoder, tuple(x.shape[1:]), "cpu")
        device = next((p.device for p in self.encoder.parameters()), torch.device("cpu"))
        blocks = [encode(self.encoder, block, self.transform, device) for block in x.split(size)]
        return torch.cat(blocks).cpu()

    @torch.no_grad()
    def find(self, image: np.ndarray) -> Boxes:
        """The detections in an image (channels, H, W), the surest first; labels begin at 1.

        A large image is answered as it looks at LOOKED_AT pixels a side.
        """
        small, step = reduced(image)
        regions = self.regions(small)
        nothing = np.zeros(0, np.int64)
        if not len(regions):
            return Boxes(np.zeros((0, 4), np.float32), nothing, nothing, np.zeros(0))
        z = torch.cat([self.x, self._encoded(self._crops(small, regions))])
        w = torch.cat([self.w, torch.zeros(len(regions), self.w.shape[1])])
        episode = Episode(z[None], w[None], len(self.x), len(regions), relabeled=False)
        device = next((p.device for p in self.learner.parameters()), torch.device("cpu"))
        scores = self.learner(episode.to(device))[0].cpu()
        found = self.task.detections_of(scores, regions, torch.zeros(len(regions)).long())
        return found._replace(boxes=enlarged(found.boxes, step, image))


def detector_of(
    run: Path | None,
    overrides: Sequence[str],
    encoder: PartSpec,
    side: int | None,
    support: Sequence[BoxedImage],
    classes: Sequence[str],
    kind: str,
    most: int,
    limits: Range | None = None,
) -> Detector:
    """What answers: a trained run of crops, or a pretrained encoder where none is given.

    Raises:
        InputError: for overrides or a size beside what they do not go with.
    """
    if run is None:
        require(
            not overrides,
            f"{(list(overrides) or [''])[0]!r} changes a run, and none is given; give a run first",
        )
        spec = weighted_encoder(encoder)
        side = SIDE if side is None else side
        options = {"size": side} if spec.name in ("timm", "efficientnet_lite0") else {}
        section = {
            "encoder": {"name": spec.name, "frozen": True, **options, **spec.options},
            "head": HEAD,
        }
        shape: tuple[int, ...] = (3, side, side)
        learner = build_learner(LearnerSpec.of(section), shape, len(classes) + 1)
        normal = own_normalisation(learner) or {}
        transform = Transform(normal.get("mean"), normal.get("std"))
        return Detector(learner, transform, shape, support, classes, kind, most, limits)
    require(side is None, "--size is for an encoder; a run sees crops of its own size")
    trained = open_run(run, overrides).run
    if len(trained.shape) != 3:
        raise InputError(f"{run} was trained on features, not on images")
    parts = (trained.learner, trained.transform, trained.shape, support, classes, kind, most)
    return Detector(*parts, limits, trained.ink)
