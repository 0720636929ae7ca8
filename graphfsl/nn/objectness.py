"""A small net that says where in an image something is, whatever its class."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphfsl.functional.objectness import best_boxes, cell_boxes
from graphfsl.io.checkpoint import load_checkpoint, load_weights, save_halved
from graphfsl.io.errors import require
from graphfsl.nn.dense_conv import DenseConv

KIND = "objectness"  # what a file says of itself
STRIDE = 4  # pixels of a side of a cell
RARE = 0.01  # the probability of an object that an untrained net says
OVERLAP, MOST = 0.7, 300  # of proposals: what is one, and how many there are


class Objectness(nn.Module):
    """Six layers of `DenseConv`, and for each cell a logit and four distances.

    Without classes there is nothing that could tell base from novel ones (FCOS, Tian et al. 2019,
    https://arxiv.org/abs/1904.01355, at one scale).

    Args:
        in_channels: of the images.
        width: filters of every layer.
        side: pixels of the longer side of images that it sees; others are resized to it.

    Shapes:
        forward: (M, in_channels, h, w) in [0, 1] -> (M, 5, ⌈h/4⌉, ⌈w/4⌉), as `cell_boxes` reads it.
    """

    def __init__(self, in_channels: int = 1, width: int = 32, side: int = 96) -> None:
        super().__init__()
        self.in_channels, self.width, self.side = in_channels, width, side
        self.body = DenseConv(in_channels, width)
        self.out = nn.Conv2d(width, 5, 1)
        nn.init.normal_(self.out.weight, std=0.01)
        bias = torch.zeros(5)
        bias[0] = math.log(RARE / (1 - RARE))
        self.out.bias = nn.Parameter(bias)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (M, 5, ⌈h/4⌉, ⌈w/4⌉) of images (M, in_channels, h, w)."""
        found: Tensor = self.out(F.relu(self.body(x)))
        return found

    def seen(self, images: Tensor) -> tuple[Tensor, float]:
        """Images (M, C, H, W) uint8 as the net sees them, and their scale.

        Gray ones are spread over the channels, and a net of gray images sees the mean of colours.
        """
        x = images.float() / 255
        if x.shape[1] != self.in_channels:
            x = x.mean(1, keepdim=True).expand(-1, self.in_channels, -1, -1)
        scale = self.side / max(x.shape[-2:])
        if scale == 1:
            return x, 1.0
        size = [max(1, round(side * scale)) for side in x.shape[-2:]]
        return F.interpolate(x, size, mode="bilinear", antialias=True, align_corners=False), scale

    @torch.no_grad()
    def propose(self, image: Tensor) -> Tensor:
        """The boxes (m, 4) of what may be an object in an image (C, H, W) uint8, surest first."""
        x, scale = self.seen(image[None])
        logit, boxes = cell_boxes(self.eval()(x), STRIDE)
        height, width = image.shape[1:]
        edges = boxes.new_tensor([width, height, width, height])
        inside = (boxes[0] / scale).clamp_min(0).minimum(edges)
        real = (inside[:, 2:] - inside[:, :2]).amin(1) >= 1
        return best_boxes(logit[0][real], inside[real], OVERLAP, MOST)


def objectness_of_file(path: str) -> Objectness:
    """The net that `graphfsl proposer` wrote.

    Raises:
        InputError: where the file is missing, damaged or of something else.
    """
    tensors, facts = load_checkpoint(Path(path))
    require(
        facts.get("kind") == KIND,
        f"{path} holds no net of proposals; `graphfsl proposer` writes one",
    )
    net = Objectness(facts["in_channels"], facts["width"], facts["side"])
    load_weights(net, tensors, Path(path))
    return net.eval()


def save_objectness(net: Objectness, path: Path, facts: Mapping[str, Any]) -> None:
    """Write a net as float16, with what is told of its training."""
    own = {"kind": KIND, "in_channels": net.in_channels, "width": net.width, "side": net.side}
    save_halved(path, net.state_dict(), {**facts, **own})
