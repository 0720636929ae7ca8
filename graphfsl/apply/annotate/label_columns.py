"""What each label gives to every sample: kept, so that only new labels are propagated."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from graphfsl.functional.sparse_propagation import propagate_sparse

BLOCK = 64  # columns that are kept together
AT_ONCE = 16  # columns that are solved together
TOLERANCE = 1e-5  # of a column's residual: scores are told apart by more


class LabelColumns:
    """Columns of G = (I - alpha S)^-1 of the labelled samples, as `label_pool` takes them.

    Args:
        s: (N, N) sparse, see `PoolGraph`.
        node: (n,) the node of each sample.
        alpha: how far labels go.
    """

    def __init__(self, s: Tensor, node: Tensor, alpha: float) -> None:
        self._s, self._node, self._alpha = s, node, alpha
        self.samples: list[int] = []  # in the order of their columns
        self._place: dict[int, int] = {}
        self._blocks: list[Tensor] = []

    def hold(self, samples: Iterable[int]) -> int:
        """Hold the columns of these samples and of no others.

        Returns:
            How many were solved.
        """
        wanted = set(samples)
        for sample in [s for s in self.samples if s not in wanted]:
            self._drop(sample)
        new = sorted(wanted - self._place.keys())
        for first in range(0, len(new), AT_ONCE):
            some = new[first : first + AT_ONCE]
            for sample, column in zip(some, self._solved(some).unbind(1), strict=True):
                self._append(sample, column)
        return len(new)

    def blocks(self) -> list[Tensor]:
        """The columns (N, ·), in the order of `samples`."""
        full, rest = divmod(len(self.samples), BLOCK)
        parts = self._blocks[:full]
        return [*parts, self._blocks[full][:, :rest]] if rest else parts

    def _solved(self, samples: list[int]) -> Tensor:
        source = torch.zeros(len(self._s), len(samples))
        source[self._node[torch.tensor(samples)], torch.arange(len(samples))] = 1
        return propagate_sparse(self._s, source, self._alpha, TOLERANCE).clamp_min_(0)

    def _append(self, sample: int, column: Tensor) -> None:
        block, place = divmod(len(self.samples), BLOCK)
        if block == len(self._blocks):
            self._blocks.append(torch.zeros(len(self._s), BLOCK))
        self._blocks[block][:, place] = column
        self._place[sample] = len(self.samples)
        self.samples.append(sample)

    def _drop(self, sample: int) -> None:
        """The last column takes its place."""
        place = self._place.pop(sample)
        last = self.samples.pop()
        if last == sample:
            return
        (to, at), (of, where) = divmod(place, BLOCK), divmod(len(self.samples), BLOCK)
        self._blocks[to][:, at] = self._blocks[of][:, where]
        self.samples[place] = last
        self._place[last] = place
