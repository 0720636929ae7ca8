"""What may be done to the images of an episode before a learner answers it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from graphfsl.core.episode import Episode
from graphfsl.core.learner import Learner
from graphfsl.data.transforms import Transform

__all__ = ["ImageChange", "normalised", "pixels"]


class ImageChange(Protocol):
    """An attack or a corruption; as text, what a results row says of it."""

    @property
    def source(self) -> Learner | None:
        """A further learner that it asks, if any."""

    def changed(
        self,
        learner: Learner,
        episode: Episode,
        target: Any,
        transform: Transform,
        numbers: Sequence[int] | np.ndarray,
    ) -> Episode:
        """The episode with changed images.

        Args:
            learner: what will answer.
            episode: of images (B, n, C, H, W), normalised by `transform`.
            target: of its queries.
            transform: the normalisation.
            numbers: (B,) of the episodes, which random numbers are a function of.
        """


def pixels(x: Tensor, transform: Transform) -> Tensor:
    """Normalised images -> pixels in [0, 1]."""
    if transform.mean is None or transform.std is None:
        return x
    mean, std = x.new_tensor(transform.mean), x.new_tensor(transform.std)
    return (x * std[:, None, None] + mean[:, None, None]).clamp(0, 1)


def normalised(x: Tensor, transform: Transform) -> Tensor:
    """Pixels in [0, 1] -> normalised images."""
    if transform.mean is None or transform.std is None:
        return x
    mean, std = x.new_tensor(transform.mean), x.new_tensor(transform.std)
    return (x - mean[:, None, None]) / std[:, None, None]
