"""Means of other samples of a class: what an episode shows of a class beside a new sample."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from graphfsl.functional.base_episodes import shuffled_by_class
from graphfsl.io.errors import require


def mean_of_others(
    features: Float[Tensor, "n d"],
    labels: Int[Tensor, " n"],
    chosen: Int[Tensor, " b"],
    shots: int,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "b d"]:
    """For each chosen sample, the mean of `shots` different samples of its class, never itself.

    Args:
        features: (n, d).
        labels: (n,) the class of each, 0 or more.
        chosen: (b,) which samples.
        shots: how many others.
        generator: of the random numbers, on the labels' device; None takes torch's own.

    Returns:
        (b, d).

    Raises:
        InputError: where a class has fewer than `shots + 1` samples.
    """
    size = torch.bincount(labels)
    smallest = int(size[size > 0].min())
    require(
        smallest > shots,
        f"{shots} other samples of each class are needed, but one class has {smallest} samples",
    )
    by_class = shuffled_by_class(labels, generator)
    place = torch.empty_like(by_class)
    place[by_class] = torch.arange(len(by_class), device=labels.device)

    first, own = (size.cumsum(0) - size)[labels[chosen]], size[labels[chosen]]
    # the class as a ring: from a random one of the others on, past the sample itself
    start = torch.randint(len(labels), chosen.shape, generator=generator, device=labels.device)
    ahead = (start[:, None] + torch.arange(shots, device=labels.device)) % (own[:, None] - 1)
    others = ((place[chosen] - first)[:, None] + 1 + ahead) % own[:, None]
    return features[by_class[first[:, None] + others]].mean(1)
