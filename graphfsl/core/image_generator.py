"""`ImageGenerator`: what generators of images share, which work before the encoder."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from graphfsl.core.episode import Episode
from graphfsl.core.generator import Generator
from graphfsl.io.errors import require

LARGEST_SIDE = 96  # of images that a small network draws


class ImageGenerator(Generator):
    """A `Generator` whose nodes are images (C, H, W), normalised as those of the episode are.

    Args:
        shape: (C, H, W) of an image.
        noise: the shape of the noise of one draw.
        samples: as of `Generator`; so are weight and averaged.
        weight: label weight of a generated node.
        averaged: the mean of 64 draws in place of the draws.

    Raises:
        InputError: for samples that are no images.
    """

    of_images = True

    def __init__(
        self,
        shape: Sequence[int],
        noise: Sequence[int],
        samples: int,
        weight: float,
        averaged: bool = False,
    ) -> None:
        require(
            len(shape) == 3,
            f"{type(self).__name__} generates images, but samples are vectors of length "
            f"{shape[0]}; choose a generator of features, such as prototype_vae",
        )
        super().__init__(noise, samples, weight, averaged)
        self.shape = tuple(shape)

    def forward(self, episode: Episode) -> Episode:
        """The episode with generated images among its support; none where it adds none.

        Raises:
            InputError: for samples of another shape, or images that are not normalised.
        """
        if not self.samples:
            return episode
        x = episode.x
        require(
            x.shape[2:] == self.shape and x.is_floating_point(),
            f"{type(self).__name__} was built for normalised images {self.shape}, but this "
            f"episode holds {tuple(x.shape[2:])} of {str(x.dtype).removeprefix('torch.')}",
        )
        return super().forward(episode)


class LearnedImageGenerator(ImageGenerator):
    """One that a small network draws for, which base classes teach.

    The network sees and draws images with values between 0 and 1: the darkest and the brightest
    value of each channel that base images have.

    Args:
        shape: as of `ImageGenerator`, and so are the others.
        noise: the shape of the noise of one draw.
        samples: how many nodes a condition gets.
        weight: label weight of a generated node.
        averaged: the mean of 64 draws in place of the draws.

    Raises:
        InputError: for images of more than 96 pixels of a side.
    """

    needs_fit = True
    wants_base = True

    def __init__(
        self,
        shape: Sequence[int],
        noise: Sequence[int],
        samples: int,
        weight: float,
        averaged: bool = False,
    ) -> None:
        super().__init__(shape, noise, samples, weight, averaged)
        channels, height, side = self.shape
        require(
            max(height, side) <= LARGEST_SIDE,
            f"{type(self).__name__} draws images of at most {LARGEST_SIDE} x {LARGEST_SIDE} "
            f"pixels, not {height} x {side}; choose a generator of features, such as "
            "prototype_vae, or set data.size",
        )
        self.low: Tensor
        self.high: Tensor
        self.register_buffer("low", torch.zeros(channels, 1, 1))
        self.register_buffer("high", torch.ones(channels, 1, 1))

    def see_range(self, images: Tensor, labels: Tensor) -> None:
        """Take the range of values of base images (N, *shape) with labels (N,).

        Raises:
            InputError: for images of another shape, or with values that are not finite.
        """
        name = type(self).__name__
        require(
            images.shape[1:] == self.shape,
            f"{name} was built for images {self.shape}, but base images are "
            f"{tuple(images.shape[1:])}",
        )
        require(
            bool(images.isfinite().all()),
            f"base images hold NaN or infinity, from which {name} cannot learn",
        )
        require(len(labels) > 0, f"{name} needs base images, but there are none")
        low, high = torch.aminmax(images.transpose(0, 1).flatten(1), dim=1)
        self.low.copy_(low[:, None, None])
        self.high.copy_(high[:, None, None])

    def scaled(self, x: Tensor) -> Tensor:
        """Images (…, *shape) with values between 0 and 1."""
        return ((x - self.low) / (self.high - self.low).clamp_min(1e-6)).clamp(0, 1)

    def unscaled(self, x: Tensor) -> Tensor:
        """Images (…, *shape) between 0 and 1 with values of the episode's range."""
        back: Tensor = self.low + (self.high - self.low) * x
        return back
