"""Simulated results of a grid of cells."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from graphfsl.functional.comparison import Contrast
from graphfsl.functional.effects import Comparison, MainEffect

QUERIES = 75


def generator(seed: int = 0) -> torch.Generator:
    """A stream of random numbers."""
    return torch.Generator().manual_seed(seed)


def difficulty(*shape: int, random: torch.Generator) -> Tensor:
    """Chance of a right answer, episode by episode: 60% with a standard deviation of 10 points."""
    return (0.6 + 0.1 * torch.randn(shape, generator=random)).clamp(0.05, 0.95)


def answers(chance: Tensor, random: torch.Generator) -> Tensor:
    """Accuracies over 75 queries, float32 as an evaluation gives them."""
    return torch.binomial(torch.full_like(chance, QUERIES), chance, generator=random) / QUERIES


def pair(*shape: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Accuracies of two methods that are equally good, on the same episodes."""
    random = generator(seed)
    chance = difficulty(*shape, random=random)
    return answers(chance, random), answers(chance, random)


AXES: dict[str, list[Hashable]] = {
    "head": ["proto", "lp"],
    "distance": ["l2", "cos", "dot"],
    "shot": [1, 5],
}
GRID = [dict(zip(AXES, levels, strict=True)) for levels in itertools.product(*AXES.values())]


def simulated(
    cells: Sequence[dict[str, Hashable]], n: int, seed: int = 0
) -> tuple[Tensor, list[Hashable]]:
    """Cells of one shot share their episodes; lp is better with one shot only, cos is worse."""
    random = generator(seed)
    shared = {shot: difficulty(n, random=random) for shot in (1, 5)}
    gain = [
        0.05 * (c["head"] == "lp" and c["shot"] == 1)
        - 0.02 * (c["distance"] == "cos")
        + 0.1 * (c["shot"] == 5)
        for c in cells
    ]
    chance = [(shared[c["shot"]] + g).clamp(0, 1) for c, g in zip(cells, gain, strict=True)]
    return answers(torch.stack(chance), random).double(), [c["shot"] for c in cells]


def effect(*differences: tuple[str, str, float, float, float], **changes: object) -> MainEffect:
    """(first, second, difference, half-width, p) of each comparison, in points."""
    values = {"matched": 4, "episodes": 600, "paired": True} | changes
    incomparable = values.pop("incomparable", ())
    comparisons = [
        Comparison(u, v, Contrast(difference=d / 100, half=h / 100, t=2 * d / h, p=p, **values))  # type: ignore[arg-type]
        for u, v, d, h, p in differences
    ]
    return MainEffect("distance", tuple(comparisons), {}, incomparable)  # type: ignore[arg-type]
