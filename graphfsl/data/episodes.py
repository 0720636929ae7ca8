"""`Episodes`: from episode numbers to batches of (Episode, Target) on a device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from graphfsl.data.dataset import Split
from graphfsl.data.sampler import Draw, Sampler, Setting, keys_of
from graphfsl.data.transforms import Transform
from graphfsl.episode import Episode, Target


class Episodes:
    """The endless, numbered episodes of one split in one setting.

    setting: a `Setting`, or its fields as keywords. transform: raw samples -> floats; None takes bytes to [0, 1].
    device: where batches are put; None leaves them where the split lives.
    """

    def __init__(
        self,
        split: Split,
        setting: Setting | None = None,
        seed: int = 0,
        transform: Transform | None = None,
        device: torch.device | str | None = None,
        **options: object,
    ) -> None:
        self.split = split
        self.setting = setting if setting is not None else Setting(**options)  # type: ignore[arg-type]
        self.seed, self.transform = seed, transform or Transform()
        self.device = torch.device(device) if device is not None else split.x.device
        self.sampler = Sampler(split, self.setting, seed)

    def batch(self, i: Sequence[int] | np.ndarray) -> tuple[Episode, Target]:
        """The episodes with the numbers i, as one batch of B = len(i) tasks."""
        i = np.asarray(i)
        draw = self.sampler.draw(i)
        # Augmentation is keyed by the first episode of the batch: a resumed run repeats it exactly.
        key = int(keys_of(f"{self.split.name}/augment", self.seed, i[:1])[0] >> np.uint64(1))
        return self.assemble(draw, key)

    def assemble(self, draw: Draw, key: int = 0) -> tuple[Episode, Target]:
        """The batch that a draw describes (also one that was read from a file)."""
        padded = self.setting.max_shot is not None
        ids, label = torch.from_numpy(draw.ids), torch.from_numpy(draw.label)
        home = self.split.x.device
        x = self.split.gather(ids.clamp_min(0).to(home)).to(self.device, non_blocking=True)
        x = self.transform(x, key)
        mask = (ids >= 0).to(self.device) if padded else None
        if mask is not None:
            x = x * mask.view(*mask.shape, *(1,) * (x.ndim - 2))
        k, q = draw.n_support, draw.n_query
        columns = torch.arange(self.setting.way)
        w = torch.zeros(*ids.shape, self.setting.way)
        w[:, :k] = (label[:, :k, None] == columns).float()
        target = Target(label[:, k : k + q], label[:, k + q :], ids, torch.from_numpy(draw.classes))
        episode = Episode(x, w.to(self.device, x.dtype), k, q, mask, padded=padded)  # type: ignore[arg-type]
        return episode, target.to(self.device)

    def batches(self, episodes: int, batch: int, start: int = 0) -> Iterator[tuple[Episode, Target]]:
        """Episodes start .. start + episodes - 1, `batch` at a time."""
        for first in range(start, start + episodes, batch):
            yield self.batch(np.arange(first, min(first + batch, start + episodes)))
