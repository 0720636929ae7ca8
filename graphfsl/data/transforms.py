"""Normalisation and training augmentation, on the device of the batch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from graphfsl.core.arguments import real_number
from graphfsl.core.display import call_of
from graphfsl.functional.affine import affine
from graphfsl.functional.dropped_pixels import drop_pixels
from graphfsl.io.errors import InputError, require

# uniforms that an image's augmentation takes: turn, shear, two scales, two shifts, flip, three
# colours, dropped pixels
DRAWS = 11
MOST = {"rotate": 180, "translate": 1, "scale": 0.99, "shear": 89, "color": 1, "drop": 0.99}


class Transform:
    """Bytes (…, C, H, W) -> normalised floats; features pass through.

    Each image draws its own augmentation. All options of it are 0 for evaluation; `plain()` gives
    that version.

    Args:
        mean, std: of each channel, in units of the full range [0, 1]; None leaves [0, 1] as it is.
        rotate: degrees; the affine map is uniform within plus and minus this and the next three.
        translate: share of the side.
        scale: share.
        shear: degrees.
        flip: mirror half of the images left to right (never characters).
        color: brightness, contrast and saturation factors are uniform in 1 - color .. 1 + color.
        drop: share of the pixels that become 0, which is paper where images are drawings.
    """

    def __init__(
        self,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        rotate: float = 0.0,
        translate: float = 0.0,
        scale: float = 0.0,
        shear: float = 0.0,
        flip: bool = False,
        color: float = 0.0,
        drop: float = 0.0,
    ) -> None:
        augment = {"rotate": rotate, "translate": translate, "scale": scale, "shear": shear}
        check_augment("data.augment", {**augment, "flip": flip, "color": color, "drop": drop})
        mean, std = _of_channels(mean, "mean"), _of_channels(std, "std")
        if (mean is None) != (std is None) or (
            mean is not None and std is not None and len(mean) != len(std)
        ):
            raise InputError(
                "data.mean and data.std must be given together, one number for each channel"
            )
        if std is not None and not all(0 < s < math.inf for s in std):
            raise InputError(f"data.std must be above 0 for every channel, not {list(std)}")
        if mean is not None and not all(map(math.isfinite, mean)):
            raise InputError(f"data.mean must be finite for every channel, not {list(mean)}")
        self.mean, self.std = mean, std
        self.rotate, self.translate, self.scale, self.shear = rotate, translate, scale, shear
        self.flip, self.color, self.drop = flip, color, drop

    def __repr__(self) -> str:
        return call_of(self)

    def plain(self) -> Transform:
        """The same normalisation without augmentation."""
        return Transform(self.mean, self.std)

    @property
    def augments(self) -> bool:
        """Whether images are augmented at all."""
        return self.bends or bool(self.color or self.drop)

    @property
    def bends(self) -> bool:
        """Whether augmentation moves what an image shows."""
        return any((self.rotate, self.translate, self.scale, self.shear, self.flip))

    def __call__(self, x: Tensor, u: Tensor | None = None) -> Tensor:
        """Normalise and augment x: (…, C, H, W) bytes; (…, d) features stay as they are.

        u: (…, DRAWS) uniforms in [0, 1] decide each image's augmentation, None leaves it out.
        """
        if x.dtype != torch.uint8:
            return x
        x = x.float() / 255
        lead = x.shape[:-3]
        x = x.reshape(math.prod(lead), *x.shape[-3:])
        if u is not None and self.augments:
            draws = u.reshape(len(x), DRAWS).T
            u = 2 * draws - 1
            if self.bends:
                x = affine(x, u[:7], self.rotate, self.translate, self.scale, self.shear, self.flip)
            if self.color:
                x = self._colors(x, u[7:10])
            if self.drop:
                x = drop_pixels(x, draws[10], self.drop)
        if self.mean is not None and self.std is not None:
            mean, std = x.new_tensor(self.mean), x.new_tensor(self.std)
            require(
                len(mean) == x.shape[1],
                f"the normalisation is for {len(mean)} channels, but the images have {x.shape[1]}",
            )
            x = (x - mean[:, None, None]) / std[:, None, None]
        return x.view(*lead, *x.shape[1:])

    def moved(self, maps: Tensor, u: Tensor | None, channels: int) -> Tensor:
        """Label maps (…, H, W), moved as the augmentation moves their images.

        What comes in from outside has the label -1, the background; or it is mirrored, as images
        are.

        Args:
            maps: whole numbers.
            u: (…, DRAWS) the uniforms of the images; None moves nothing.
            channels: of the images.
        """
        if u is None or not self.bends:
            return maps
        lead = maps.shape[:-2]
        x = (maps + 1).reshape(math.prod(lead), 1, *maps.shape[-2:]).float()
        u = (2 * u.reshape(len(x), DRAWS) - 1).T
        amounts = (self.rotate, self.translate, self.scale, self.shear, self.flip)
        x = affine(x, u[:7], *amounts, mirrored=channels > 1, mode="nearest")
        return (x.round().to(maps.dtype) - 1).view(maps.shape)

    def _colors(self, x: Tensor, u: Tensor) -> Tensor:
        f = 1 + self.color * u[:, :, None, None, None]
        x = x * f[0]
        x = x.mean((1, 2, 3), keepdim=True).lerp(x, f[1])
        return x.mean(1, keepdim=True).lerp(x, f[2]).clamp(0, 1)


def check_augment(where: str, options: Mapping[str, object]) -> None:
    """Refuse an augmentation that is out of range; `where` is the section that names it.

    Raises:
        InputError: for the first such option.
    """
    for name, value in options.items():
        if name == "flip":
            right = isinstance(value, (bool, np.bool_))
            require(right, f"{where}.flip must be true or false, not {value!r:.60}")
            continue
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        require(
            number and 0 <= value <= MOST[name],  # type: ignore[operator]
            f"{where}.{name} must be a number from 0 to {MOST[name]}, not {value!r}",
        )


def _of_channels(given: Sequence[float] | None, name: str) -> Sequence[float] | None:
    """Numbers of each channel, those of arrays and tensors as a list.

    Raises:
        InputError: for anything else.
    """
    if isinstance(given, (Tensor, np.ndarray)):
        given = given.tolist()
    if given is not None and not isinstance(given, (list, tuple)):
        raise InputError(
            f"data.{name} must be a list of a number for each channel, such as "
            f"[0.5], not {given!r:.60}"
        )
    for value in given or ():
        real_number(value, f"data.{name} of each channel")
    return given
