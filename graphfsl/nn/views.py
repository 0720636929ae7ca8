"""Random moves of images, and augmented views of an episode's images for inner loops."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from graphfsl.functional.affine import affine
from graphfsl.io.errors import require

DRAWS = 64  # views before they repeat


@dataclass(frozen=True)
class Moves:
    """How far images are turned, shifted and scaled at random, each by its own draw.

    Args:
        rotate: degrees, uniform within plus and minus this.
        translate: share of the side, uniform within plus and minus this.
        scale: share, uniform within plus and minus this.
        flip: whether half of the images are mirrored (never characters).

    Raises:
        InputError: where one of them is out of range.
    """

    rotate: float
    translate: float
    scale: float
    flip: bool = False

    def __post_init__(self) -> None:
        require(
            0 <= self.rotate < 90 and 0 <= self.translate <= 1 and 0 <= self.scale < 1,
            "views must have rotate in [0, 90), translate in [0, 1] and scale in [0, 1), "
            f"not {self.rotate}, {self.translate} and {self.scale}",
        )

    def __call__(self, images: Tensor, u: Tensor) -> Tensor:
        """Images (M, C, h, w), each moved by its draw u (7, M) in [-1, 1]."""
        return affine(images, u, self.rotate, self.translate, self.scale, shear=0.0, flip=self.flip)


class Views(nn.Module):
    """`count` views of every image for each of `steps`.

    They are drawn once, at the start, so that answers repeat, and an image takes the draw of its
    place in an order by content, so that the order of nodes does not matter.

    Args:
        steps: how often views are made.
        count: views of an image in each.
        moves: how far each moves.

    Shapes:
        forward: images (B, m, C, h, w), places (B, m) -> images (B, m, C, h, w); features (B, m, d)
            pass.
    """

    def __init__(self, steps: int, count: int, moves: Moves) -> None:
        super().__init__()
        require(steps >= 0, f"steps must be 0 or more, not {steps}")
        self.moves = moves
        self.draws: Tensor
        self.register_buffer("draws", 2 * torch.rand(steps, count, DRAWS, 7) - 1)
        self.phase: Tensor
        self.register_buffer("phase", 1 + torch.rand(steps))

    def places(self, x: Tensor, mask: Tensor, step: int) -> Tensor:
        """The place of each node in an order of the images by content: (B, m), 0, 1, ….

        Padding comes last.

        The order is that of a projection of x (B, m, *S), as good as random.
        """
        x = x.flatten(2)
        wave = (
            (self.phase[step] * torch.arange(1, x.shape[-1] + 1, device=x.device)).sin().to(x.dtype)
        )
        order = (x @ wave).masked_fill(~mask, float("inf")).argsort(stable=True)
        return order.argsort()

    def forward(
        self, x: Tensor, places: Tensor, step: int, view: int, share: float = 1.0
    ) -> Tensor:
        """One view of each image: (B, m, C, h, w) -> (B, m, C, h, w); features (B, m, d) pass.

        Args:
            x: the images.
            places: (B, m) of each image, which decide its draw.
            step: the number of the step.
            view: which of the step's views.
            share: how far of its map each is moved.
        """
        if x.ndim < 5 or not x.shape[1]:
            return x
        u = share * self.draws[step, view].to(x.dtype)[places.flatten() % DRAWS].T
        images = x.flatten(0, 1)
        return self.moves(images, u).view_as(x)
