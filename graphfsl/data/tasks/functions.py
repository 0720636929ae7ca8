"""Regression: which value does a function have at each query point, of which a few are known?

The functions are those of a family, such as the data set `sinusoid`, or images: a pixel's place is
a point, and its colour is the value there. Episodes are a pure function of (data set, split,
options, seed, i), independent of batch, worker and device.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from graphfsl.core import task
from graphfsl.core.arguments import whole_number
from graphfsl.core.episode import Episode, ValueTarget
from graphfsl.core.task import Demands, Draws, Metric, Normalise, Task
from graphfsl.data.families import Family
from graphfsl.data.split import Split
from graphfsl.data.streams import (
    FUNCTIONS,
    POINTS,
    SHOTS,
    choose,
    episode_numbers,
    keys_of,
    uniform,
)
from graphfsl.io.errors import require, unknown

__all__ = ["Functions"]

QUERY_POINTS = ("random", "grid")


@dataclass(frozen=True)
class Draw(task.Draw):
    """Which functions make B episodes, and at which points.

    Args:
        ids: (B, 1) the image that is the function; 0 where a family has it.
        parameters: (B, p) what tells a family's function from the others; of images there is none.
        points: (B, n, d) the support's points, and behind them those of the queries.
        known: (B,) how many of the support's points are known, the first ones; None for all.
    """

    parameters: np.ndarray
    points: np.ndarray
    known: np.ndarray | None = None


@dataclass(frozen=True)
class Functions(Task):
    """What an episode of regression looks like.

    Args:
        shot: points whose value is known.
        max_shot: None for `shot` known points in every episode; else each episode draws its own
            number of them from shot..max_shot, as neural processes are trained.
        query: points that are asked for.
        query_points: "random" points, of an image none that is known; or "grid" for `query` points
            that are spread evenly over the domain, the same ones in every episode, known or not. A
            grid of d dimensions has as many points along each axis, so that `query` must be a d-th
            power.
    """

    nodes_are_samples: ClassVar = False
    unpublished: ClassVar = ("query", "query_points")
    columns: ClassVar = ("shot", "max_shot", "query", "query_points")
    always_shown: ClassVar = ("shot", "query")
    shared: ClassVar = {"query": " query points"}
    draw_type: ClassVar = Draw
    curves: ClassVar = {"shot": ("known points", "known points of a function")}

    shot: int = 10
    query: int = 10
    query_points: str = "random"
    max_shot: int | None = None

    def __post_init__(self) -> None:
        for name in ("shot", "query"):
            value = whole_number(getattr(self, name), f"episode.{name}", 1)
            object.__setattr__(self, name, value)
        if self.max_shot is not None:
            most = whole_number(self.max_shot, "episode.max_shot", self.shot)
            object.__setattr__(self, "max_shot", most)
        if self.query_points not in QUERY_POINTS:
            raise unknown("episode.query_points", self.query_points, QUERY_POINTS)

    def __str__(self) -> str:
        """In words: "10-shot regression, 100 queries on a grid"."""
        where = "on a grid" if self.query_points == "grid" else "at random"
        return f"{self.title}, {self.query} queries {where}"

    @property
    def title(self) -> str:
        """Its name for people: "10-shot regression", or "3- to 20-shot regression"."""
        if self.max_shot is None:
            return f"{self.shot}-shot regression"
        return f"{self.shot}- to {self.max_shot}-shot regression"

    @property
    def size(self) -> tuple[int, ...]:
        """How many points are known, at least and at most."""
        return self.shot, self.most_shots

    @property
    def most_shots(self) -> int:
        """The known points of the episode that has most."""
        return self.max_shot or self.shot

    @property
    def demands(self) -> Demands:
        """What it asks of a learner and of the machine."""
        return Demands(
            way=1,
            nodes=self.most_shots + self.query,
            support=self.most_shots,
            queries=self.query,
            answers="values",
        )

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """The mean squared error, in the squared unit of the values.

        Of a learner that tells how sure it is also the log-likelihood of a query, in nats.
        """
        return {
            "MSE": Metric(_squared_error, unit="", more_is_better=False),
            "log-likelihood": Metric(_log_likelihood, unit="nats", needs_scale=True),
        }

    def sample_shape(self, split: Split) -> tuple[int, ...]:
        """The shape (d,) of a point."""
        return (2,) if split.functions is None else (split.functions.dimensions,)

    def draws(self, split: Split, seed: int) -> Draws:
        """What draws functions and points. Raises InputError where the split has none."""
        if split.functions is not None:
            return _OfFamily(split.name, split.functions, self, seed)
        require(
            split.x.dtype == torch.uint8,
            f"{split.name} holds neither functions nor images; set data.name to a set that does, "
            "such as sinusoid",
        )
        return _OfImages(split, self, seed)

    def assemble(
        self, draw: Draw, split: Split, raw: Tensor, normalise: Normalise, device: torch.device
    ) -> tuple[Episode, ValueTarget]:
        """One node a point; values of the support stand in the episode, the others in the target.

        An image is normalised and augmented as a whole before its pixels are read.
        """
        points = torch.from_numpy(draw.points)
        if split.functions is None:
            images = normalise(raw)[:, 0]
            x = points.to(device, images.dtype)
            y = _pixels(images, x)
        else:
            x = points.to(device, raw.dtype)
            found = split.functions.values(draw.parameters, draw.points)
            y = torch.from_numpy(found).to(device, raw.dtype)
        shown = self.most_shots
        w = x.new_zeros(*x.shape[:2], 1)
        w[:, :shown] = 1
        mask = torch.ones_like(w[..., 0], dtype=torch.bool)
        if draw.known is not None:
            known = torch.from_numpy(draw.known).to(device)
            beyond = torch.arange(x.shape[1], device=device) >= known.unsqueeze(1)
            beyond[:, shown:] = False
            mask = ~beyond  # (B, n)
            w = w * mask.unsqueeze(-1)
        queries = x.shape[1] - shown
        episode = Episode(x, w, shown, queries, mask, relabeled=False, values=y * w)
        return episode, ValueTarget(y[:, shown:])

    def check_draw(self, draw: Draw, split: Split) -> None:
        """ValueError where a list contradicts itself or has not what the task asks for."""
        super().check_draw(draw, split)
        known = 0 if split.functions is None else split.functions.parameters
        nodes, (dimensions,) = self.demands.nodes, self.sample_shape(split)
        if draw.ids.shape[1] != 1 or draw.ids.min() < 0 or draw.parameters.shape[1:] != (known,):
            raise ValueError("an episode without one function")
        if draw.points.shape != (len(draw.ids), nodes, dimensions):
            raise ValueError("lists of unequal length")
        if (draw.known is None) != (self.max_shot is None):
            raise ValueError("numbers of known points that were not asked for, or none")
        if draw.known is not None:
            if draw.known.shape != (len(draw.ids),):
                raise ValueError("lists of unequal length")
            if draw.known.min() < self.shot or draw.known.max() > self.most_shots:
                raise ValueError("a number of known points outside of shot..max_shot")
        if not (np.isfinite(draw.points).all() and np.isfinite(draw.parameters).all()):
            raise ValueError("a number that is not finite")
        if split.functions is None and np.abs(draw.points).max() > 1:
            raise ValueError("a point outside of its image")


class _OfFamily:
    """Functions of a family, at points anywhere in its domain."""

    def __init__(self, name: str, family: Family, asked: Functions, seed: int) -> None:
        self.name = name
        self.family = family
        self.seed = seed
        self.grid: np.ndarray | None = None  # of the queries, where they are not drawn
        self.drawn = asked.most_shots
        self.asked = asked
        if asked.query_points == "grid":
            side = _side(asked.query, family.dimensions)
            axis = np.linspace(family.low, family.high, side)
            self.grid = _grid([axis] * family.dimensions)
        else:
            self.drawn += asked.query

    def draw(self, i: np.ndarray | list[int]) -> Draw:
        """The episodes with the numbers i (B,)."""
        family = self.family
        keys = keys_of(self.name, self.seed, episode_numbers(i))
        which = uniform(keys, FUNCTIONS, 1, family.parameters)[:, 0]
        where = uniform(keys, POINTS, self.drawn, family.dimensions)
        points = family.low + (family.high - family.low) * where
        return Draw(
            ids=np.zeros((len(keys), 1), np.int64),
            parameters=family.draw(which),
            points=_with_grid(points, self.grid),
            known=_known(keys, self.asked),
        )


class _OfImages:
    """Images of a split, of whatever class, at the places of their pixels."""

    def __init__(self, split: Split, asked: Functions, seed: int) -> None:
        self.name = split.name
        self.images = len(split.x)
        self.seed = seed
        height, width = split.shape[-2:]
        self.pixels = _grid([np.linspace(-1, 1, height), np.linspace(-1, 1, width)])
        self.grid: np.ndarray | None = None  # of the queries, where they are not drawn
        self.drawn = asked.most_shots
        self.asked = asked
        if asked.query_points == "grid":
            side = _side(asked.query, 2)
            require(
                side <= min(height, width),
                f"{split.name} holds images of {height} x {width} pixels, too small for a grid of "
                f"{side} x {side}; lower episode.query",
            )
            rows = _spread(side, height)
            columns = _spread(side, width)
            self.grid = self.pixels[(rows[:, None] * width + columns).flatten()]
        else:
            self.drawn += asked.query
        require(
            self.drawn <= len(self.pixels),
            f"{split.name} holds images of {len(self.pixels)} pixels, but {self.drawn} are asked "
            "for; lower episode.shot or episode.query",
        )

    def draw(self, i: np.ndarray | list[int]) -> Draw:
        """The episodes with the numbers i (B,)."""
        keys = keys_of(self.name, self.seed, episode_numbers(i))
        which = uniform(keys, FUNCTIONS, 1, 1)[:, 0]
        where = uniform(keys, POINTS, 1, self.drawn)
        room = np.full((len(keys), 1), len(self.pixels))
        places = choose(room, where)[:, 0]
        return Draw(
            ids=(which * self.images).astype(np.int64),
            parameters=np.empty((len(keys), 0)),
            points=_with_grid(self.pixels[places], self.grid),
            known=_known(keys, self.asked),
        )


def _known(keys: np.ndarray, asked: Functions) -> np.ndarray | None:
    """How many points are known in each of the episodes (B,); None where all of the support is."""
    if asked.max_shot is None:
        return None
    u = uniform(keys, SHOTS, 1, 1)[:, 0, 0]
    more = np.floor(u * (asked.max_shot - asked.shot + 1)).astype(np.int64)
    known: np.ndarray = asked.shot + more
    return known


def _side(query: int, dimensions: int) -> int:
    """Points along each axis of a grid of `query` points."""
    side: int = round(query ** (1 / dimensions))
    require(
        side**dimensions == query,
        f"a grid has as many points along each of {dimensions} axes; set episode.query to a power "
        f"such as {max(side, 2) ** dimensions}, not {query}",
    )
    return side


def _grid(axes: list[np.ndarray]) -> np.ndarray:
    """Axes of coordinates -> all points (n, d) of their grid, the last axis fastest."""
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(axes))


def _spread(count: int, size: int) -> np.ndarray:
    """`count` of range(size), spread evenly from its first to its last."""
    return np.linspace(0, size - 1, count).round().astype(np.int64)


def _with_grid(points: np.ndarray, grid: np.ndarray | None) -> np.ndarray:
    """Points (B, n, d), and behind them those of a grid (m, d), the same in every episode."""
    if grid is None:
        return points
    return np.concatenate([points, np.broadcast_to(grid, (len(points), *grid.shape))], 1)


def _pixels(images: Tensor, x: Tensor) -> Tensor:
    """Images (B, C, H, W) and points (B, n, 2), row and column in [-1, 1] -> colours (B, n, C)."""
    height, width = images.shape[-2:]
    row = ((x[..., 0] + 1) / 2 * (height - 1)).round().long()
    column = ((x[..., 1] + 1) / 2 * (width - 1)).round().long()
    place = (row * width + column).unsqueeze(1).expand(-1, images.shape[1], -1)
    return images.flatten(2).gather(2, place).mT


def _squared_error(answers: Tensor, target: Any, episode: Episode) -> Tensor:
    found: Tensor = target.squared_errors(answers, episode)
    return found


def _log_likelihood(answers: Tensor, target: Any, episode: Episode) -> Tensor:
    found: Tensor = target.log_likelihoods(answers, episode)
    return found
