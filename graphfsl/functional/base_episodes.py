"""Episodes of base classes, for methods that calibrate or train on what they know already."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from graphfsl.io.errors import require


def base_episodes(
    labels: Int[Tensor, " m"],
    way: int,
    shot: int,
    unlabeled: int,
    count: int,
    generator: torch.Generator | None = None,
) -> tuple[Int[Tensor, "count n"], Int[Tensor, " n"]]:
    """Draw episodes of support and pool, without queries, from samples whose classes are known.

    The classes of an episode differ, and so do its samples: the support is never in the pool.

    Args:
        labels: (m,) the class of each sample, 0 or more; numbers may be missing between them.
        way: N, classes of an episode.
        shot: K, support samples of each class.
        unlabeled: U, pool samples of each class.
        count: how many episodes.
        generator: of the random numbers, on the labels' device; None takes torch's own.

    Returns:
        ids (count, N K + N U): which sample each node shows, the support first, class by class;
        and truth (N K + N U,): the column of each node's class, the same in all episodes.

    Raises:
        InputError: where there are fewer than `way` classes, or one of them has fewer than
            `shot + unlabeled` samples.
    """
    device = labels.device
    size = torch.bincount(labels)
    each = shot + unlabeled
    classes, smallest = int((size > 0).sum()), int(size[size > 0].min())
    require(
        way <= classes and each <= smallest,
        f"episodes of {way} classes with {each} samples each cannot be drawn from {classes} "
        f"classes, the smallest of which has {smallest} samples",
    )

    by_class = shuffled_by_class(labels, generator)
    first = size.cumsum(0) - size  # class c is by_class[first[c] : first[c] + size[c]]

    chance = torch.rand(count, len(size), generator=generator, device=device)
    chosen = chance.masked_fill(size == 0, -1).topk(way).indices

    # From a random place on, and round to the beginning of the class.
    start = torch.randint(len(labels), (count, way, 1), generator=generator, device=device)
    place = (start + torch.arange(each, device=device)) % size[chosen].unsqueeze(-1)
    ids = by_class[first[chosen].unsqueeze(-1) + place]
    support, pool = ids[..., :shot].flatten(1), ids[..., shot:].flatten(1)

    column = torch.arange(way, device=device)
    truth = [column.repeat_interleave(shot), column.repeat_interleave(unlabeled)]
    return torch.cat([support, pool], 1), torch.cat(truth)


def shuffled_by_class(
    labels: Int[Tensor, " m"], generator: torch.Generator | None = None
) -> Int[Tensor, " m"]:
    """All samples, class after class, those of a class in random order.

    Args:
        labels: (m,) the class of each sample, 0 or more.
        generator: of the random numbers, on the labels' device; None takes torch's own.

    Returns:
        (m,) the numbers of the samples.
    """
    shuffled = torch.randperm(len(labels), generator=generator, device=labels.device)
    return shuffled[labels[shuffled].argsort(stable=True)]


def smallest_class(labels: Int[Tensor, " m"]) -> int:
    """How many samples the smallest class has.

    Args:
        labels: (m,) the class of each sample, 0 or more; numbers may be missing between them.

    Returns:
        At least 1.
    """
    size = torch.bincount(labels)
    return int(size[size > 0].min())
