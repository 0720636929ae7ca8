"""`Episodes`: from episode numbers to batches of (Episode, Target) on a device."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graphfsl.core.arguments import A_SPLIT, A_TRANSFORM, as_device, check_kind, whole_number
from graphfsl.core.display import block
from graphfsl.core.episode import Episode
from graphfsl.core.task import Draw, Task
from graphfsl.data.episode_files import Listed
from graphfsl.data.split import Split
from graphfsl.data.streams import AUGMENT, episode_numbers, keys_of, uniform
from graphfsl.data.tasks import as_task
from graphfsl.data.transforms import DRAWS, Transform

DRAW_AHEAD = 256  # episodes drawn at once: the cost of a draw is mostly per call


@dataclass(frozen=True)
class Normalised:
    """What a batch's samples become (`graphfsl.core.task.Normalise`).

    Args:
        transform: of images.
        u: (B, n, DRAWS) uniforms that augment each image; None augments none.
        device: of the batch.
        channels: of the images.
    """

    transform: Transform
    u: Tensor | None
    device: torch.device
    channels: int

    @property
    def augments(self) -> bool:
        """Whether each sample is augmented."""
        return self.u is not None

    def __call__(self, samples: Tensor) -> Tensor:
        """Stored samples (B, n, *S) -> what the learner sees."""
        return self.transform(samples.to(self.device, non_blocking=True), self.u)

    def views(self, samples: Tensor, u: Tensor, **augment: Any) -> Tensor:
        """Images (B, n, *S) by an augmentation in place of the run's; u (B, n, DRAWS) decides."""
        view = Transform(self.transform.mean, self.transform.std, **augment)
        return view(samples.to(self.device, non_blocking=True), u.to(self.device, torch.float32))

    def moved(self, maps: Tensor) -> Tensor:
        """Label maps (B, n, H, W), moved as their images are."""
        return self.transform.moved(maps.to(self.device), self.u, self.channels)


class Episodes:
    """The endless, numbered episodes of one task on one split.

    Args:
        split: of images or features.
        setting: a task, such as a `Setting`, or its fields as a mapping or as keywords.
        seed: of the episodes.
        transform: raw samples -> floats; None takes bytes to [0, 1].
        device: where batches are put; None leaves them where the split lives.
        listed: take these episodes instead of drawing; setting and seed are theirs.
        options: fields of the task, where `setting` is not given.

    Raises:
        InputError: where the split is too small.
    """

    def __init__(
        self,
        split: Split,
        setting: Task | Mapping[str, object] | None = None,
        seed: int = 0,
        transform: Transform | None = None,
        device: torch.device | str | None = None,
        listed: Listed | None = None,
        **options: object,
    ) -> None:
        check_kind(split, Split, "the split", A_SPLIT)
        check_kind(transform, (Transform, type(None)), "the transform", A_TRANSFORM)
        self.split = split
        if listed is not None:
            setting, seed, options = listed.task, listed.seed, {}
        self.task = as_task(setting, options)
        self.seed, self.transform = whole_number(seed, "the seed"), transform or Transform()
        self.device = as_device(device) if device is not None else split.x.device
        self.sampler = self.task.draws(split, self.seed) if listed is None else listed

    def __repr__(self) -> str:
        facts = {
            "episodes": str(self.task),
            "seed": self.seed,
            "transform": self.transform,
            "device": self.device,
        }
        return block(
            f"{'Listed e' if isinstance(self.sampler, Listed) else 'E'}pisodes of "
            f"{self.split.name}",
            facts,
        )

    def batch(self, i: Sequence[int] | np.ndarray) -> tuple[Episode, Any]:
        """The episodes with the numbers i, as one batch of B = len(i) tasks."""
        numbers = episode_numbers(i)
        draw = self.sampler.draw(numbers)
        return self.assemble(draw, self._uniforms(numbers, draw))

    def assemble(
        self, draw: Draw, u: Tensor | None = None, raw: Tensor | None = None
    ) -> tuple[Episode, Any]:
        """The batch that a draw describes, also one that was read from a file.

        Args:
            draw: which samples make the episodes.
            u: (B, n, DRAWS) uniforms that augment each image; None augments none.
            raw: its samples, where they were gathered before.
        """
        samples = self.gather(draw) if raw is None else raw

        uniforms = None if u is None else u.to(self.device, torch.float32)
        normalise = Normalised(self.transform, uniforms, self.device, self.split.shape[0])
        return self.task.assemble(draw, self.split, samples, normalise, self.device)

    def gather(self, draw: Draw) -> Tensor:
        """The stored samples (B, n, *S) of a draw; any sample stands for padding."""
        return self.split.gather(torch.from_numpy(draw.ids).clamp_min(0).to(self.split.x.device))

    def batches(self, episodes: int | range, batch: int) -> Iterator[tuple[Episode, Any]]:
        """Episodes 0 .. episodes - 1, or a range of them, `batch` at a time."""
        if not isinstance(episodes, range):
            episodes = range(
                whole_number(episodes, "the number of episodes, where it is no range,", 0)
            )
        draws = self._draws(episodes, whole_number(batch, "the number of episodes in a batch", 1))
        if self.split.stored is None:
            yield from (self.assemble(draw, u) for draw, u in draws)
            return
        # the disk works while a batch is being used
        with ThreadPoolExecutor(1, "graphfsl-ahead") as reader:
            ahead = next(draws, None)
            raw = reader.submit(self.gather, ahead[0]) if ahead else None
            while ahead is not None and raw is not None:
                (draw, u), samples = ahead, raw.result()
                ahead = next(draws, None)
                raw = reader.submit(self.gather, ahead[0]) if ahead else None
                yield self.assemble(draw, u, samples)

    def _draws(self, every: range, batch: int) -> Iterator[tuple[Draw, Tensor | None]]:
        """Batches of the numbered episodes, not yet gathered, with what augments them."""
        ahead = max(batch, DRAW_AHEAD // batch * batch)
        for numbers in (np.array(every[k : k + ahead]) for k in range(0, len(every), ahead)):
            draw = self.sampler.draw(numbers)
            for k in range(0, len(numbers), batch):
                part = draw.rows(slice(k, k + batch))
                yield part, self._uniforms(numbers[k : k + batch], part)

    def _uniforms(self, numbers: np.ndarray, draw: Draw) -> Tensor | None:
        """(B, n, DRAWS) what decides the augmentation of each image; None without augmentation."""
        if not self.transform.augments:
            return None
        keys = keys_of(self.split.name, self.seed, numbers)
        return torch.from_numpy(uniform(keys, AUGMENT, draw.ids.shape[1], DRAWS))
