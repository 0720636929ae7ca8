"""Pools of base classes, some of whose classes are foreign to their support."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from graphfsl.functional.base_episodes import shuffled_by_class, smallest_class
from graphfsl.io.errors import require


class BasePools(NamedTuple):
    """Episodes of N known classes, all of one size; a class's samples are in one part only.

    Args:
        support: (B, N K) the samples of the support, class by class.
        query: (B, N Q) those of the queries, class by class.
        pool: (B, U) those of the pool.
        truth: (B, U) the column of each pool node's class, -1 for a foreign one.
        real: (B, U) false where a class had no further sample.
    """

    support: Int[Tensor, "B s"]
    query: Int[Tensor, "B q"]
    pool: Int[Tensor, "B u"]
    truth: Int[Tensor, "B u"]
    real: Bool[Tensor, "B u"]


def base_pools(
    labels: Int[Tensor, " m"],
    way: int,
    shot: int,
    query: int,
    size: int,
    shares: Float[Tensor, "B c"],
) -> BasePools:
    """Draw episodes whose pool holds given shares of known and of foreign classes.

    Args:
        labels: (m,) the class of each sample, 0 or more; numbers may be missing between them.
        way: N, the known classes, which have support and queries.
        shot: K, support samples of each.
        query: Q, queries of each.
        size: U, nodes of a pool.
        shares: (B, N + f) of the classes in each pool, the known ones first; a row need not sum to
            one.

    Raises:
        InputError: where there are fewer classes than shares, or a class has no more samples than
            support and queries take.
    """
    count = torch.bincount(labels)
    classes = int((count > 0).sum())
    columns, device = shares.shape[1], labels.device
    require(
        columns <= classes and shot + query < smallest_class(labels),
        f"pools of {columns} classes beside {shot + query} other samples of each cannot be drawn "
        f"from {classes} classes, the smallest of which has {smallest_class(labels)} samples",
    )
    by_class = shuffled_by_class(labels)
    first = count.cumsum(0) - count  # class c is by_class[first[c] : first[c] + count[c]]
    chance = torch.rand(len(shares), len(count), device=device).masked_fill(count == 0, -1)
    chosen = chance.topk(columns).indices
    start = torch.randint(len(labels), chosen.shape, device=device)

    def sample(column: Tensor, place: Tensor) -> Tensor:
        """The samples at these places of the classes in these columns, both (B, k)."""
        of_class = chosen.gather(1, column)
        # From a random place on, and round to the beginning of the class.
        return by_class[first[of_class] + (start.gather(1, column) + place) % count[of_class]]

    def first_of_each(begin: int, each: int) -> Tensor:
        column = torch.arange(way, device=device).repeat_interleave(each)
        place = torch.arange(begin, begin + each, device=device).repeat(way)
        return sample(column.expand(len(shares), -1), place.expand(len(shares), -1))

    column = columns_of(shares, size)
    place = shot + query + order_within(column, columns)
    real = place < count[chosen.gather(1, column)]
    truth = column.where(column < way, -1)
    support, queries = first_of_each(0, shot), first_of_each(shot, query)
    return BasePools(support, queries, sample(column, place), truth, real)


def columns_of(shares: Float[Tensor, "B c"], size: int) -> Int[Tensor, "B u"]:
    """Give each of `size` nodes a column, so that the columns get their shares, to a node.

    Args:
        shares: (B, c), not negative, some of them above zero.
        size: u, how many nodes.

    Returns:
        (B, u) in order of the columns.
    """
    upto = (shares / shares.sum(1, keepdim=True)).cumsum(1)
    middle = (torch.arange(size, device=shares.device) + 0.5) / size
    column = torch.searchsorted(upto, middle.to(upto).expand(len(upto), -1).contiguous())
    last = shares.shape[1] - 1  # the sum of shares may be rounded to less than one
    return column.clamp_max(last)


def order_within(column: Int[Tensor, "B u"], columns: int) -> Int[Tensor, "B u"]:
    """How many nodes of the same column stand before each node.

    Args:
        column: (B, u) of each node, in [0, columns).
        columns: how many there are.

    Returns:
        (B, u).
    """
    own = F.one_hot(column, columns)
    before = own.cumsum(1) - own
    return before.gather(-1, column.unsqueeze(-1)).squeeze(-1)
