"""`Corruption`: images as they come from a bad camera, of support, queries and pool."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graphfsl.core.arguments import whole_number
from graphfsl.core.episode import Episode, Target
from graphfsl.core.learner import Learner
from graphfsl.data.streams import CORRUPTION, keys_of, uniform
from graphfsl.data.transforms import Transform
from graphfsl.functional.corruptions import CORRUPTIONS, LEVELS, corrupted, uniforms_of
from graphfsl.io.errors import require, unknown
from graphfsl.loops.image_change import normalised, pixels

__all__ = ["PARTS", "Corruption"]

PARTS = ("all", "query", "support")


@dataclass(frozen=True)
class Corruption:
    """One of the common corruptions (Hendrycks, Dietterich 2019).

    The same episode is corrupted in the same way however many are answered at once.

    Args:
        name: such as "gaussian_noise".
        level: 1, the mildest, to 5.
        on: "all" images of an episode, or those of "query" or "support" alone: a labeled photograph
            from a shop and queries from a bad camera, or the other way round.
        seed: of the noise.

    Raises:
        InputError: for a name or a level that there is not.
    """

    name: str
    level: int = 3
    on: str = "all"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.name not in CORRUPTIONS:
            raise unknown("corruption", self.name, list(CORRUPTIONS))
        level = whole_number(self.level, "the level of a corruption")
        require(
            1 <= level <= LEVELS, f"a corruption has the levels 1 to {LEVELS}, not {self.level}"
        )
        if self.on not in PARTS:
            raise unknown("part of an episode to corrupt", self.on, PARTS)

    @property
    def source(self) -> None:
        """It asks no learner."""
        return None

    def __str__(self) -> str:
        """In words: "fog, level 3, on all images"."""
        return f"{self.name.replace('_', ' ')}, level {self.level}, on {self.on} images"

    def changed(
        self,
        learner: Learner,
        episode: Episode,
        target: Any,
        transform: Transform,
        numbers: Sequence[int] | np.ndarray,
    ) -> Episode:
        """The episode with corrupted images, see `ImageChange`.

        Raises:
            InputError: for features, which have no pixels, and for tasks that ask for places in an
                image or for values, which would have to move with the pixels.
        """
        x = episode.x
        require(
            isinstance(target, Target),
            "a corruption leaves the right answer as it is, which only the class of an image does; "
            "evaluate a task of classes",
        )
        require(
            x.ndim == 5,
            "a corruption changes pixels, but these samples are features of shape "
            f"{tuple(x.shape[2:])}; evaluate a run on images",
        )
        batch, nodes, *shape = x.shape
        count = uniforms_of(self.name, (shape[0], shape[1], shape[2]))
        keys = keys_of(f"corruption/{self.name}", self.seed, np.asarray(numbers))
        u = torch.from_numpy(uniform(keys, CORRUPTION, nodes, max(count, 1)))
        images = pixels(x, transform).flatten(0, 1)
        bad = corrupted(images, self.name, self.level, u.to(x).view(batch * nodes, -1))
        return episode.with_tensors({"x": self._where_asked(episode, normalised(bad, transform))})

    def _where_asked(self, episode: Episode, bad: Tensor) -> Tensor:
        """The corrupted images (B * n, C, H, W) in the part that is asked for: (B, n, C, H, W)."""
        bad = bad.view_as(episode.x)
        if self.on == "all":
            return bad
        part = episode.query if self.on == "query" else episode.support
        x = episode.x.clone()
        x[:, part] = bad[:, part]
        return x
