"""What parts that learn from base classes share: tensors of any number of them, and a check."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from graphfsl.functional.base_episodes import smallest_class
from graphfsl.io.errors import InputError, require


class BaseMemory:
    """For a part that keeps tensors of base classes, whose number no option tells.

    `remembers` names the buffers whose first axis is that of the base classes; they are empty
    until `fit_base`, and take the size of stored ones when weights are loaded.
    """

    remembers: tuple[str, ...] = ()

    def make_room(self, stored: Mapping[str, Tensor]) -> None:
        """Give the remembered buffers as many rows as the stored ones of their names have."""
        for name in self.remembers:
            own: Tensor = getattr(self, name)
            if name in stored and stored[name].shape[1:] == own.shape[1:]:
                setattr(self, name, own.new_empty(stored[name].shape))


def check_base(features: Tensor, labels: Tensor, dim: int, classes: int, who: str) -> None:
    """Refuse base features that a part cannot learn from.

    Args:
        features: (N, d).
        labels: (N,).
        dim: d as the part was built for.
        classes: the fewest base classes that it needs.
        who: the part's name, for the message.

    Raises:
        InputError: for another length, a value that is not finite, or too few classes.
    """
    require(
        features.shape[1] == dim,
        f"{who} was built for features of length {dim}, but base features have {features.shape[1]}",
    )
    wrong = int((~features.isfinite().all(1)).sum())
    require(
        not wrong,
        f"{wrong} of {len(features)} base features hold NaN or infinity, from which {who} "
        "cannot learn; check the encoder's weights",
    )
    check_count(labels, classes, who)


def check_count(labels: Tensor, classes: int, who: str) -> None:
    """Refuse labels (N,) of fewer base classes than a part needs.

    Raises:
        InputError: names the part, as `who` says it.
    """
    found = len(labels.unique())
    require(
        found >= classes,
        f"{who} needs {classes} base classes or more, but there are {found}",
    )


def check_others(labels: Tensor, others: int, who: str) -> None:
    """Refuse labels (N,) of a class without so many samples beside each of its own.

    Raises:
        InputError: names the part, as `who` says it.
    """
    found = smallest_class(labels)
    if found > others:
        return
    remedy = f"leave out smaller classes by data.min_samples={others + 1}"
    require(
        found > 1,
        f"{who} learns from samples beside others of their class, but a base class has 1 sample; "
        f"{remedy}",
    )
    raise InputError(
        f"{who}.others {others} needs {others + 1} samples of each base class, but the smallest "
        f"has {found}; lower it to {found - 1}, or {remedy}"
    )


def check_spread(labels: Tensor, who: str) -> None:
    """Refuse labels (N,) of classes of one sample each, which show no spread.

    Raises:
        InputError: names the part, as `who` says it.
    """
    require(
        bool((torch.bincount(labels) > 1).any()),
        f"{who} learns how the samples of a class differ, but each base class has 1 sample",
    )
