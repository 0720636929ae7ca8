"""A detector of torchvision that proposes regions: its weights are a user's file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import detection, get_model, list_models
from torchvision.ops import nms

from graphfsl.nn.weights import load_encoder_weights

CLASSES = 91  # of COCO, as torchvision counts them
LEAST = 0.01  # the probability of a box that is a proposal
OVERLAP, MOST = 0.7, 300  # of proposals: what is one, and how many there are


class TorchvisionDetector:
    """Proposes the boxes of a detector, the surest first, whatever the class that it says.

    Args:
        name: of the model in torchvision.models.detection.
        weights: a file of its state dict, for the 91 classes of COCO.

    Raises:
        InputError: where the file does not fit the model.
    """

    def __init__(self, name: str, weights: str) -> None:
        net: Any = get_model(name, weights=None, weights_backbone=None, num_classes=CLASSES)
        load_encoder_weights(net, weights)
        box_head: Any = getattr(net, "roi_heads", net)
        box_head.score_thresh, box_head.detections_per_img = LEAST, MOST
        self.net: nn.Module = net.eval()

    @torch.no_grad()
    def propose(self, image: Tensor) -> Tensor:
        """The boxes (m, 4) of what may be an object in an image (C, H, W) uint8."""
        x = image.float() / 255
        colour = x if len(x) == 3 else x.mean(0, keepdim=True).expand(3, -1, -1)
        (found,) = self.net([colour])
        kept = nms(found["boxes"], found["scores"], OVERLAP)
        boxes: Tensor = found["boxes"][kept]
        return boxes


def detector_of_file(path: str) -> TorchvisionDetector | None:
    """The detector whose name a file's name begins with, as torchvision calls its files.

    `fasterrcnn_resnet50_fpn_coco-258fb6c6.pth` is of `fasterrcnn_resnet50_fpn`.

    Returns:
        None where it begins with none.

    Raises:
        InputError: where its weights do not fit.
    """
    stem = Path(path).name
    names = [name for name in list_models(detection) if stem.startswith(name)]
    return TorchvisionDetector(max(names, key=len), path) if names else None
